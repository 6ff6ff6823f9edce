package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// pairKeySize is the size of a key of a sequence and an instance id.
const pairKeySize = 8 + 16

func pairKey(sequence uint64, id storage.InstanceID) []byte {
	return append(number(sequence), id[:]...)
}

func pairOf(what string, k []byte) (sequence uint64, id storage.InstanceID, err error) {
	if len(k) != pairKeySize {
		return 0, id, fmt.Errorf("%w: key of a %s: %x", storage.ErrCorrupt, what, k)
	}
	sequence, _ = numberOf(k[:8])
	return sequence, storage.InstanceID(k[8:]), nil
}

// keyed is a record to write.
type keyed struct{ key, value []byte }

// Acknowledge keeps acknowledgements; see storage.Store.
func (s *Store) Acknowledge(ctx context.Context, acks []storage.Acknowledgement) error {
	if err := storage.CheckAcknowledgements(acks); err != nil {
		return err
	}
	items := len(acks)
	values := make([][][]byte, len(acks)) // of each one's counts
	for i := range acks {
		items += len(acks[i].Counts)
		for j := range acks[i].Counts {
			v, err := record.EncodeClosed(&acks[i].Counts[j])
			if err != nil {
				return fmt.Errorf("encode count: %w", err)
			}
			values[i] = append(values[i], v)
		}
	}
	return s.do(ctx, &call{items: items, decide: func(g *group) error {
		through, counts, err := g.acknowledged(acks, values)
		if err != nil {
			return err
		}
		if len(through) > 0 {
			if err := g.putAll(acknowledgedBucket, through, false); err != nil {
				return err
			}
		}
		if len(counts) > 0 {
			return g.putAll(countsBucket, counts, true)
		}
		return nil
	}})
}

// acknowledged decides what of acknowledgements is to be written.
func (g *group) acknowledged(acks []storage.Acknowledgement, values [][][]byte) (through, counts []keyed, err error) {
	known, log := g.tx.Bucket(acknowledgedBucket), g.tx.Bucket(logBucket)
	instances := g.tx.Bucket(instancesBucket)
	at := map[storage.InstanceID]storage.Progress{}
	for i := range acks {
		a := &acks[i]
		if instances.Get(a.Instance[:]) == nil {
			continue
		}
		if _, seen := at[a.Instance]; !seen {
			if at[a.Instance], err = progressOf(known, a.Instance); err != nil {
				return nil, nil, err
			}
		}
		now, then := at[a.Instance], a.Progress()
		if then.Through > 0 && then.Through >= now.Through && !then.Equal(&now) {
			at[a.Instance] = then
			v, err := record.EncodeProgress(&then)
			if err != nil {
				return nil, nil, err
			}
			through = append(through, keyed{a.Instance[:], v})
		}
		for j, c := range a.Counts {
			if c.Closed > 0 && log.Get(number(c.Sequence)) != nil {
				counts = append(counts, keyed{pairKey(c.Sequence, a.Instance), values[i][j]})
			}
		}
	}
	return through, counts, nil
}

func progressOf(b *bbolt.Bucket, id storage.InstanceID) (storage.Progress, error) {
	v := b.Get(id[:])
	if v == nil {
		return storage.Progress{}, nil
	}
	return record.Progress(v)
}

// putAll writes records in the order of their keys; of two with one key the
// later counts. Where counted, the bucket's sequence counts its keys.
func (g *group) putAll(bucket []byte, puts []keyed, counted bool) error {
	slices.SortStableFunc(puts, func(a, b keyed) int { return bytes.Compare(a.key, b.key) })
	g.pages += len(puts)
	return g.bucket(bucket, func(b *bbolt.Bucket) error {
		n := b.Sequence()
		for _, p := range puts {
			if counted && b.Get(p.key) == nil {
				n++
			}
			if err := b.Put(p.key, p.value); err != nil {
				return err
			}
		}
		if !counted {
			return nil
		}
		return b.SetSequence(n)
	})
}

// depart removes an instance's record and its acknowledgement, and keeps it as
// departed where entries were appended while it was registered.
func (g *group) depart(i *storage.Instance, head uint64, at time.Time, cause string) error {
	acknowledged, err := progressOf(g.tx.Bucket(acknowledgedBucket), i.ID)
	if err != nil {
		return err
	}
	v, err := record.EncodeDeparted(&storage.Departed{Node: i.Node, Registered: i.Registered, RemovedAt: at, Cause: cause, Acknowledged: acknowledged})
	if err != nil {
		return fmt.Errorf("encode departed instance: %w", err)
	}
	for _, bucket := range [][]byte{instancesBucket, acknowledgedBucket} {
		if err := g.bucket(bucket, func(b *bbolt.Bucket) error { return b.Delete(i.ID[:]) }); err != nil {
			return err
		}
	}
	if head <= i.Registered {
		return nil
	}
	return g.putAll(departedBucket, []keyed{{pairKey(head, i.ID), v}}, true)
}

// Acknowledged tells what registered instances have enforced; see storage.Store.
func (s *Store) Acknowledged(ctx context.Context) (map[storage.InstanceID]storage.Progress, error) {
	out := map[storage.InstanceID]storage.Progress{}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket(acknowledgedBucket).ForEach(func(k, v []byte) error {
			if len(k) != len(storage.InstanceID{}) {
				return fmt.Errorf("%w: key of an acknowledgement: %x", storage.ErrCorrupt, k)
			}
			p, err := record.Progress(v)
			out[storage.InstanceID(k)] = p
			return err
		})
	})
	return out, err
}

// Departed returns departed instances; see storage.Store.
func (s *Store) Departed(ctx context.Context, sequence uint64) (out []storage.Departed, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(departedBucket).Cursor()
		for k, v := c.Seek(number(sequence)); k != nil; k, v = c.Next() {
			head, id, err := pairOf("departed instance", k)
			if err != nil {
				return err
			}
			d, err := record.Departed(head, id, v)
			if err != nil {
				return err
			}
			if d.Registered < sequence {
				out = append(out, d)
			}
		}
		return nil
	})
	return out, err
}

// Counts returns what an entry closed; see storage.Store.
func (s *Store) Counts(ctx context.Context, sequence uint64) (map[storage.InstanceID]storage.Closed, error) {
	out := map[storage.InstanceID]storage.Closed{}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(countsBucket).Cursor()
		for k, v := c.Seek(number(sequence)); k != nil; k, v = c.Next() {
			of, id, err := pairOf("count", k)
			if err != nil || of != sequence {
				return err
			}
			if out[id], err = record.Closed(sequence, v); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// stepCounts is how many counts, or departed instances, one step drops.
const stepCounts = 1000

// sweepReceipts drops what belongs to entries that are swept, and then the
// oldest of what is too many.
func (s *Store) sweepReceipts(ctx context.Context) error {
	return errors.Join(
		s.sweepPairs(ctx, countsBucket, s.opts.counts),
		s.sweepPairs(ctx, departedBucket, s.opts.departed),
	)
}

func (s *Store) sweepPairs(ctx context.Context, bucket []byte, most uint64) error {
	for {
		var over [][]byte
		err := s.view(ctx, func(tx *bbolt.Tx) error {
			through := tx.Bucket(logBucket).Sequence()
			if first, _ := tx.Bucket(logBucket).Cursor().First(); first != nil {
				n, _ := numberOf(first)
				through = n - 1
			}
			b := tx.Bucket(bucket)
			surplus := 0
			if n := b.Sequence(); n > most {
				surplus = int(n - most)
			}
			c := b.Cursor()
			for k, _ := c.First(); k != nil && len(over) < stepCounts; k, _ = c.Next() {
				seq, _, err := pairOf(string(bucket), k)
				if err != nil {
					return err
				}
				if seq > through && len(over) >= surplus {
					break
				}
				over = append(over, bytes.Clone(k))
			}
			return nil
		})
		if err != nil || len(over) == 0 {
			return err
		}
		err = s.do(ctx, &call{items: len(over), sweep: true, decide: func(g *group) error {
			g.pages += len(over) / 4
			return g.bucket(bucket, func(b *bbolt.Bucket) error {
				n := b.Sequence()
				for _, k := range over {
					if b.Get(k) == nil {
						continue // a sweep that was cancelled has come by before
					}
					if err := b.Delete(k); err != nil {
						return err
					}
					n--
				}
				return b.SetSequence(n)
			})
		}})
		if err != nil {
			return err
		}
	}
}
