package storage

import "time"

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
	Through  uint64 // every entry up to this sequence; 0 tells nothing new
	Counts   []Closed
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
	Acknowledged uint64 // through which sequence it had enforced the log
}
