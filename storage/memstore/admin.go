package memstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Append adds an entry to the log; see storage.Store.
func (s *Store) Append(ctx context.Context, e storage.Entry) (entry storage.Entry, err error) {
	err = s.write(ctx, func() error {
		got, added, err := s.ledger.Append(e, records{s})
		if err != nil || !added {
			entry = got
			return err
		}
		entry, err = canonical(&got, record.EncodeEntry, func(b []byte) (storage.Entry, error) {
			return record.Entry(got.Revision, b)
		})
		if err != nil {
			return err
		}
		s.log = append(s.log, entry)
		switch entry.Kind {
		case storage.SetLock:
			s.locks[entry.Lock] = storage.Lock{
				ID:          entry.Lock,
				Selector:    entry.Selector,
				Reason:      entry.Reason,
				Actor:       entry.Actor,
				CommittedAt: entry.CommittedAt,
				Revision:    entry.Revision,
			}
		case storage.LiftLock:
			delete(s.locks, entry.Lock)
		}
		return nil
	})
	if err != nil {
		return storage.Entry{}, err
	}
	return entry, nil
}

// Entries returns entries above a revision; see storage.Store.
func (s *Store) Entries(ctx context.Context, after storage.Revision, limit int) (out []storage.Entry, err error) {
	if after.Epoch != s.epoch {
		after.Sequence = 0
	}
	err = s.read(ctx, func() error {
		for i := range s.log {
			if s.log[i].Revision.Sequence > after.Sequence && len(out) < limit {
				out = append(out, s.log[i])
			}
		}
		return nil
	})
	return out, err
}

// Entry finds one entry; see storage.Store.
func (s *Store) Entry(ctx context.Context, r storage.Revision) (e storage.Entry, err error) {
	if r.Epoch != s.epoch {
		return e, storage.ErrNotFound
	}
	err = s.read(ctx, func() (err error) {
		e, err = s.entry(r.Sequence)
		return err
	})
	return e, err
}

// Requested finds an entry by its request id; see storage.Store.
func (s *Store) Requested(id string) (storage.Revision, bool) { return s.ledger.Requested(id) }

// Locks returns the standing locks; see storage.Store.
func (s *Store) Locks(ctx context.Context) (out []storage.Lock, err error) {
	err = s.read(ctx, func() error {
		out = slices.SortedFunc(maps.Values(s.locks), func(a, b storage.Lock) int {
			return cmp.Compare(a.Revision.Sequence, b.Revision.Sequence)
		})
		return nil
	})
	return out, err
}

// Head is the revision of the last entry; see storage.Store.
func (s *Store) Head() (storage.Revision, <-chan struct{}) { return s.ledger.Head() }

// PutInstance registers a node instance; see storage.Store.
func (s *Store) PutInstance(ctx context.Context, i *storage.Instance) error {
	return s.write(ctx, func() error {
		kept, err := canonical(i, record.EncodeInstance, func(b []byte) (storage.Instance, error) {
			return record.Instance(i.ID, b)
		})
		if err != nil {
			return err
		}
		kept.Registered = s.ledger.PutInstance(i.ID)
		if known, ok := s.instances[i.ID]; ok {
			kept.Registered = known.Registered
		}
		s.instances[i.ID] = kept
		i.Registered = kept.Registered
		return nil
	})
}

// RemoveInstance forgets an instance; see storage.Store.
func (s *Store) RemoveInstance(ctx context.Context, id storage.InstanceID, at time.Time, cause string) error {
	return s.write(ctx, func() error {
		was, ok := s.instances[id]
		if !ok {
			return nil
		}
		gone := storage.Departed{ID: id, Node: was.Node, Registered: was.Registered, RemovedAt: at, Cause: cause, Acknowledged: s.receipts.acknowledged[id]}
		gone, err := canonical(&gone, record.EncodeDeparted, func(b []byte) (storage.Departed, error) {
			return record.Departed(0, id, b)
		})
		if err != nil {
			return err
		}
		var its []storage.SessionID
		for _, x := range s.sessions {
			if x.Instance == id {
				its = append(its, x.ID)
			}
		}
		s.endSessions(its, math.MaxInt64)
		removed, head := s.ledger.RemoveInstance(id)
		if !removed {
			return errors.New("instance keeps sessions")
		}
		if gone.Head = head; gone.Head > gone.Registered {
			s.receipts.departed = append(s.receipts.departed, gone)
		}
		delete(s.receipts.acknowledged, id)
		delete(s.instances, id)
		return nil
	})
}

// Instances returns the registered instances; see storage.Store.
func (s *Store) Instances(ctx context.Context) (out []storage.Instance, err error) {
	err = s.read(ctx, func() error {
		out = slices.SortedFunc(maps.Values(s.instances), func(a, b storage.Instance) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		return nil
	})
	return out, err
}

// CreateCredential stores a new credential; see storage.Store.
func (s *Store) CreateCredential(ctx context.Context, c storage.Credential) error {
	if c.Name == "" {
		return errors.New("credential without a name")
	}
	return s.write(ctx, func() error {
		if _, ok := s.credentials[c.Name]; ok {
			return storage.ErrExists
		}
		return s.putCredential(&c)
	})
}

func (s *Store) putCredential(c *storage.Credential) error {
	kept, err := canonical(c, record.EncodeCredential, func(b []byte) (storage.Credential, error) {
		return record.Credential(c.Name, b)
	})
	if err != nil {
		return err
	}
	s.credentials[c.Name] = kept
	return nil
}

// UpdateCredential changes a credential; see storage.Store.
func (s *Store) UpdateCredential(ctx context.Context, name string, change func(*storage.Credential) error) (c storage.Credential, err error) {
	err = s.write(ctx, func() error {
		was, ok := s.credentials[name]
		if !ok {
			return storage.ErrNotFound
		}
		c = was
		c.Tenants, c.Audiences = slices.Clone(was.Tenants), slices.Clone(was.Audiences)
		c.APIKeyHash = slices.Clone(was.APIKeyHash)
		if err := change(&c); err != nil {
			return err
		}
		c.Name = name
		err := s.putCredential(&c)
		c = s.credentials[name]
		return err
	})
	if err != nil {
		return storage.Credential{}, err
	}
	return c, nil
}

// Credentials returns all credentials; see storage.Store.
func (s *Store) Credentials(ctx context.Context) (out []storage.Credential, err error) {
	err = s.read(ctx, func() error {
		out = slices.SortedFunc(maps.Values(s.credentials), func(a, b storage.Credential) int { return cmp.Compare(a.Name, b.Name) })
		return nil
	})
	return out, err
}

// PutEdgeKeys replaces the set of edge keys; see storage.Store.
func (s *Store) PutEdgeKeys(ctx context.Context, keys []storage.EdgeKey) error {
	return s.write(ctx, func() error {
		kept := make([]storage.EdgeKey, len(keys))
		for i := range keys {
			var err error
			kept[i], err = canonical(&keys[i], record.EncodeEdgeKey, func(b []byte) (storage.EdgeKey, error) {
				return record.EdgeKey(keys[i].ID, b)
			})
			if err != nil {
				return err
			}
		}
		slices.SortStableFunc(kept, func(a, b storage.EdgeKey) int { return cmp.Compare(a.ID, b.ID) })
		slices.SortStableFunc(kept, storage.CompareEdgeKeys)
		s.edgeKeys = kept
		return nil
	})
}

// EdgeKeys returns the edge keys; see storage.Store.
func (s *Store) EdgeKeys(ctx context.Context) (out []storage.EdgeKey, err error) {
	err = s.read(ctx, func() error {
		out = s.edgeKeys
		return nil
	})
	return out, err
}
