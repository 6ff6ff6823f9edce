// Package auditlog is the format of the audit trail: JSON lines in batches, each
// closed by a seal that chains it to all before it. The authority writes the
// trail with it; whoever verifies a trail needs its files and this package, and
// neither the authority nor its word. docs/audit.md says what that proves.
package auditlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"strconv"
	"time"
)

// Format is the version of the format, which the first line of every start of
// an authority names.
const Format = 1

// Hash is the SHA-256 of a batch: its lines, and its seal up to the hash itself.
// The seal has the hash of the batch before, so a hash stands for all of the
// trail through it.
type Hash [sha256.Size]byte

// String is the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes hex.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads hex.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("%d characters are not the %d of a hash", len(text), hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// Checkpoint stands for the trail through one of its seals. Whoever keeps one
// where the trail's writer can't change it can prove later that nothing of that
// part was cut off or rewritten.
type Checkpoint struct {
	Sequence uint64    `json:"sequence"` // of the batch; the first is 1
	Hash     Hash      `json:"hash"`
	Time     time.Time `json:"time"`  // when the batch was sealed
	Lines    uint64    `json:"lines"` // of the whole trail through it; seals are none
}

// Seal is the line that closes a batch.
type Seal struct {
	Checkpoint
	Batch    uint64 // lines of the batch
	Previous Hash   // of the batch before; zero for the first
}

const (
	sealBegin = `{"seal":`
	sealEnd   = `"hash":"` // what comes before the hash, which covers it
	// maxSeal is above the longest seal, in bytes.
	maxSeal = 400
	// TimeLayout is how lines and seals write a time, in UTC.
	TimeLayout = "2006-01-02T15:04:05.000000Z"
)

// hashed is how much of a seal's line its hash covers.
func hashed(line []byte) int { return len(line) - len("\"}\n") - hex.EncodedLen(sha256.Size) }

func appendSeal(b []byte, s *Seal) []byte {
	b = strconv.AppendUint(append(b, sealBegin...), s.Sequence, 10)
	b = appendTime(append(b, `,"time":"`...), s.Time)
	b = strconv.AppendUint(append(b, `","lines":`...), s.Batch, 10)
	b = strconv.AppendUint(append(b, `,"total":`...), s.Lines, 10)
	b = hex.AppendEncode(append(b, `,"previous":"`...), s.Previous[:])
	b = append(b, `",`+sealEnd...)
	b = hex.AppendEncode(b, s.Hash[:])
	return append(b, "\"}\n"...)
}

// parseSeal reads a line with its line break. A seal has one text; whatever is
// not exactly that is a line like any other.
func parseSeal(line []byte) (s Seal, ok bool) {
	if !bytes.HasPrefix(line, []byte(sealBegin)) || len(line) > maxSeal {
		return s, false
	}
	var v struct {
		Seal, Lines, Total uint64
		Time               time.Time
		Previous, Hash     Hash
	}
	if json.Unmarshal(line, &v) != nil {
		return s, false
	}
	s = Seal{Checkpoint{v.Seal, v.Hash, v.Time.UTC(), v.Total}, v.Lines, v.Previous}
	return s, s.Sequence > 0 && bytes.Equal(appendSeal(make([]byte, 0, maxSeal), &s), line)
}

// Chain makes seals. The zero value begins a trail; Resume goes on with one. One
// goroutine at a time.
type Chain struct {
	head  Checkpoint
	sum   hash.Hash // of the batch that is open; nil before the first
	lines uint64    // of it
}

// Head is the newest seal's checkpoint; zero before the first.
func (c *Chain) Head() Checkpoint { return c.head }

// Add takes text of the batch that is open.
func (c *Chain) Add(text []byte) {
	if c.sum == nil {
		c.sum = sha256.New()
	}
	c.sum.Write(text)
	c.lines += uint64(bytes.Count(text, []byte("\n")))
}

// AppendSeal closes the batch, to which at least one line was added, and appends
// its seal to b.
func (c *Chain) AppendSeal(b []byte, now time.Time) []byte {
	s := Seal{Checkpoint{Sequence: c.head.Sequence + 1, Time: now.UTC().Truncate(time.Microsecond), Lines: c.head.Lines + c.lines}, c.lines, c.head.Hash}
	from := len(b)
	b = appendSeal(b, &s)
	c.sum.Write(b[from : from+hashed(b[from:])])
	c.sum.Sum(s.Hash[:0])
	c.sum.Reset()
	c.head, c.lines = s.Checkpoint, 0
	return appendSeal(b[:from], &s)
}

// Follow makes a chain without a seal go on after one of another file.
func (c *Chain) Follow(head Checkpoint) { c.head = head }
