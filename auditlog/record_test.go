package auditlog

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParseRecord(t *testing.T) {
	line := AppendLine(nil, testStart.Add(1500*time.Microsecond), "Redeem", "token_used", []slog.Attr{
		slog.String("caller", "node-1"), slog.String("peer", "10.0.0.1:5"), slog.String("subject", "ada \"x\"\n"), slog.Int("n", -5), slog.Bool("dry_run", true),
	})
	r, err := ParseRecord(line)
	if err != nil || r.Action != "Redeem" || r.Outcome != "token_used" || r.Caller != "node-1" || r.Peer != "10.0.0.1:5" ||
		!r.Time.Equal(testStart.Add(1500*time.Microsecond)) || !slices.Equal(r.Fields, []Field{{"subject", "ada \"x\"\n"}, {"n", "-5"}, {"dry_run", "true"}}) {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "{", "[]", "{}", `{"time":"2026-11-23T12:00:00Z","action":"A"`, `{"time":"x","action":"A"}`, `{"time":"2026-11-23T12:00:00Z","action":"A"} {}`, `{"action":"A"}`, "\x00"} {
		if r, err := ParseRecord([]byte(bad)); err == nil {
			t.Errorf("%q became %+v", bad, r)
		}
	}
}

func TestFilter(t *testing.T) {
	line := AppendLine(nil, testStart, "Redeem", "ok", []slog.Attr{slog.String("subject", `a"b`), slog.String("user_agent", `,"tenant":"acme"`)})
	for _, c := range []struct {
		name string
		f    *Filter
		want bool
	}{
		{"all", NewFilter(time.Time{}, time.Time{}), true},
		{"action", NewFilter(time.Time{}, time.Time{}, Field{"action", "Redeem"}), true},
		{"another action", NewFilter(time.Time{}, time.Time{}, Field{"action", "Redee"}), false},
		{"quoted", NewFilter(time.Time{}, time.Time{}, Field{"subject", `a"b`}, Field{"outcome", "ok"}), true},
		{"a value that looks like a field", NewFilter(time.Time{}, time.Time{}, Field{"tenant", "acme"}), false},
		{"empty values", NewFilter(time.Time{}, time.Time{}, Field{"tenant", ""}), true},
		{"since then", NewFilter(testStart, time.Time{}), true},
		{"since later", NewFilter(testStart.Add(time.Microsecond), time.Time{}), false},
		{"until then", NewFilter(time.Time{}, testStart), false},
		{"until later", NewFilter(time.Time{}, testStart.Add(time.Microsecond)), true},
	} {
		if got := c.f.Takes(line); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if NewFilter(time.Time{}, time.Time{}).Takes([]byte(`{"seal":1`)) || NewFilter(testStart, time.Time{}).Takes([]byte("torn")) {
		t.Error("what is no record is taken")
	}
}

// FuzzFilter proves that a filter finds a line by what it says, and by nothing
// else that its other values hold.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"", "a", `"`, `\`, `\"`, `","subject":"x`, `,"subject":"x"`, "\n", "\u2028", "\xff", "é"} {
		f.Add(s, "x")
		f.Add("x", s)
	}
	f.Fuzz(func(t *testing.T, value, asked string) {
		line := AppendLine(nil, testStart, "Test", "ok", []slog.Attr{slog.String("other", value), slog.String("tenant", value)})
		if NewFilter(time.Time{}, time.Time{}, Field{"subject", asked}).Takes(line) != (asked == "") {
			t.Fatalf("%q has no subject %q", line, asked)
		}
		got := NewFilter(time.Time{}, time.Time{}, Field{"tenant", asked}).Takes(line)
		if want := asked == "" || asked == value; got != want && utf8.ValidString(asked) && utf8.ValidString(value) {
			t.Fatalf("tenant %q in %q: %v", asked, line, got)
		}
		r, err := ParseRecord(line)
		if err != nil || r.Action != "Test" || len(r.Fields) != 2 {
			t.Fatalf("%+v %v", r, err)
		}
	})
}

// FuzzScan proves that no text makes the readers panic, that both see the same
// lines where none is too long, and that parsing what they see does not panic.
func FuzzScan(f *testing.F) {
	whole, _ := trail(2, 1)
	for _, text := range [][]byte{nil, whole, whole[:len(whole)-5], []byte("\n\n"), []byte("a"), []byte("\na"), []byte("a\n\nb\n")} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var forth, back []string
		var last int64
		err := Scan(bytes.NewReader(text), func(line []byte, end int64) bool {
			if last = end; len(line) > 0 {
				forth = append(forth, string(line))
			}
			_, _ = ParseRecord(line)
			return true
		})
		if err != nil || last > int64(len(text)) {
			t.Fatal(err, last)
		}
		if err := ScanBack(bytes.NewReader(text), int64(len(text)), func(line []byte, begin int64) bool {
			if !bytes.HasPrefix(text[begin:], line) {
				t.Fatalf("%q does not begin at %d", line, begin)
			}
			if len(line) > 0 {
				back = append(back, string(line))
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(back)
		if len(text) < maxLine && !slices.Equal(forth, back) {
			t.Fatalf("forth %q\nback %q", forth, back)
		}
	})
}

// Text of any length is read in pieces, and lines around one that is too long
// are not lost.
func TestScanLongLines(t *testing.T) {
	text := "first\n" + strings.Repeat("x", 5*maxLine) + "\nlast\n" + strings.Repeat("line\n", maxLine/3)
	var forth, back int
	var begun []string
	if err := Scan(strings.NewReader(text), func(line []byte, end int64) bool {
		if len(line) == 0 {
			return true
		}
		forth++
		if len(begun) < 3 {
			begun = append(begun, string(line[:min(5, len(line))]))
		}
		return true
	}); err != nil || !slices.Equal(begun, []string{"first", "xxxxx", "last"}) || forth != 3+maxLine/3 {
		t.Errorf("%v, %d lines: %q", err, forth, begun)
	}
	lastSeen := ""
	if err := ScanBack(strings.NewReader(text), int64(len(text)), func(line []byte, _ int64) bool {
		if len(line) > 0 {
			back++
			lastSeen = string(line)
		}
		return true
	}); err != nil || lastSeen != "first" || back < 3+maxLine/3 {
		t.Errorf("%v, %d lines, the first %q", err, back, lastSeen)
	}
}

// endless is a line that has no end, and counts what is read of it.
type endless struct{ read int64 }

func (e *endless) Read(b []byte) (int, error) { return e.ReadAt(b, 0) }

func (e *endless) ReadAt(b []byte, _ int64) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	e.read += int64(len(b))
	return len(b), nil
}

// Who wants to stop is asked within a line too, however long that is, and is told
// how far it is.
func TestScanStopsWithinALine(t *testing.T) {
	const far = 20 * maxLine
	forth, back := &endless{}, &endless{}
	var at int64
	stop := func(line []byte, end int64) bool {
		if len(line) > 0 {
			t.Errorf("a line of %d bytes", len(line))
		}
		at = end
		return end < far
	}
	if err := Scan(forth, stop); err != nil || at < far || at != forth.read {
		t.Errorf("%v, stopped at %d after %d bytes", err, at, forth.read)
	}
	const size = 1 << 40
	if err := ScanBack(back, size, func(line []byte, begin int64) bool { return stop(line, size-begin) }); err != nil || at < far || back.read > far+2*maxLine {
		t.Errorf("%v, stopped %d before the end after %d bytes", err, at, back.read)
	}
}

func BenchmarkVerify(b *testing.B) {
	whole, _ := trail(slices.Repeat([]int{250}, 100)...)
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for range b.N {
		if r := verify(&Verifier{}, whole); len(r.Problems) > 0 {
			b.Fatal(r)
		}
	}
}
