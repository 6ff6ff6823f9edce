package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// PutInstance registers a node instance; see storage.Store.
func (s *Store) PutInstance(ctx context.Context, i *storage.Instance) error {
	kept := *i
	err := s.do(ctx, &call{items: 1, decide: func(g *group) error {
		kept.Registered = s.ledger.PutInstance(kept.ID)
		known, err := g.instance(kept.ID)
		if err != nil {
			return err
		}
		if known != nil {
			kept.Registered = known.Registered
		}
		v, err := record.EncodeInstance(&kept)
		if err != nil {
			return fmt.Errorf("encode node instance: %w", err)
		}
		return g.bucket(instancesBucket, func(b *bbolt.Bucket) error { return b.Put(kept.ID[:], v) })
	}})
	if err == nil {
		i.Registered = kept.Registered
	}
	return err
}

// instance is the record of a registered instance, or nil.
func (g *group) instance(id storage.InstanceID) (*storage.Instance, error) {
	v := g.tx.Bucket(instancesBucket).Get(id[:])
	if v == nil {
		return nil, nil
	}
	i, err := record.Instance(id, v)
	return &i, err
}

// RemoveInstance forgets an instance; see storage.Store.
func (s *Store) RemoveInstance(ctx context.Context, id storage.InstanceID, at time.Time, cause string) error {
	for {
		var removed bool
		err := s.do(ctx, &call{items: 1, decide: func(g *group) error {
			var head uint64
			if removed, head = s.ledger.RemoveInstance(id); !removed {
				return nil
			}
			i, err := g.instance(id)
			if i == nil || err != nil {
				return err
			}
			return g.depart(i, head, at, cause)
		}})
		if err != nil || removed {
			return err
		}
		if err := s.endSessionsOf(ctx, id); err != nil {
			return err
		}
	}
}

// stepSessions is how many sessions one step of a long call ends.
const stepSessions = 1000

// endSessionsOf ends the sessions that an instance has now.
func (s *Store) endSessionsOf(ctx context.Context, id storage.InstanceID) error {
	q := storage.SessionQuery{Instance: id, Limit: stepSessions}
	for {
		page, err := s.ListSessions(ctx, q)
		if err != nil {
			return err
		}
		ids := make([]storage.SessionID, len(page.Sessions))
		for i, x := range page.Sessions {
			ids[i] = x.ID
		}
		if len(ids) > 0 {
			if _, err := s.EndSessions(ctx, ids); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		q.After = page.Next
	}
}

// Instances returns the registered instances; see storage.Store.
func (s *Store) Instances(ctx context.Context) (out []storage.Instance, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) (err error) {
		out, err = instancesOf(tx)
		return err
	})
	return out, err
}

func instancesOf(tx *bbolt.Tx) (out []storage.Instance, err error) {
	err = tx.Bucket(instancesBucket).ForEach(func(k, v []byte) error {
		if len(k) != len(storage.InstanceID{}) {
			return fmt.Errorf("%w: key of a node instance: %x", storage.ErrCorrupt, k)
		}
		i, err := record.Instance(storage.InstanceID(k), v)
		out = append(out, i)
		return err
	})
	return out, err
}

// maxNameBytes bounds a credential's name: it is a key.
const maxNameBytes = 1024

// errChanged says that a record is no longer what a change was made from.
var errChanged = errors.New("changed meanwhile")

// CreateCredential stores a new credential; see storage.Store.
func (s *Store) CreateCredential(ctx context.Context, c storage.Credential) error {
	if c.Name == "" || len(c.Name) > maxNameBytes {
		return fmt.Errorf("credential name of %d bytes: want 1 to %d", len(c.Name), maxNameBytes)
	}
	_, err := s.replaceCredential(ctx, nil, &c)
	if err == errChanged {
		return storage.ErrExists
	}
	return err
}

// UpdateCredential changes a credential; see storage.Store. The change is made
// in the caller's goroutine, on what is committed, and tried again if that has
// changed meanwhile.
func (s *Store) UpdateCredential(ctx context.Context, name string, change func(*storage.Credential) error) (storage.Credential, error) {
	for {
		var prior []byte
		err := s.view(ctx, func(tx *bbolt.Tx) error {
			if v := tx.Bucket(credentialsBucket).Get([]byte(name)); v != nil {
				prior = slices.Clone(v)
				return nil
			}
			return storage.ErrNotFound
		})
		if err != nil {
			return storage.Credential{}, err
		}
		c, err := record.Credential(name, prior)
		if err != nil {
			return storage.Credential{}, err
		}
		if err := change(&c); err != nil {
			return storage.Credential{}, err
		}
		c.Name = name
		v, err := s.replaceCredential(ctx, prior, &c)
		switch err {
		case nil:
			return record.Credential(name, v)
		case errChanged:
		default:
			return storage.Credential{}, err
		}
	}
}

// replaceCredential stores c where prior is stored now, nil standing for none.
func (s *Store) replaceCredential(ctx context.Context, prior []byte, c *storage.Credential) ([]byte, error) {
	v, err := record.EncodeCredential(c)
	if err != nil {
		return nil, fmt.Errorf("encode credential: %w", err)
	}
	name := []byte(c.Name)
	return v, s.do(ctx, &call{items: 1, decide: func(g *group) error {
		now := g.tx.Bucket(credentialsBucket).Get(name)
		if (now == nil) != (prior == nil) || !bytes.Equal(now, prior) {
			return errChanged
		}
		return g.bucket(credentialsBucket, func(b *bbolt.Bucket) error { return b.Put(name, v) })
	}})
}

// Credentials returns all credentials; see storage.Store.
func (s *Store) Credentials(ctx context.Context) (out []storage.Credential, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket(credentialsBucket).ForEach(func(k, v []byte) error {
			c, err := record.Credential(string(k), v)
			out = append(out, c)
			return err
		})
	})
	return out, err
}

// PutEdgeKeys replaces the set of edge keys; see storage.Store.
func (s *Store) PutEdgeKeys(ctx context.Context, keys []storage.EdgeKey) error {
	values := make([][]byte, len(keys))
	for i := range keys {
		v, err := record.EncodeEdgeKey(&keys[i])
		if err != nil {
			return fmt.Errorf("encode edge key: %w", err)
		}
		values[i] = v
	}
	return s.do(ctx, &call{items: 1, decide: func(g *group) error {
		return g.bucket(edgeKeysBucket, func(b *bbolt.Bucket) error {
			var stale [][]byte
			err := b.ForEach(func(k, _ []byte) error {
				stale = append(stale, slices.Clone(k))
				return nil
			})
			if err != nil {
				return err
			}
			for _, k := range stale {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			for i := range keys {
				if err := b.Put(binary.BigEndian.AppendUint16(nil, keys[i].ID), values[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}})
}

// EdgeKeys returns the edge keys; see storage.Store.
func (s *Store) EdgeKeys(ctx context.Context) (out []storage.EdgeKey, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket(edgeKeysBucket).ForEach(func(k, v []byte) error {
			if len(k) != 2 {
				return fmt.Errorf("%w: key of an edge key: %x", storage.ErrCorrupt, k)
			}
			e, err := record.EdgeKey(binary.BigEndian.Uint16(k), v)
			out = append(out, e)
			return err
		})
	})
	slices.SortStableFunc(out, storage.CompareEdgeKeys)
	return out, err
}
