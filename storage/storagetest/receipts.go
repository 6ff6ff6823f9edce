package storagetest

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-ws/gatehouse/storage"
)

func (f *fixture) acknowledge(acks ...storage.Acknowledgement) {
	f.Helper()
	f.ok(f.Acknowledge(f.ctx, acks))
}

func (f *fixture) departed(sequence uint64) []storage.Departed {
	f.Helper()
	got, err := f.Departed(f.ctx, sequence)
	f.ok(err)
	return got
}

func (f *fixture) counts(sequence uint64) map[storage.InstanceID]storage.Closed {
	f.Helper()
	got, err := f.Counts(f.ctx, sequence)
	f.ok(err)
	return got
}

// acknowledged tells through where instances have enforced the log, and fails
// where one is pending for an entry.
func (f *fixture) acknowledged() map[storage.InstanceID]uint64 {
	f.Helper()
	got, err := f.Acknowledged(f.ctx)
	f.ok(err)
	through := map[storage.InstanceID]uint64{}
	for id, p := range got {
		if len(p.Pending) > 0 {
			f.Fatalf("instance %x is pending for %v", id, p.Pending)
		}
		through[id] = p.Through
	}
	return through
}

// remove removes an instance, and says what it is then known as.
func (f *fixture) remove(id storage.InstanceID, registered, acknowledged uint64, cause string) storage.Departed {
	f.Helper()
	f.ok(f.RemoveInstance(f.ctx, id, f.now, cause))
	return storage.Departed{ID: id, Node: "node-1", Registered: registered, Head: f.head().Sequence, RemovedAt: f.now, Cause: cause, Acknowledged: storage.Progress{Through: acknowledged}}
}

var receiptCases = []testCase{
	{"an instance keeps the head at its first registration", func(f *fixture) {
		f.revoke(storage.Selector{Tenant: "acme"})
		i := storage.Instance{ID: storage.InstanceID{1}, Node: "node-1", Registered: 99}
		f.ok(f.PutInstance(f.ctx, &i))
		f.equal("registered", i.Registered, 1)
		f.revoke(storage.Selector{Tenant: "acme"})
		f.pause()
		i.Registered, i.Address = 99, "192.0.2.1:1"
		f.ok(f.PutInstance(f.ctx, &i))
		f.equal("registered again", i.Registered, 1)
		f.pause()
		got, err := f.Instances(f.ctx)
		f.ok(err)
		f.equal("kept", got[0], i)
		f.ok(f.RemoveInstance(f.ctx, i.ID, f.now, "goodbye"))
		f.ok(f.PutInstance(f.ctx, &i))
		f.equal("registered anew", i.Registered, 2)
	}},
	{"what instances have enforced is kept, and never goes back", func(f *fixture) {
		other, silent := f.register(), f.register()
		_ = silent
		f.acknowledge(storage.Acknowledgement{Instance: f.node, Through: 5}, storage.Acknowledgement{Instance: other, Through: 7})
		f.acknowledge(storage.Acknowledgement{Instance: f.node, Through: 4}, storage.Acknowledgement{Instance: other},
			storage.Acknowledgement{Instance: f.node, Through: 6}, storage.Acknowledgement{Instance: f.node, Through: 5},
			storage.Acknowledgement{Instance: storage.InstanceID{9}, Through: 9}) // not registered
		f.pause()
		f.equal("acknowledged", f.acknowledged(), map[storage.InstanceID]uint64{f.node: 6, other: 7})
		f.ok(f.RemoveInstance(f.ctx, other, f.now, "goodbye"))
		f.pause()
		f.equal("acknowledged", f.acknowledged(), map[storage.InstanceID]uint64{f.node: 6})
	}},
	{"an acknowledgement whose pending entries do not rise up to it is refused, with its call", func(f *fixture) {
		for range 9 {
			f.revoke(storage.Selector{Tenant: "acme"})
		}
		for _, pending := range [][]uint64{{4, 2}, {2, 2}, {6}} {
			acks := []storage.Acknowledgement{{Instance: f.node, Through: 4}, {Instance: f.node, Through: 5, Pending: pending}}
			if err := f.Acknowledge(f.ctx, acks); err == nil {
				f.Errorf("%v was acknowledged", pending)
			}
		}
		f.pause()
		f.equal("acknowledged", f.acknowledged(), map[storage.InstanceID]uint64{})
	}},
	{"entries are pending as the newest progress of an instance has it", func(f *fixture) {
		want := func(p storage.Progress) {
			f.Helper()
			f.pause()
			got, err := f.Acknowledged(f.ctx)
			f.ok(err)
			f.equal("progress", got, map[storage.InstanceID]storage.Progress{f.node: p})
		}
		ack := func(through uint64, pending ...uint64) {
			f.acknowledge(storage.Acknowledgement{Instance: f.node, Through: through, Pending: pending})
		}
		for range 9 {
			f.revoke(storage.Selector{Tenant: "acme"})
		}
		ack(5, 2, 4)
		want(storage.Progress{Through: 5, Pending: []uint64{2, 4}})
		ack(3) // of before
		f.acknowledge(storage.Acknowledgement{Instance: f.node, Counts: []storage.Closed{{Sequence: 2, Closed: 1}}})
		want(storage.Progress{Through: 5, Pending: []uint64{2, 4}})
		ack(5, 4)
		want(storage.Progress{Through: 5, Pending: []uint64{4}})
		ack(7, 4, 6)
		want(storage.Progress{Through: 7, Pending: []uint64{4, 6}})
		f.ok(f.RemoveInstance(f.ctx, f.node, f.now, "goodbye"))
		f.pause()
		f.equal("departed", f.departed(6), []storage.Departed{{
			ID: f.node, Node: "node-1", Head: 9, RemovedAt: f.now, Cause: "goodbye", Acknowledged: storage.Progress{Through: 7, Pending: []uint64{4, 6}},
		}})
	}},
	{"counts are kept by entry and instance, the newest of each", func(f *fixture) {
		other := f.register()
		for range 3 {
			f.revoke(storage.Selector{Tenant: "acme"})
		}
		f.acknowledge(
			storage.Acknowledgement{Instance: f.node, Through: 2, Counts: []storage.Closed{
				{Sequence: 2, Closed: 1, Lingering: 1, After: time.Second},
				{Sequence: 1, Closed: 4, Lingering: 3, After: 2500 * time.Microsecond},
			}},
			storage.Acknowledgement{Instance: other, Through: 2, Counts: []storage.Closed{{Sequence: 2, Closed: 7}}},
		)
		f.acknowledge(storage.Acknowledgement{Instance: f.node, Counts: []storage.Closed{
			{Sequence: 1, Closed: 9, After: 5 * time.Millisecond},
			{Sequence: 1, Closed: 4, After: 3*time.Millisecond + 9}, // kept to the microsecond
			{Sequence: 3, Lingering: 1},                             // closed nothing
			{Sequence: 4, Closed: 1},                                // of no entry
			{Sequence: 0, Closed: 1},
		}}, storage.Acknowledgement{Instance: storage.InstanceID{9}, Counts: []storage.Closed{{Sequence: 3, Closed: 1}}})
		f.pause()
		f.equal("of the first", f.counts(1), map[storage.InstanceID]storage.Closed{f.node: {Sequence: 1, Closed: 4, After: 3 * time.Millisecond}})
		f.equal("of the second", f.counts(2), map[storage.InstanceID]storage.Closed{
			f.node: {Sequence: 2, Closed: 1, Lingering: 1, After: time.Second},
			other:  {Sequence: 2, Closed: 7},
		})
		for _, seq := range []uint64{0, 3, 4, 1<<64 - 1} {
			f.equal("of the others", len(f.counts(seq)), 0)
		}
		f.ok(f.RemoveInstance(f.ctx, f.node, f.now, "goodbye"))
		f.pause()
		f.equal("of an instance that departed", f.counts(1)[f.node].Closed, 4)
	}},
	{"a departed instance is told of for the entries of its time", func(f *fixture) {
		f.ok(f.RemoveInstance(f.ctx, f.register(), f.now, "before anything"))
		f.revoke(storage.Selector{Tenant: "acme"})
		a, b := f.register(), f.register()
		f.revoke(storage.Selector{Tenant: "acme"})
		f.acknowledge(storage.Acknowledgement{Instance: b, Through: 2})
		first := f.remove(b, 1, 2, "goodbye")
		f.revoke(storage.Selector{Tenant: "acme"})
		f.now = f.now.Add(time.Minute)
		second := f.remove(a, 1, 0, "silent")
		f.ok(f.RemoveInstance(f.ctx, a, f.now, "again"))
		f.ok(f.PutInstance(f.ctx, &storage.Instance{ID: a, Node: "node-1"})) // it comes back
		f.revoke(storage.Selector{Tenant: "acme"})
		third := f.remove(a, 3, 0, "goodbye")
		f.pause()
		for seq, want := range map[uint64][]storage.Departed{
			0: nil, 1: nil, 2: {first, second}, 3: {second}, 4: {third}, 5: nil, 1<<64 - 1: nil,
		} {
			got := f.departed(seq)
			if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
				f.Fatalf("departed of entry %d: got\n%+v, want\n%+v", seq, got, want)
			}
		}
	}},
	{"counts and departed instances are forgotten with their entries", func(f *fixture) {
		keep := func(d time.Duration) {
			f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: f.now.Add(d)})
		}
		count := func(id storage.InstanceID, seqs ...uint64) {
			for _, s := range seqs {
				f.acknowledge(storage.Acknowledgement{Instance: id, Through: s, Counts: []storage.Closed{{Sequence: s, Closed: 1}}})
			}
		}
		a, b := f.register(), f.register()
		keep(0)
		keep(0)
		count(a, 1, 2)
		count(f.node, 2)
		f.ok(f.RemoveInstance(f.ctx, a, f.now, "goodbye"))
		keep(time.Minute)
		count(b, 1, 3)
		f.ok(f.RemoveInstance(f.ctx, b, f.now, "goodbye"))
		f.pause()
		f.equal("swept", f.sweep(f.now, 0), storage.Swept{Entries: 2})
		f.pause()
		f.equal("counts", []int{len(f.counts(1)), len(f.counts(2)), len(f.counts(3))}, []int{0, 0, 1})
		f.equal("departed", []int{len(f.departed(1)), len(f.departed(2)), len(f.departed(3))}, []int{1, 1, 1})
		count(f.node, 1, 2) // too late
		f.equal("counts", []int{len(f.counts(1)), len(f.counts(2))}, []int{0, 0})
		f.equal("swept", f.sweep(f.now.Add(time.Minute), 0), storage.Swept{Entries: 1})
		f.pause()
		f.equal("counts", len(f.counts(3)), 0)
		f.equal("departed", []int{len(f.departed(1)), len(f.departed(3))}, []int{0, 0})
		f.equal("acknowledged", f.acknowledged(), map[storage.InstanceID]uint64{f.node: 2})
	}},
	{"many counts are kept and forgotten", func(f *fixture) {
		const n, entries = 2500, 50
		for range entries {
			f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: f.now})
		}
		var acks []storage.Acknowledgement
		for range n / entries {
			a := storage.Acknowledgement{Instance: f.register(), Through: entries}
			for seq := range uint64(entries) {
				a.Counts = append(a.Counts, storage.Closed{Sequence: seq + 1, Closed: 1})
			}
			acks = append(acks, a)
		}
		f.acknowledge(acks...)
		f.acknowledge(acks...)
		f.pause()
		f.equal("counts", len(f.counts(2)), n/entries)
		f.sweep(f.now, 0)
		f.pause()
		f.equal("counts", []int{len(f.counts(1)), len(f.counts(2)), len(f.counts(3))}, []int{0, 0, 0})
	}},
}

// modelReceipts is what the model keeps for receipts.
type modelReceipts struct {
	registered   map[storage.InstanceID]uint64
	acknowledged map[storage.InstanceID]storage.Progress
	departed     []storage.Departed
	counts       map[uint64]map[storage.InstanceID]storage.Closed
}

func newModelReceipts() modelReceipts {
	return modelReceipts{map[storage.InstanceID]uint64{}, map[storage.InstanceID]storage.Progress{}, nil, map[uint64]map[storage.InstanceID]storage.Closed{}}
}

// remove keeps what is known of an instance that is removed.
func (r *modelReceipts) remove(id storage.InstanceID, head uint64) {
	if at, ok := r.registered[id]; ok && at < head {
		r.departed = append(r.departed, storage.Departed{ID: id, Node: "node-1", Registered: at, Head: head, RemovedAt: start, Cause: "goodbye", Acknowledged: r.acknowledged[id]})
	}
	delete(r.registered, id)
	delete(r.acknowledged, id)
}

// sweep forgets what belongs to entries through a sequence.
func (r *modelReceipts) sweep(through uint64) {
	r.departed = slices.DeleteFunc(r.departed, func(d storage.Departed) bool { return d.Head <= through })
	maps.DeleteFunc(r.counts, func(seq uint64, _ map[storage.InstanceID]storage.Closed) bool { return seq <= through })
}

func (m *model) acknowledge(t *rapid.T) {
	var acks []storage.Acknowledgement
	for range rapid.IntRange(1, 3).Draw(t, "acknowledgements") {
		a := storage.Acknowledgement{Instance: m.drawInstance(t), Through: rapid.Uint64Range(0, m.head).Draw(t, "through")}
		for seq := range a.Through {
			if rapid.IntRange(0, 9).Draw(t, "pending") == 0 {
				a.Pending = append(a.Pending, seq+1)
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "counts") {
			a.Counts = append(a.Counts, storage.Closed{
				Sequence: rapid.Uint64Range(0, m.head+1).Draw(t, "sequence"), Closed: rapid.Uint32Range(0, 2).Draw(t, "closed"),
				After: time.Duration(rapid.IntRange(0, 3).Draw(t, "after")) * time.Microsecond,
			})
		}
		acks = append(acks, a)
	}
	if err := m.store.Acknowledge(m.outer.Context(), acks); err != nil {
		t.Fatal(err)
	}
	for _, a := range acks {
		if !m.instances[a.Instance] {
			continue
		}
		if a.Through > 0 && a.Through >= m.receipts.acknowledged[a.Instance].Through {
			m.receipts.acknowledged[a.Instance] = storage.Progress{Through: a.Through, Pending: a.Pending}
		}
		for _, c := range a.Counts {
			if c.Closed == 0 || !slices.ContainsFunc(m.log, func(e storage.Entry) bool { return e.Revision.Sequence == c.Sequence }) {
				continue
			}
			if m.receipts.counts[c.Sequence] == nil {
				m.receipts.counts[c.Sequence] = map[storage.InstanceID]storage.Closed{}
			}
			m.receipts.counts[c.Sequence][a.Instance] = c
		}
	}
}

func (m *model) compareReceipts(t *rapid.T) {
	ctx := m.outer.Context()
	acknowledged, err := m.store.Acknowledged(ctx)
	if err != nil || !reflect.DeepEqual(acknowledged, m.receipts.acknowledged) {
		t.Fatalf("acknowledged %v, %v, want %v", acknowledged, err, m.receipts.acknowledged)
	}
	instances, err := m.store.Instances(ctx)
	if err != nil || len(instances) != len(m.receipts.registered) {
		t.Fatalf("instances %v, %v, want %v", instances, err, m.receipts.registered)
	}
	for _, i := range instances {
		if i.Registered != m.receipts.registered[i.ID] {
			t.Fatalf("instance %x registered at %d, want %d", i.ID, i.Registered, m.receipts.registered[i.ID])
		}
	}
	for seq := uint64(0); seq <= m.head+1; seq++ {
		counts, err := m.store.Counts(ctx, seq)
		if err != nil || !maps.Equal(counts, m.receipts.counts[seq]) {
			t.Fatalf("counts of %d: %v, %v, want %v", seq, counts, err, m.receipts.counts[seq])
		}
		departed, err := m.store.Departed(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		var want []storage.Departed
		for _, d := range m.receipts.departed {
			if d.Registered < seq && seq <= d.Head {
				want = append(want, d)
			}
		}
		slices.SortStableFunc(want, func(a, b storage.Departed) int {
			if a.Head != b.Head {
				return int(a.Head) - int(b.Head)
			}
			return slices.Compare(a.ID[:], b.ID[:])
		})
		if !slices.EqualFunc(departed, want, func(a, b storage.Departed) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("departed of %d:\n%+v, want\n%+v", seq, departed, want)
		}
	}
}
