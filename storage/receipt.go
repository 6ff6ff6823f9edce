package storage

import (
	"fmt"
	"slices"
	"time"
)

// What receipts are made of, bounded by Sweep.
const (
	// MaxCounts is how many counts are kept.
	MaxCounts = 1_000_000
	// MaxDeparted is how many departed instances are kept.
	MaxDeparted = 100_000
)

// Acknowledgement is how far an instance says it has enforced the log.
type Acknowledgement struct {
	Instance InstanceID
	Through  uint64   // as of Progress; 0 tells nothing new
	Pending  []uint64 // as of Progress
	Counts   []Closed
}

// Progress is what of a tells how far the instance is.
func (a *Acknowledgement) Progress() Progress { return Progress{a.Through, a.Pending} }

// CheckAcknowledgements is how Acknowledge begins: it tells of one that is not
// well-formed.
func CheckAcknowledgements(acks []Acknowledgement) error {
	for i := range acks {
		p := acks[i].Progress()
		if err := p.Check(); err != nil {
			return fmt.Errorf("acknowledgement of instance %x: %w", acks[i].Instance, err)
		}
	}
	return nil
}

// Progress is how far an instance has enforced the log: through a sequence, but
// for the entries within whose grace it waits.
type Progress struct {
	Through uint64
	Pending []uint64 // sequences up to Through, rising
}

// Check tells why it is none: what is pending must rise up to Through, for it is
// searched.
func (p *Progress) Check() error {
	for i, seq := range p.Pending {
		if seq > p.Through || i > 0 && seq <= p.Pending[i-1] {
			return fmt.Errorf("pending entry %d: they must rise up to %d", seq, p.Through)
		}
	}
	return nil
}

// Has reports whether the entry with this sequence is enforced.
func (p *Progress) Has(sequence uint64) bool {
	if sequence > p.Through {
		return false
	}
	_, pending := slices.BinarySearch(p.Pending, sequence)
	return !pending
}

// Waits reports whether it is enforced but for the end of its grace.
func (p *Progress) Waits(sequence uint64) bool {
	return sequence <= p.Through && !p.Has(sequence)
}

// Equal reports whether two say the same.
func (p *Progress) Equal(o *Progress) bool {
	return p.Through == o.Through && slices.Equal(p.Pending, o.Pending)
}

// Closed counts what an entry closed on one instance.
type Closed struct {
	Sequence  uint64 // the entry's
	Closed    uint32 // sockets
	Lingering uint32 // of those, whose closing handshake had not ended
	// After is from the entry's commit to the acknowledgement, kept to the
	// microsecond; 0 is not known.
	After time.Duration
}

// Departed is an instance that was removed. It was registered when the entries
// above Registered up to Head were appended, and has had no socket since
// RemovedAt.
type Departed struct {
	ID           InstanceID
	Node         string // the node's credential name
	Registered   uint64 // as of Instance
	Head         uint64 // sequence of the log's head at its removal
	RemovedAt    time.Time
	Cause        string
	Acknowledged Progress
}
