package auditlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxProblems bounds the problems that are told one by one.
const maxProblems = 100

// Problem is a place where a trail is not what was sealed.
type Problem struct {
	File     string `json:"file"`
	Sequence uint64 `json:"sequence"`   // of the batch; 0 for lines that none has
	First    uint64 `json:"first_line"` // of the file, counted with seals from 1; 0 if the place is no line
	Last     uint64 `json:"last_line"`
	Text     string `json:"problem"`
}

// Lines names the problem's lines of its file; empty if the place is no line.
func (p *Problem) Lines() string {
	switch {
	case p.First == 0:
		return ""
	case p.First == p.Last:
		return fmt.Sprintf("line %d", p.First)
	}
	return fmt.Sprintf("lines %d to %d", p.First, p.Last)
}

// Report is what was found.
type Report struct {
	First    uint64     `json:"first"` // sequence of the first seal
	Head     Checkpoint `json:"head"`  // the last seal
	Held     Checkpoint `json:"held"`  // through where the trail is proved; all zero for nothing of it
	Lines    uint64     `json:"lines"` // that were read, seals not counted
	Unsealed uint64     `json:"unsealed"`
	// Matched are the checkpoints that the trail agrees with; Earlier are those
	// from before its first seal, which say nothing of it.
	Matched  int       `json:"matched"`
	Earlier  int       `json:"earlier"`
	Problems []Problem `json:"problems"`
	More     int       `json:"more_problems"` // beyond those that are listed
}

// Verifier reads the files of a trail in their order, in bounded memory. Its
// fields are set before the first Read. One goroutine at a time.
type Verifier struct {
	// First is the batch that the trail must begin with, where older files are
	// gone; 0 is 1.
	First uint64
	// Checkpoints are from elsewhere. The trail must agree with each.
	Checkpoints []Checkpoint

	checkpoints map[uint64]Checkpoint
	report      Report
	last        Seal      // zero before the first
	broken      bool      // a problem was found: what follows is not proved
	proved      Seal      // the last seal that a checkpoint agrees with
	sum         hash.Hash // of the batch that is open
	lines       uint64    // of it
	file        string
	line        uint64 // of the file
	begin       uint64 // the line of the file with which the batch began
	within      bool   // a line
	carry       []byte // the beginning of a line that goes on in the next file
}

// Unsealed are the lines after the last seal so far.
func (v *Verifier) Unsealed() uint64 { return v.lines }

// Read reads a file to its end. Its error is that of r; what is wrong with the
// trail is in the report.
func (v *Verifier) Read(file string, r io.Reader) error {
	if v.sum == nil {
		v.start()
	}
	v.file, v.line, v.begin = file, 0, 1
	br := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(v.carry), r), 64<<10)
	v.carry = nil
	for {
		text, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && !v.within && len(text) < maxSeal:
			v.carry = bytes.Clone(text)
			return nil
		case len(text) > 0:
			v.take(text)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
}

func (v *Verifier) start() {
	v.sum = sha256.New()
	v.First = max(v.First, 1)
	v.checkpoints = map[uint64]Checkpoint{}
	for _, c := range v.Checkpoints {
		if known, ok := v.checkpoints[c.Sequence]; ok && known.Hash != c.Hash {
			v.problem(Problem{Sequence: c.Sequence, Text: fmt.Sprintf("two checkpoints of batch %d contradict each other", c.Sequence)})
		}
		v.checkpoints[c.Sequence] = c
	}
}

// take takes a line, or a piece of one that is longer than the buffer.
func (v *Verifier) take(text []byte) {
	if !v.within {
		v.line++
		v.report.Lines++
		v.lines++
		if s, ok := parseSeal(text); ok {
			v.report.Lines--
			v.lines--
			v.seal(&s, text)
			return
		}
	}
	v.sum.Write(text)
	v.within = text[len(text)-1] != '\n'
}

// seal checks a batch against its seal, and that against the one before.
func (v *Verifier) seal(s *Seal, line []byte) {
	v.sum.Write(line[:hashed(line)])
	changed := Hash(v.sum.Sum(nil)) != s.Hash
	v.sum.Reset()
	var texts []string
	say := func(format string, args ...any) { texts = append(texts, fmt.Sprintf(format, args...)) }
	begins := v.last.Sequence == 0
	switch want := v.last.Sequence + 1; {
	case begins && s.Sequence != v.First:
		say("the trail begins with batch %d, not with batch %d: what came before is missing", s.Sequence, v.First)
	case begins && s.Sequence == 1 && (s.Previous != Hash{} || s.Lines != s.Batch):
		say("the first batch claims that there was one before it")
	case begins:
		if c, ok := v.checkpoints[s.Sequence-1]; ok && c.Hash != s.Previous {
			say("it does not follow batch %d as the checkpoint has that", c.Sequence)
		} else if ok {
			v.report.Matched++
			v.report.Earlier--
		}
	case s.Sequence > want:
		say("%s missing before it", batches(want, s.Sequence-1))
	case s.Sequence < want:
		say("it comes after batch %d: it was moved or repeated, or the chain was begun anew", v.last.Sequence)
	case s.Previous != v.last.Hash:
		say("it does not follow batch %d as that is here: one of them was rewritten", v.last.Sequence)
	case s.Lines != v.last.Lines+s.Batch:
		say("its count of lines does not go on from batch %d", v.last.Sequence)
	}
	switch {
	case s.Batch != v.lines:
		say("%s sealed, %s here", counted(s.Batch, "line was", "lines were"), counted(v.lines, "is", "are"))
	case changed:
		say("its lines or its seal are not what was sealed")
	}
	if c, ok := v.checkpoints[s.Sequence]; ok {
		if c.Hash != s.Hash {
			say("the checkpoint has another hash of it: this batch, or what came before it, was rewritten")
			v.report.Held = v.proved.Checkpoint
		} else if len(texts) == 0 {
			v.report.Matched++
			if !v.broken {
				v.proved = *s
			}
		}
	}
	if len(texts) > 0 {
		v.problem(Problem{v.file, s.Sequence, v.begin, v.line, fmt.Sprintf("batch %d: %s", s.Sequence, strings.Join(texts, "; "))})
	}
	if begins {
		v.report.First = s.Sequence
	}
	if !v.broken {
		v.report.Held = s.Checkpoint
	}
	v.last, v.report.Head = *s, s.Checkpoint
	v.lines, v.begin = 0, v.line+1
}

func batches(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("batch %d is", from)
	}
	return fmt.Sprintf("batches %d to %d are", from, to)
}

// counted is n with the word for one, or that for none and many.
func counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (v *Verifier) problem(p Problem) {
	v.broken = true
	if len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, p)
	} else {
		v.report.More++
	}
}

// Finish tells what was found, after the last Read.
func (v *Verifier) Finish() Report {
	if v.sum == nil {
		v.start()
	}
	if len(v.carry) > 0 {
		v.take(v.carry)
	}
	if v.report.Unsealed = v.lines; v.lines > 0 {
		v.problem(Problem{v.file, 0, min(v.begin, v.line), v.line, "no seal follows: the authority was killed while it wrote, and has not been started since, or a seal was changed or cut off"})
	} else if v.last.Sequence == 0 {
		v.problem(Problem{File: v.file, Text: "there is no sealed line"})
	}
	for _, seq := range slices.Sorted(maps.Keys(v.checkpoints)) {
		c := v.checkpoints[seq]
		switch {
		case seq > v.last.Sequence:
			v.problem(Problem{File: v.file, Sequence: seq, Text: fmt.Sprintf("the trail is cut off: it ends with batch %d, and the checkpoint knows batch %d of %s, with %s",
				v.last.Sequence, seq, c.Time.UTC().Format(time.RFC3339), counted(c.Lines, "line", "lines"))})
		case seq < v.report.First:
			v.report.Earlier++
		}
	}
	return v.report
}
