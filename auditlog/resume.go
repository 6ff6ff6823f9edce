package auditlog

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
)

// Tail is what Resume found at the end of a trail.
type Tail struct {
	// Damaged says that the last batch is not what its seal says.
	Damaged bool
	// Unsealed are lines after the last seal: those of a process that was killed
	// while it wrote, or of a trail that nobody sealed yet. The next seal covers
	// them.
	Unsealed uint64
	// Torn says that the last of them has no end. TornEnd must come next.
	Torn bool
}

// TornEnd ends a line that was torn. The space keeps a seal that lacks nothing
// but its line break from becoming one after all.
const TornEnd = " \n"

// Resume reads the end of a trail of size bytes, checks its last batch, and
// returns a chain that goes on from there.
func Resume(r io.ReaderAt, size int64) (*Chain, Tail, error) {
	c, tail := &Chain{}, Tail{}
	last, from, end, err := sealBefore(r, size)
	if err != nil {
		return nil, tail, err
	}
	if last.Sequence > 0 {
		_, _, begin, err := sealBefore(r, from)
		if err != nil {
			return nil, tail, err
		}
		if tail.Damaged, err = damaged(r, begin, from, &last); err != nil {
			return nil, tail, err
		}
		c.head = last.Checkpoint
	}
	w := &ending{chain: c}
	if _, err := io.Copy(w, io.NewSectionReader(r, end, size-end)); err != nil {
		return nil, tail, fmt.Errorf("read what no seal covers: %w", err)
	}
	tail.Torn = size > end && w.last != '\n'
	tail.Unsealed = c.lines
	if tail.Torn {
		tail.Unsealed++
	}
	return c, tail, nil
}

// ending adds to a chain what is copied to it, and keeps the last byte.
type ending struct {
	chain *Chain
	last  byte
}

func (e *ending) Write(b []byte) (int, error) {
	e.chain.Add(b)
	if len(b) > 0 {
		e.last = b[len(b)-1]
	}
	return len(b), nil
}

func damaged(r io.ReaderAt, begin, end int64, s *Seal) (bool, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r, begin, end-begin)); err != nil {
		return false, fmt.Errorf("read batch %d: %w", s.Sequence, err)
	}
	line := appendSeal(nil, s)
	sum.Write(line[:hashed(line)])
	return Hash(sum.Sum(nil)) != s.Hash, nil
}

// sealBefore finds the last seal that ends at or before end, and where its line
// begins and ends; a zero seal and two zeros where there is none.
func sealBefore(r io.ReaderAt, end int64) (s Seal, from, to int64, err error) {
	const window = 256 << 10
	buf := make([]byte, window+maxSeal)
	for high := end; high > 0; high -= window {
		low := max(high-window, 0)
		b := buf[:min(end, high+maxSeal)-low] // a seal may begin before high and end after it
		if n, err := r.ReadAt(b, low); n < len(b) {
			return s, 0, 0, fmt.Errorf("read %d bytes at %d: %w", len(b), low, err)
		}
		for at := len(b); ; {
			if at = bytes.LastIndex(b[:at], []byte(sealBegin)); at < 0 {
				break
			}
			length := bytes.IndexByte(b[at:], '\n') + 1
			if s, ok := parseSeal(b[at : at+length]); ok && startsLine(r, b, low, at) {
				return s, low + int64(at), low + int64(at+length), nil
			}
		}
	}
	return Seal{}, 0, 0, nil
}

// startsLine reports whether a line begins at b[at]; b lies at low.
func startsLine(r io.ReaderAt, b []byte, low int64, at int) bool {
	if at > 0 {
		return b[at-1] == '\n'
	}
	var before [1]byte
	if low == 0 {
		return true
	}
	n, _ := r.ReadAt(before[:], low-1)
	return n == 1 && before[0] == '\n'
}
