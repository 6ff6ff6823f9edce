package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/gatehouse-ws/gatehouse/token"
)

// found is what a scan finds: ids with their lines, and the lines that are
// broken.
type found struct {
	ids    []string
	broken []int
	lines  int
}

func scanAll(t testing.TB, r io.Reader, bufferSize int) found {
	t.Helper()
	var f found
	s := leakScanner{
		found:  func(id token.ID, line int) error { f.ids = append(f.ids, fmt.Sprintf("%d:%s", line, id)); return nil },
		broken: func(line int) { f.broken = append(f.broken, line) },
	}
	if err := s.scan(r, bufferSize); err != nil {
		t.Fatal(err)
	}
	f.lines = s.line - 1
	return f
}

func TestLeakScan(t *testing.T) {
	id1, one := testToken(1)
	id2, two := testToken(2)
	insideID, inside := tokenWithPrefixInside()
	at := func(line int, id token.ID) string { return fmt.Sprintf("%d:%s", line, id) }
	for _, tc := range []struct {
		name, in string
		want     found
	}{
		{"nothing", "", found{}},
		{"blank lines", "\n \t\r\n\n", found{lines: 3}},
		{"a token a line", one + "\n" + two + "\n", found{[]string{at(1, id1), at(2, id2)}, nil, 2}},
		{"no line end at the end", one + "\n" + two, found{[]string{at(1, id1), at(2, id2)}, nil, 2}},
		{"Windows line ends", one + "\r\n" + two + "\r\n", found{[]string{at(1, id1), at(2, id2)}, nil, 2}},
		{"quotes, commas, spaces", `  "` + one + `", '` + two + `'`, found{[]string{at(1, id1), at(1, id2)}, nil, 1}},
		{"a subprotocol and a URL", "gatehouse.token." + one + "\nwss://x/chat?token=" + two + "&v=1", found{[]string{at(1, id1), at(2, id2)}, nil, 2}},
		{"escaped text", `{\"token\":\"` + one + `\"}` + "\n%22" + two + "%22", found{[]string{at(1, id1), at(2, id2)}, nil, 2}},
		{"words joined to a token", "token_" + one + "_end", found{[]string{at(1, id1)}, nil, 1}},
		{"two tokens joined", one + two, found{[]string{at(1, id1), at(1, id2)}, nil, 1}},
		{"a prefix joined", "gh1_" + one, found{[]string{at(1, id1)}, []int{1}, 1}},
		{"ids, in either case", id1.String() + "\n" + strings.ToLower(id2.String()), found{[]string{at(1, id1), at(2, id2)}, nil, 2}},
		{"an id among words", `{"token_id": "` + id1.String() + `"}`, found{[]string{at(1, id1)}, nil, 1}},
		{"a token beside its id counts once", id1.String() + " " + one, found{[]string{at(1, id1)}, nil, 1}},
		{"a cut token", one[:83], found{nil, []int{1}, 1}},
		{"a cut token beside a whole one", one + " " + two[:83], found{[]string{at(1, id1)}, []int{1}, 1}},
		{"an edited version", "gh1_B" + one[5:], found{nil, []int{1}, 1}},
		{"a folded token", strings.ToLower(one) + "\n" + strings.ToUpper(one), found{nil, []int{1, 2}, 2}},
		{"a scrubbed token", "gh1_[scrubbed]", found{nil, []int{1}, 1}},
		{"other text", "leaked on Monday:\n" + one, found{[]string{at(2, id1)}, []int{1}, 2}},
		{"26 characters that are no id", "ABCDEFGHIJKLMNOPQRSTUVWXYZ\n8" + id1.String()[1:], found{nil, []int{1, 2}, 2}},
		{"an id with more around", "x" + id1.String() + " " + id1.String() + "-x", found{nil, []int{1}, 1}},
		{"a token with a prefix inside", inside, found{[]string{at(1, insideID)}, nil, 1}},
		{"bytes of any kind", "\xff\x00" + one + "\x80", found{[]string{at(1, id1)}, nil, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, size := range []int{1, 200, scanBuffer} {
				if got := scanAll(t, strings.NewReader(tc.in), size); !reflect.DeepEqual(got, tc.want) {
					t.Errorf("buffer of %d: %+v, want %+v", size, got, tc.want)
				}
			}
			if got := scanAll(t, iotest.OneByteReader(strings.NewReader(tc.in)), 1); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("byte by byte: %+v, want %+v", got, tc.want)
			}
		})
	}
}

// tokenWithPrefixInside is a token whose secret reads as the beginning of one.
func tokenWithPrefixInside() (token.ID, string) {
	id, text := testToken(1)
	return id, text[:60] + token.Prefix + text[64:]
}

// A dump may be one line of any length, and any part of it one word.
func TestLeakScanOfEndlessLines(t *testing.T) {
	id, text := tokenWithPrefixInside()
	for _, pad := range []string{"x", " ", "x ", "gh1", "\xff", strings.Repeat("x", 170) + " "} {
		for shift := range 200 {
			in := strings.Repeat(pad, 3000/len(pad)) + strings.Repeat("=", shift) + text + strings.Repeat(pad, 3000/len(pad))
			got := scanAll(t, strings.NewReader(in), 256)
			if want := []string{fmt.Sprintf("1:%s", id)}; !reflect.DeepEqual(got.ids, want) || len(got.broken) != 0 || got.lines != 1 {
				t.Fatalf("padding %q, shift %d: %+v", pad, shift, got)
			}
		}
	}
}

func TestLeakScanStops(t *testing.T) {
	_, text := testToken(1)
	stop := errors.New("stop")
	calls := 0
	s := leakScanner{found: func(token.ID, int) error { calls++; return stop }, broken: func(int) { t.Error("broken") }}
	if err := s.scan(strings.NewReader(strings.Repeat(text+"\n", 3)), scanBuffer); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	s = leakScanner{found: func(token.ID, int) error { return nil }, broken: func(int) {}}
	if err := s.scan(io.MultiReader(strings.NewReader(text), iotest.ErrReader(stop)), scanBuffer); !errors.Is(err, stop) {
		t.Errorf("a failed read ends in %v", err)
	}
}

// FuzzLeakScan proves that a scan finds every token that token.Parse accepts at
// any place of a line, and every word that token.ParseID accepts, and nothing
// else, whatever the size of its buffer and of the reads.
func FuzzLeakScan(f *testing.F) {
	id, one := testToken(1)
	_, two := testToken(2)
	for _, seed := range []string{
		"", "\n\n", one, one + "\r\n" + two, one + two, "gh1_" + one + "gh1_", one[:83] + "\n", id.String(), "x" + id.String(), id.String() + one,
		strings.Repeat("x", 200) + one + strings.Repeat("y", 200), strings.Repeat("gh1_", 60), strings.Repeat(" ", 300) + one,
		strings.Repeat("a", 166) + "gh1_" + "\n" + one, one[:42] + "\n" + one[42:],
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(88))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		want := expected(in)
		for _, r := range []io.Reader{bytes.NewReader(in), iotest.HalfReader(bytes.NewReader(in))} {
			got := map[string]bool{}
			for _, id := range scanAll(t, r, int(size)).ids {
				got[id] = true
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%q: found %v, want %v", in, got, want)
			}
		}
	})
}

// expected finds ids the slow way.
func expected(in []byte) map[string]bool {
	want := map[string]bool{}
	for i, line := range bytes.Split(in, []byte("\n")) {
		for at := 0; at+token.TextSize <= len(line); at++ {
			var tok token.Token
			if token.Parse(line[at:at+token.TextSize], &tok) == nil {
				want[fmt.Sprintf("%d:%s", i+1, tok.ID)] = true
			}
		}
		for _, word := range bytes.FieldsFunc(line, func(r rune) bool { return r >= 0x80 || !isWord(byte(r)) }) {
			if id, err := token.ParseID(string(word)); err == nil {
				want[fmt.Sprintf("%d:%s", i+1, id)] = true
			}
		}
	}
	return want
}

func BenchmarkLeakScan(b *testing.B) {
	_, text := testToken(1)
	in := strings.Repeat(`{"time":"2026-11-23T12:00:00Z","level":"INFO","token":"`+text+`"}`+"\n", 10_000)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		scanAll(b, strings.NewReader(in), scanBuffer)
	}
}
