package storage

import (
	"encoding/hex"
	"errors"
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

// Errors of backups.
var (
	// ErrForeign says that a backup is of another system.
	ErrForeign = errors.New("backup of another system")
	// ErrBackupCut says that the store ended a backup that was under way, since
	// writers would have had to wait for it.
	ErrBackupCut = errors.New("backup ended by the store")
)
