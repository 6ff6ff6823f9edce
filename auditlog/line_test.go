package auditlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-ws/gatehouse/token"
)

var testStart = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// TestAppendLine proves that a line is what slog's own handler would write.
func TestAppendLine(t *testing.T) {
	var secret token.Secret
	secret[0] = 0xaa
	for _, attrs := range [][]slog.Attr{
		{},
		{slog.String("plain", "abc"), slog.String("empty", "")},
		{slog.String("quoted", `a"b\c`), slog.String("control", "a\nb\x00c\x7f"), slog.String("wide", "é漢🙂"), slog.String("html", "<a&b>")},
		{slog.String("bad", "a\xffb"), slog.String("separator", "a\u2028b")},
		{slog.Int("int", -5), slog.Uint64("uint", 1<<63), slog.Bool("bool", true), slog.Bool("off", false)},
		{slog.Time("time", testStart.Add(1234567)), slog.Any("secret", secret), slog.Duration("d", time.Second)},
	} {
		var want bytes.Buffer
		slog.New(slog.NewJSONHandler(&want, nil)).LogAttrs(t.Context(), slog.LevelInfo, "", attrs...)
		var got, expected map[string]any
		line := AppendLine(nil, testStart, "Test", "ok", attrs)
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if err := json.Unmarshal(want.Bytes(), &expected); err != nil {
			t.Fatal(err)
		}
		for _, at := range attrs {
			if at.Key == "d" { // slog writes nanoseconds, we as people write it
				expected["d"] = "1s"
			}
			if g, w := fmt.Sprint(got[at.Key]), fmt.Sprint(expected[at.Key]); g != w {
				t.Errorf("%s: %s, want %s", at.Key, g, w)
			}
		}
		if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("}\n")) {
			t.Errorf("not one line: %q", line)
		}
	}
}

// FuzzAppendLine proves that whatever a value holds, the line stays one line of
// JSON with the same value in it.
func FuzzAppendLine(f *testing.F) {
	for _, s := range []string{"", "a", `"`, `\`, "\n", "\x00", "\xff", "é", "\u2028", `","outcome":"ok`, "</script>"} {
		f.Add(s, int64(-1))
	}
	f.Fuzz(func(t *testing.T, s string, n int64) {
		line := AppendLine(nil, testStart, "Test", s, []slog.Attr{slog.String("s", s), slog.Int64("n", n)})
		var got struct {
			Action, S, Outcome string
			N                  int64
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		var all map[string]any
		if err := json.Unmarshal(line, &all); err != nil || len(all) != 5 {
			t.Fatalf("%v in %q", err, line)
		}
		delete(all, "time")
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		want := strings.ToValidUTF8(s, "\ufffd")
		if utf8.ValidString(s) && (got.S != want || got.Outcome != want) || got.N != n || got.Action != "Test" {
			t.Fatalf("%q became %+v", s, got)
		}
		if bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("not one line: %q", line)
		}
	})
}

func TestAppendTime(t *testing.T) {
	cet := time.FixedZone("CET", 3600)
	for _, at := range []time.Time{
		{}, time.Unix(0, 0), time.Unix(0, 999), time.Unix(0, 1000), time.Unix(0, 999_999_999), time.Unix(1795000000, 120_034_999),
		time.Date(2026, 12, 31, 23, 59, 59, 5_000_000, cet), time.Date(2027, 1, 1, 0, 30, 0, 0, cet), time.Unix(-1, 1),
	} {
		if got, want := string(appendTime([]byte("at "), at)), "at "+at.UTC().Format(TimeLayout); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
