package storage

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"time"
)

// SystemID names an installation: its store and every backup of that.
type SystemID [16]byte

// String is the id in hex.
func (id SystemID) String() string { return hex.EncodeToString(id[:]) }

// Backup describes a backup of a store: what was committed when it was taken,
// and nothing that came later.
type Backup struct {
	System  SystemID
	Head    Revision // of the log, as committed
	TakenAt time.Time
	Bytes   int64 // of the whole backup
}

// Registered is what a store knows of the fleet, at the head of its log.
type Registered struct {
	Head      Revision
	Instances []Instance
}

// NodesUnknown is the node, by a name that no credential has, of the instance that
// stands for those that a restored store may not know of.
const NodesUnknown = "(nodes unknown since the restore)"

// AfterRestore are the instances that a restored store begins with: whoever may
// have sockets of the history that it ends. Receipts wait for them, until they
// attach, leave or have fenced themselves, as for any that is silent; their sessions
// are not in the store.
//
// replaced is what the store knows that is replaced, nil where nobody can tell. It
// knows all that the backup's history had, if it went on with that. Else those of
// the backup are added, and one that stands for all whom neither knows.
func AfterRestore(backup Registered, replaced *Registered, at time.Time) []Instance {
	var out []Instance
	add := func(all []Instance) {
		for _, i := range all {
			if !slices.ContainsFunc(out, func(x Instance) bool { return x.ID == i.ID || x.Node == NodesUnknown && i.Node == NodesUnknown }) {
				i.Registered = backup.Head.Sequence // below every entry to come
				out = append(out, i)
			}
		}
	}
	if replaced != nil {
		add(replaced.Instances)
	}
	if replaced == nil || replaced.Head.Epoch != backup.Head.Epoch || replaced.Head.Sequence < backup.Head.Sequence {
		add(backup.Instances)
		unknown := Instance{Node: NodesUnknown, RegisteredAt: at}
		_, _ = rand.Read(unknown.ID[:]) // it does not fail
		add([]Instance{unknown})
		var fence, life time.Duration
		for i := range out {
			fence, life = max(fence, out[i].SessionFence), max(life, cmp.Or(out[i].SocketLife, out[i].SessionFence))
		}
		for i := range out {
			if out[i].Node == NodesUnknown { // they may have been told what any other was
				out[i].SessionFence, out[i].SocketLife = fence, life
			}
		}
	}
	return out
}

// Compacted is what a compaction has done.
type Compacted struct{ Before, After int64 } // bytes of the file

// Errors of backups and compactions.
var (
	// ErrForeign says that a backup is of another system.
	ErrForeign = errors.New("backup of another system")
	// ErrBackupCut says that the store ended a backup that was under way, since
	// writers would have had to wait for it.
	ErrBackupCut = errors.New("backup ended by the store")
	// ErrBusy says that a backup or a compaction is under way, which leaves no place
	// for a compaction.
	ErrBusy = errors.New("a backup or a compaction is under way")
)
