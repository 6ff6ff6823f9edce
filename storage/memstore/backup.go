package memstore

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Backup is what a store held at one moment, for tests of what a restore does.
type Backup struct {
	fleet       storage.Registered
	swept       int64
	tokens      map[storage.TokenID]*storage.Token
	locks       map[storage.LockID]storage.Lock
	credentials map[string]storage.Credential
	edgeKeys    []storage.EdgeKey
}

// Backup copies what a restore keeps.
func (s *Store) Backup() *Backup {
	s.mu.RLock()
	defer s.mu.RUnlock()
	head, _ := s.ledger.Head()
	return &Backup{
		fleet: storage.Registered{Head: head, Instances: slices.Collect(maps.Values(s.instances))}, swept: s.ledger.Swept(),
		tokens: maps.Clone(s.tokens), locks: maps.Clone(s.locks), credentials: maps.Clone(s.credentials),
		edgeKeys: slices.Clone(s.edgeKeys),
	}
}

// Restore makes a store of a backup, as a restore of a durable store does: in a
// new epoch, without sessions or entries. replaced is the store in whose place it
// comes, as it was last; nil where that is lost. The epoch is a new one, unless a
// test asks for one.
func Restore(b, replaced *Backup, epoch uint64) *Store {
	if epoch == 0 {
		epoch = rand.Uint64() | 1 // never zero
	}
	s := newStore(epoch)
	s.ledger.LoadHead(b.fleet.Head.Sequence, b.swept, len(b.tokens))
	s.tokens, s.credentials, s.edgeKeys = maps.Clone(b.tokens), maps.Clone(b.credentials), slices.Clone(b.edgeKeys)
	for id, l := range b.locks {
		l.Revision.Epoch = epoch
		s.locks[id] = l
		s.ledger.LoadLock(&l)
	}
	var known *storage.Registered
	if replaced != nil {
		known = &replaced.fleet
	}
	for _, i := range storage.AfterRestore(b.fleet, known, time.Now()) {
		s.instances[i.ID] = i
		s.ledger.LoadInstance(i.ID)
	}
	return s
}

// Epoch is the history that the store was backed up in.
func (b *Backup) Epoch() uint64 { return b.fleet.Head.Epoch }
