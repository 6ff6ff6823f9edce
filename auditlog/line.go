package auditlog

import (
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strconv"
	"time"
	"unicode/utf8"
)

const lineBegin = `{"time":"`

// AppendLine appends a line of the trail: when, what, what it was about, and how
// it ended. Keys are plain letters.
func AppendLine(b []byte, now time.Time, action, outcome string, attrs []slog.Attr) []byte {
	l := Begin(b, now, action)
	for i := range attrs {
		key, v := attrs[i].Key, attrs[i].Value.Resolve()
		switch v.Kind() {
		case slog.KindInt64:
			l = strconv.AppendInt(l.key(key), v.Int64(), 10)
		case slog.KindUint64:
			l = l.Uint(key, v.Uint64())
		case slog.KindBool:
			l = strconv.AppendBool(l.key(key), v.Bool())
		case slog.KindTime:
			l = append(v.Time().UTC().AppendFormat(append(l.key(key), '"'), time.RFC3339Nano), '"')
		default:
			l = l.Text(key, v.String())
		}
	}
	return l.End(outcome)
}

// Line is a line under way, behind whatever the buffer held that it was begun
// in. It writes by hand what slog's JSON handler writes, which takes longer than
// to redeem a token does; what its values are made of is not kept.
type Line []byte

// Begin begins a line at the end of b.
func Begin(b []byte, now time.Time, action string) Line {
	b = append(b, lineBegin...)
	b = appendTime(b, now)
	return appendJSON(append(b, `","action":`...), action)
}

func (l Line) key(key string) Line {
	l = append(l, ',', '"')
	l = append(l, key...)
	return append(l, '"', ':')
}

// Text adds a string.
func (l Line) Text(key, value string) Line { return appendJSON(l.key(key), value) }

// Bytes adds bytes as the string that they are.
func (l Line) Bytes(key string, value []byte) Line { return appendJSON(l.key(key), value) }

// Hex adds bytes in hex.
func (l Line) Hex(key string, value []byte) Line {
	return append(hex.AppendEncode(append(l.key(key), '"'), value), '"')
}

// Uint adds a number.
func (l Line) Uint(key string, value uint64) Line { return strconv.AppendUint(l.key(key), value, 10) }

// End closes the line.
func (l Line) End(outcome string) []byte { return append(l.Text("outcome", outcome), '}', '\n') }

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
func appendJSON[S string | []byte](b []byte, s S) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(string(s)) // of a string it does not fail
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
