package auditlog

import (
	"encoding/json"
	"log/slog"
	"strconv"
	"time"
	"unicode/utf8"
)

const lineBegin = `{"time":"`

// AppendLine appends a line of the trail: when, what, what it was about, and how
// it ended. Keys are plain letters. It does by hand what slog's JSON handler
// does, which takes longer than to redeem a token does.
func AppendLine(b []byte, now time.Time, action, outcome string, attrs []slog.Attr) []byte {
	b = append(b, lineBegin...)
	b = appendTime(b, now)
	b = appendJSON(append(b, `","action":`...), action)
	for i := range attrs {
		b = append(b, ',', '"')
		b = append(b, attrs[i].Key...)
		b = append(b, '"', ':')
		v := attrs[i].Value.Resolve()
		switch v.Kind() {
		case slog.KindString:
			b = appendJSON(b, v.String())
		case slog.KindInt64:
			b = strconv.AppendInt(b, v.Int64(), 10)
		case slog.KindUint64:
			b = strconv.AppendUint(b, v.Uint64(), 10)
		case slog.KindBool:
			b = strconv.AppendBool(b, v.Bool())
		case slog.KindTime:
			b = append(v.Time().UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
		default:
			b = appendJSON(b, v.String())
		}
	}
	b = append(b, `,"outcome":`...)
	return append(appendJSON(b, outcome), '}', '\n')
}

// appendTime appends a time as TimeLayout has it. Package time has a short way
// for RFC 3339 without a fraction alone.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	b = t.AppendFormat(b, time.RFC3339)
	b[len(b)-1] = '.' // in the place of Z
	for micros, unit := t.Nanosecond()/1000, 100_000; unit > 0; unit /= 10 {
		b = append(b, '0'+byte(micros/unit%10))
	}
	return append(b, 'Z')
}

// appendJSON appends s as a JSON string. Filter relies on a string having this
// one text.
func appendJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // of a string it does not fail
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
