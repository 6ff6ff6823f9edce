package boltstore

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// group is what one transaction writes. Tokens, sessions, uses and entries of the
// log are gathered first and written in the order of their keys: bbolt keeps what a transaction
// adds to a page in one sorted slice, so that adding out of order is quadratic.
// The rest is written as it is decided.
type group struct {
	store   *Store
	calls   []*call
	tx      *bbolt.Tx
	settled chan struct{}
	finder  finder

	tokens  []tokenPut
	puts    []*tokenPut // of one stretch
	uses    []record.Redemption
	grants  []sessionsPut
	ends    []record.Ended
	entries []keyed // of the log
	pages   int     // touched by what was written already
	broken  error   // writing into tx failed: the group cannot be committed
}

type tokenPut struct {
	id      storage.TokenID
	value   []byte
	stretch stretch
}

func newGroup(s *Store) *group { return &group{store: s} }

func (g *group) begin(tx *bbolt.Tx) {
	g.tx = tx
	g.finder = finder{slots: g.store.slots, tokens: tx.Bucket(tokensBucket), open: g.finder.open[:0], where: g.finder.where}
}

func (g *group) reset() {
	clear(g.calls)
	clear(g.tokens)
	clear(g.puts[:cap(g.puts)])
	clear(g.grants)
	clear(g.entries)
	clear(g.finder.open)
	*g = group{
		store:  g.store,
		finder: finder{open: g.finder.open[:0], where: g.finder.where},
		calls:  g.calls[:0], tokens: g.tokens[:0], puts: g.puts[:0], uses: g.uses[:0], grants: g.grants[:0], ends: g.ends[:0],
		entries: g.entries[:0],
	}
}

func (g *group) dirty() bool {
	return len(g.tokens)+len(g.uses)+len(g.ends)+len(g.entries)+g.pages > 0 || g.broken != nil
}

// groupMark is a place in what was gathered.
type groupMark struct{ tokens, uses, grants, ends, entries int }

func (g *group) mark() groupMark {
	return groupMark{len(g.tokens), len(g.uses), len(g.grants), len(g.ends), len(g.entries)}
}

func (g *group) rollbackTo(m groupMark) {
	g.tokens, g.uses, g.grants = g.tokens[:m.tokens], g.uses[:m.uses], g.grants[:m.grants]
	g.ends, g.entries = g.ends[:m.ends], g.entries[:m.entries]
}

// bucket is one of those at the top, to be written to at once: fn must be the
// last step of a call that can fail.
func (g *group) bucket(name []byte, fn func(b *bbolt.Bucket) error) error {
	g.pages += 4 // its path of pages, and one more for a split
	b := g.tx.Bucket(name)
	b.FillPercent = fillPercent
	if err := fn(b); err != nil {
		g.broken = fmt.Errorf("write to bucket %s: %w", name, err)
		return g.broken
	}
	return nil
}

// HasToken, Sessions and Entry look up what was committed before the group; see
// ledger.Records.

func (g *group) HasToken(id storage.TokenID) (bool, error) { return g.finder.find(id) != nil, nil }

func (g *group) Sessions(keys []storage.SessionKey) ([]*storage.Session, error) {
	out := make([]*storage.Session, len(keys))
	return out, findSessions(g.tx.Bucket(sessionsBucket), keys, out)
}

func (g *group) Entry(sequence uint64) (storage.Entry, error) {
	k := number(sequence)
	v := g.tx.Bucket(logBucket).Get(k)
	if v == nil {
		return storage.Entry{}, storage.ErrNotFound
	}
	return g.store.entryAt(k, v)
}

// estimate is at most how many bytes of pages the transaction writes, roughly.
func (g *group) estimate() int64 {
	bytes := 0
	for i := range g.tokens {
		bytes += len(g.tokens[i].value) + 32
	}
	for i := range g.grants {
		bytes += len(g.grants[i].value) + 40
	}
	for i := range g.entries {
		bytes += len(g.entries[i].value) + 32
	}
	bytes += 64 * (len(g.uses) + len(g.ends))
	pages := 32 + g.pages
	return int64(2*bytes + pages*g.store.pageSize)
}

func (g *group) write() error {
	if err := g.writeTokens(); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	if err := g.writeUses(); err != nil {
		return fmt.Errorf("write uses: %w", err)
	}
	if err := g.writeSessions(); err != nil {
		return fmt.Errorf("write sessions: %w", err)
	}
	if err := g.writeEntries(); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// writeTokens puts each token into the slot of its stretch or, where that is full,
// into one that stretches less.
func (g *group) writeTokens() error {
	slices.SortFunc(g.tokens, func(a, b tokenPut) int {
		if c := cmp.Compare(prefixOf(a.id), prefixOf(b.id)); c != 0 {
			return c
		}
		return bytes.Compare(a.id[8:], b.id[8:])
	})
	all := g.tx.Bucket(tokensBucket)
	all.FillPercent = fillPercent
	for over := longest; over >= oneMinute; over-- {
		g.puts = g.puts[:0]
		for i := range g.tokens {
			if g.tokens[i].stretch == over {
				g.puts = append(g.puts, &g.tokens[i])
			}
		}
		for rest := g.puts; len(rest) > 0; {
			at := slotOf(minuteOf(rest[0].id), over, 0)
			n := 1
			for n < len(rest) && slotOf(minuteOf(rest[n].id), over, 0) == at {
				n++
			}
			if err := g.writeSlot(all, at, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

// writeSlot fills the newest shard of a slot's minutes, and begins others as needed
// where that is a single one.
func (g *group) writeSlot(all *bbolt.Bucket, at slot, puts []*tokenPut) error {
	for at = g.store.slots.newest(at); len(puts) > 0; at++ {
		b, err := all.CreateBucketIfNotExists(at.key())
		if err != nil {
			return err
		}
		have := int(b.Sequence())
		n := min(len(puts), max(g.store.opts.slotTokens-have, 0))
		if at.shard() == lastShard {
			n = len(puts)
		}
		if at.stretch() != oneMinute {
			for _, p := range puts[n:] {
				p.stretch--
			}
			puts = puts[:n]
		}
		if n == 0 {
			continue
		}
		b.FillPercent = fillPercent
		for _, p := range puts[:n] {
			if err := b.Put(p.id[:], p.value); err != nil {
				return err
			}
		}
		if err := b.SetSequence(uint64(have + n)); err != nil {
			return err
		}
		g.store.slots.extend(at, prefixOf(puts[0].id), prefixOf(puts[n-1].id), n)
		puts = puts[n:]
	}
	return nil
}

// writeEnded notes which sessions have ended. To take each record out at once
// would cost a page each: sessions end in no order.
func (g *group) writeEnded() error {
	if len(g.ends) == 0 {
		return nil
	}
	b := g.tx.Bucket(endedBucket)
	b.FillPercent = fillPercent
	have := b.Sequence()
	for i := 0; i < len(g.ends); i += usesPerRecord {
		j := min(i+usesPerRecord, len(g.ends))
		if err := b.Put(number(have+uint64(i)), record.AppendEnded(nil, g.ends[i:j])); err != nil {
			return err
		}
	}
	return b.SetSequence(have + uint64(len(g.ends)))
}
