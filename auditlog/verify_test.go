package auditlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// trail is a trail of batches with these numbers of lines, a second apart.
func trail(sizes ...int) ([]byte, []Checkpoint) {
	var c Chain
	var out []byte
	var heads []Checkpoint
	n := 0
	for i, size := range sizes {
		at := testStart.Add(time.Duration(i) * time.Second)
		var lines []byte
		for range size {
			lines = AppendLine(lines, at, "Redeem", "ok", []slog.Attr{slog.Int("n", n), slog.String("subject", fmt.Sprint("u", n%7))})
			n++
		}
		c.Add(lines)
		out = c.AppendSeal(append(out, lines...), at.Add(100*time.Millisecond))
		heads = append(heads, c.Head())
	}
	return out, heads
}

func verify(v *Verifier, files ...[]byte) Report {
	for i, f := range files {
		if err := v.Read(fmt.Sprint("file", i+1), bytes.NewReader(f)); err != nil {
			panic(err)
		}
	}
	return v.Finish()
}

func linesOf(text []byte) [][]byte { return slices.Collect(bytes.Lines(text)) }

func join(lines [][]byte) []byte { return bytes.Join(lines, nil) }

func TestVerify(t *testing.T) {
	whole, heads := trail(2, 3, 1, 4)
	lines := linesOf(whole) // with seals at 2, 6, 8 and 13
	other, others := trail(2, 3, 2, 4)
	edit := func(f func(l [][]byte) [][]byte) []byte { return join(f(slices.Clone(lines))) }
	for _, c := range []struct {
		name     string
		v        Verifier
		text     []byte
		held     uint64 // batch
		problems []string
	}{
		{"whole", Verifier{}, whole, 4, nil},
		{"whole, with checkpoints", Verifier{Checkpoints: heads}, whole, 4, nil},
		{"empty", Verifier{}, nil, 0, []string{"there is no sealed line"}},
		{"a byte flipped in a line", Verifier{}, bytes.Replace(whole, []byte(`"n":4`), []byte(`"n":9`), 1), 1,
			[]string{"lines 4 to 7: batch 2: its lines or its seal are not what was sealed"}},
		{"a line removed", Verifier{}, edit(func(l [][]byte) [][]byte { return slices.Delete(l, 4, 5) }), 1,
			[]string{"lines 4 to 6: batch 2: 3 lines were sealed, 2 are here"}},
		{"the one line of a batch removed", Verifier{}, edit(func(l [][]byte) [][]byte { return slices.Delete(l, 7, 8) }), 2,
			[]string{"line 8: batch 3: 1 line was sealed, 0 are here"}},
		{"two lines swapped", Verifier{}, edit(func(l [][]byte) [][]byte { l[3], l[4] = l[4], l[3]; return l }), 1,
			[]string{"lines 4 to 7: batch 2: its lines or its seal are not what was sealed"}},
		{"a line added", Verifier{}, edit(func(l [][]byte) [][]byte { return slices.Insert(l, 4, l[3]) }), 1,
			[]string{"lines 4 to 8: batch 2: 3 lines were sealed, 4 are here"}},
		{"a batch removed", Verifier{}, edit(func(l [][]byte) [][]byte { return slices.Delete(l, 3, 7) }), 1,
			[]string{"lines 4 to 5: batch 3: batch 2 is missing before it"}},
		{"two batches removed", Verifier{}, edit(func(l [][]byte) [][]byte { return slices.Delete(l, 3, 9) }), 1,
			[]string{"lines 4 to 8: batch 4: batches 2 to 3 are missing before it"}},
		{"batches swapped", Verifier{}, edit(func(l [][]byte) [][]byte {
			return slices.Concat(l[:3], l[7:9], l[3:7], l[9:])
		}), 1, []string{
			"lines 4 to 5: batch 3: batch 2 is missing before it",
			"lines 6 to 9: batch 2: it comes after batch 3: it was moved or repeated, or the chain was begun anew",
			"lines 10 to 14: batch 4: batch 3 is missing before it",
		}},
		{"a seal removed", Verifier{}, edit(func(l [][]byte) [][]byte { return slices.Delete(l, 6, 7) }), 1,
			[]string{"lines 4 to 8: batch 3: batch 2 is missing before it; 1 line was sealed, 4 are here"}},
		{"a batch resealed", Verifier{}, slices.Concat(join(linesOf(other)[:10]), join(lines[9:])), 3, // whole but for the third
			[]string{"lines 11 to 15: batch 4: it does not follow batch 3 as that is here: one of them was rewritten"}},
		{"the beginning cut off", Verifier{}, join(lines[3:]), 0,
			[]string{"lines 1 to 4: batch 2: the trail begins with batch 2, not with batch 1: what came before is missing"}},
		{"the beginning cut off, as said", Verifier{First: 2}, join(lines[3:]), 4, nil},
		{"the beginning cut off, as said, after a checkpoint", Verifier{First: 2, Checkpoints: heads[:1]}, join(lines[3:]), 4, nil},
		{"the beginning cut off, after a checkpoint of another trail", Verifier{First: 4, Checkpoints: others[2:3]}, join(lines[9:]), 0,
			[]string{"lines 1 to 5: batch 4: it does not follow batch 3 as the checkpoint has that"}},
		{"cut off within a batch", Verifier{}, join(lines[:12]), 3,
			[]string{"lines 10 to 12: no seal follows: the authority was killed while it wrote, and has not been started since, or a seal was changed or cut off"}},
		{"cut off within a line", Verifier{}, join(lines)[:len(join(lines[:9]))+10], 3,
			[]string{"line 10: no seal follows: the authority was killed while it wrote, and has not been started since, or a seal was changed or cut off"}},
		{"cut off behind a seal", Verifier{}, join(lines[:9]), 3, nil}, // a trail alone can't show it
		{"cut off behind a seal, with a checkpoint", Verifier{Checkpoints: heads[3:]}, join(lines[:9]), 3,
			[]string{"the trail is cut off: it ends with batch 3, and the checkpoint knows batch 4 of 2026-11-23T12:00:03Z, with 10 lines"}},
		{"written anew", Verifier{Checkpoints: []Checkpoint{heads[0], heads[3]}}, other, 1,
			[]string{"lines 11 to 15: batch 4: the checkpoint has another hash of it: this batch, or what came before it, was rewritten"}},
		{"checkpoints of two trails", Verifier{Checkpoints: []Checkpoint{heads[3], others[3]}}, whole, 0, []string{
			"two checkpoints of batch 4 contradict each other",
			"lines 10 to 14: batch 4: the checkpoint has another hash of it: this batch, or what came before it, was rewritten",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := verify(&c.v, c.text)
			var got []string
			for _, p := range r.Problems {
				if p.Lines() != "" {
					p.Text = p.Lines() + ": " + p.Text
				}
				got = append(got, p.Text)
			}
			if !slices.Equal(got, c.problems) || r.Held.Sequence != c.held {
				t.Errorf("held %d, problems\n%s\nwant %d,\n%s", r.Held.Sequence, strings.Join(got, "\n"), c.held, strings.Join(c.problems, "\n"))
			}
		})
	}
}

// Files are read as one text, wherever they were cut.
func TestVerifyFiles(t *testing.T) {
	whole, heads := trail(2, 3, 1, 4)
	for cut := range len(whole) {
		if r := verify(&Verifier{Checkpoints: heads}, whole[:cut], whole[cut:]); len(r.Problems) > 0 || r.Held != heads[3] || r.Lines != 10 || r.Matched != 4 {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
	}
	lines := linesOf(whole)
	r := verify(&Verifier{}, join(lines[:9]), bytes.Replace(join(lines[9:]), []byte(`"n":8`), []byte(`"n":1`), 1))
	if len(r.Problems) != 1 || r.Problems[0].File != "file2" || r.Problems[0].First != 1 || r.Problems[0].Last != 5 {
		t.Errorf("%+v", r.Problems)
	}
	if r := verify(&Verifier{}, join(lines[9:]), join(lines[:9])); len(r.Problems) == 0 {
		t.Error("the wrong order passes")
	}
}

// What a single change does to a trail is found, and its batch with it.
func TestEveryChangeIsFound(t *testing.T) {
	whole, heads := trail(2, 3, 1, 4)
	batchAt := func(at int) uint64 { return uint64(bytes.Count(whole[:at], []byte(`{"seal":`))) + 1 }
	for at := range whole {
		for bit := range 8 {
			text := bytes.Clone(whole)
			text[at] ^= 1 << bit
			r := verify(&Verifier{}, text)
			// A byte of a seal may be taken to belong to the batch after it.
			if len(r.Problems) == 0 || r.Held.Sequence+1 != batchAt(at) && r.Held.Sequence+2 != batchAt(at) {
				t.Fatalf("bit %d of byte %d, in batch %d: %+v", bit, at, batchAt(at), r)
			}
		}
		if r := verify(&Verifier{Checkpoints: heads[3:]}, whole[:at]); len(r.Problems) == 0 {
			t.Fatalf("cut off at %d: %+v", at, r)
		}
	}
	lines := linesOf(whole)
	for i := range lines {
		if r := verify(&Verifier{Checkpoints: heads[3:]}, join(slices.Delete(slices.Clone(lines), i, i+1))); len(r.Problems) == 0 {
			t.Fatalf("without line %d: %+v", i+1, r)
		}
		for j := range i {
			swapped := slices.Clone(lines)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			if r := verify(&Verifier{}, join(swapped)); len(r.Problems) == 0 {
				t.Fatalf("lines %d and %d swapped: %+v", i+1, j+1, r)
			}
		}
	}
}

// Lines longer than any buffer, and without an end, are no reason to read all
// of them at once, and hide nothing.
func TestVerifyLongLines(t *testing.T) {
	var c Chain
	long := append(bytes.Repeat([]byte{0}, 3<<20), '\n')
	c.Add(long)
	text := c.AppendSeal(long, testStart)
	if r := verify(&Verifier{}, text); len(r.Problems) > 0 || r.Lines != 1 {
		t.Errorf("%+v", r)
	}
	text[1<<20]++
	if r := verify(&Verifier{}, text); len(r.Problems) != 1 {
		t.Errorf("%+v", r)
	}
	seal := linesOf(text)[1]
	hidden := slices.Concat(bytes.Repeat([]byte("x"), 64<<10), seal)
	if r := verify(&Verifier{}, hidden); r.Unsealed != 1 || r.Head.Sequence != 0 {
		t.Errorf("a seal at the end of a long line counts: %+v", r)
	}
}

func TestVerifyManyProblems(t *testing.T) {
	whole, _ := trail(slices.Repeat([]int{1}, 500)...)
	r := verify(&Verifier{}, bytes.ReplaceAll(whole, []byte("Redeem"), []byte("Revoke")))
	if len(r.Problems) != maxProblems || r.More != 500-maxProblems {
		t.Errorf("%d problems, %d more", len(r.Problems), r.More)
	}
}

// FuzzVerify proves that no text makes the verifier panic, that one which is
// whole begins with the first batch, and that Resume goes on with what is there
// so that no more is wrong than before.
func FuzzVerify(f *testing.F) {
	whole, _ := trail(2, 1)
	seal := linesOf(whole)[2]
	for _, text := range [][]byte{
		nil, whole, whole[:len(whole)-1], seal, bytes.Repeat(seal, 2), []byte("\n"), []byte(`{"seal":`), whole[len(whole)-90:],
		bytes.Replace(seal, []byte(`"total":2`), []byte(`"total":18446744073709551615`), 1), append([]byte(" "), seal...),
		bytes.Replace(seal, []byte(`{"seal":1`), []byte(`{"seal":18446744073709551615`), 1), bytes.Replace(seal, []byte("}"), []byte(" }"), 1),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := verify(&Verifier{}, text)
		if len(before.Problems) == 0 && (before.First != 1 || before.Held != before.Head || before.Head.Lines != before.Lines) {
			t.Fatalf("whole: %+v", before)
		}
		chain, tail, err := Resume(bytes.NewReader(text), int64(len(text)))
		if err != nil {
			t.Fatal(err)
		}
		if chain.Head() != before.Head || tail.Unsealed != before.Unsealed {
			t.Fatalf("resumed at %+v with %+v, verified %+v", chain.Head(), tail, before)
		}
		more := []byte(`{"time":"x"}` + "\n")
		if tail.Torn {
			more = append([]byte(TornEnd), more...)
		}
		chain.Add(more)
		after := verify(&Verifier{}, chain.AppendSeal(append(bytes.Clone(text), more...), testStart))
		problems := len(before.Problems) + before.More
		if before.Unsealed > 0 || before.Head.Sequence == 0 {
			problems--
		}
		if n := len(after.Problems) + after.More; before.Head.Sequence < 1<<63 && n > problems {
			t.Fatalf("%d problems became %d: %+v\nthen %+v", problems, n, before, after)
		}
	})
}

// TestResume proves that a chain goes on over restarts, whatever the last
// process left behind.
func TestResume(t *testing.T) {
	var text []byte
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c, tail, err := Resume(bytes.NewReader(text), int64(len(text)))
		if err != nil || tail.Damaged {
			t.Fatal(tail, err)
		}
		if tail.Torn {
			c.Add([]byte(TornEnd))
			text = append(text, TornEnd...)
		}
		for range r.IntN(3) {
			lines := bytes.Repeat(AppendLine(nil, testStart, "Test", "ok", nil), 1+r.IntN(5000))
			c.Add(lines)
			text = c.AppendSeal(append(text, lines...), testStart)
		}
		if last := bytes.LastIndexByte(text[:max(len(text)-1, 0)], '\n') + 1; r.IntN(2) == 0 && len(text) > 0 {
			text = text[:last+r.IntN(len(text)-last)] // killed while it wrote a seal
		}
	}
	c, _, err := Resume(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	c.Add([]byte("\n"))
	if got := verify(&Verifier{}, c.AppendSeal(append(text, '\n'), testStart)); len(got.Problems) > 0 {
		t.Errorf("%+v", got)
	}
}

func TestResumeDamaged(t *testing.T) {
	whole, heads := trail(2, 3)
	bad := bytes.Replace(whole, []byte(`"n":4`), []byte(`"n":9`), 1)
	c, tail, err := Resume(bytes.NewReader(bad), int64(len(bad)))
	if err != nil || !tail.Damaged || c.Head() != heads[1] {
		t.Errorf("%+v %v", tail, err)
	}
	if _, tail, _ := Resume(bytes.NewReader(whole), int64(len(whole))); tail != (Tail{}) {
		t.Errorf("%+v", tail)
	}
	if _, _, err := Resume(bytes.NewReader(nil), 10); !errors.Is(err, io.EOF) {
		t.Errorf("a file that is shorter than it was: %v", err)
	}
}
