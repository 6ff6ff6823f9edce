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
	uses    []record.Redemption
	grants  []sessionsPut
	ends    []record.Ended
	entries []keyed // of the log
	pages   int     // touched by what was written already
	broken  error   // writing into tx failed: the group cannot be committed
}

type tokenPut struct {
	id    storage.TokenID
	value []byte
}

func newGroup(s *Store) *group { return &group{store: s} }

func (g *group) begin(tx *bbolt.Tx) {
	g.tx = tx
	g.finder = finder{slots: g.store.slots, tokens: tx.Bucket(tokensBucket), open: g.finder.open[:0], where: g.finder.where}
}

func (g *group) reset() {
	clear(g.calls)
	clear(g.tokens)
	clear(g.grants)
	clear(g.entries)
	clear(g.finder.open)
	*g = group{
		store:  g.store,
		finder: finder{open: g.finder.open[:0], where: g.finder.where},
		calls:  g.calls[:0], tokens: g.tokens[:0], uses: g.uses[:0], grants: g.grants[:0], ends: g.ends[:0],
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

func (g *group) writeTokens() error {
	slices.SortFunc(g.tokens, func(a, b tokenPut) int {
		if c := cmp.Compare(prefixOf(a.id), prefixOf(b.id)); c != 0 {
			return c
		}
		return bytes.Compare(a.id[8:], b.id[8:])
	})
	all := g.tx.Bucket(tokensBucket)
	all.FillPercent = fillPercent
	for rest := g.tokens; len(rest) > 0; {
		minute := minuteOf(rest[0].id)
		n := 1
		for n < len(rest) && minuteOf(rest[n].id) == minute {
			n++
		}
		if err := g.writeMinute(all, minute, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// writeMinute fills the newest shard of a minute and begins others as needed.
func (g *group) writeMinute(all *bbolt.Bucket, minute uint64, puts []tokenPut) error {
	shard := g.store.slots.newest(minute)
	for ; len(puts) > 0; shard++ {
		at := slotOf(minute, shard)
		b, err := all.CreateBucketIfNotExists(at.key())
		if err != nil {
			return err
		}
		have := int(b.Sequence())
		n := min(len(puts), g.store.opts.slotTokens-have)
		if n <= 0 {
			continue
		}
		b.FillPercent = fillPercent
		for i := range puts[:n] {
			if err := b.Put(puts[i].id[:], puts[i].value); err != nil {
				return err
			}
		}
		if err := b.SetSequence(uint64(have + n)); err != nil {
			return err
		}
		g.store.slots.extend(at, prefixOf(puts[0].id), prefixOf(puts[n-1].id))
		puts = puts[n:]
	}
	return nil
}

// usesPerRecord is how many uses, or ended sessions, go into one value: four
// such values fill a page of 4 KiB to fillPercent.
const usesPerRecord = 18

func (g *group) writeUses() error {
	slices.SortStableFunc(g.uses, func(a, b record.Redemption) int {
		return cmp.Compare(a.Slot, b.Slot)
	})
	all := g.tx.Bucket(usesBucket)
	all.FillPercent = fillPercent
	for rest := g.uses; len(rest) > 0; {
		minute := rest[0].Slot
		n := 1
		for n < len(rest) && rest[n].Slot == minute {
			n++
		}
		if err := g.writeMinuteUses(all, minute, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (g *group) writeMinuteUses(all *bbolt.Bucket, minute uint64, uses []record.Redemption) error {
	for shard := g.store.slots.newestUse(minute); len(uses) > 0; shard++ {
		b, err := all.CreateBucketIfNotExists(slotOf(minute, shard).key())
		if err != nil {
			return err
		}
		have := int(b.Sequence())
		room := g.store.opts.slotTokens - have
		if room <= 0 {
			continue
		}
		g.store.slots.use(slotOf(minute, shard))
		b.FillPercent = fillPercent
		n := min(len(uses), room)
		for i := 0; i < n; i += usesPerRecord {
			j := min(i+usesPerRecord, n)
			value := record.AppendRedemptions(make([]byte, 0, record.RedemptionsSize(j-i)), uses[i:j])
			if err := b.Put(number(uint64(have+i)), value); err != nil {
				return err
			}
		}
		if err := b.SetSequence(uint64(have + n)); err != nil {
			return err
		}
		uses = uses[n:]
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
