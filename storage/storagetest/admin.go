package storagetest

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var adminCases = []testCase{
	{"instances are kept, changed and listed in the order of their ids", func(f *fixture) {
		want := []storage.Instance{
			{ID: f.node, Node: "node-1", RegisteredAt: f.now, Version: "1.0", Address: "192.0.2.1:9"},
			{ID: storage.InstanceID{1}, Node: "node-2", RegisteredAt: f.now.Add(time.Second), SessionFence: storage.NoFence, SocketLife: 7 * 24 * time.Hour, Fresh: true},
			{ID: storage.InstanceID{0xff}, Node: "node-3", RegisteredAt: f.now, Version: "1.1", SessionFence: time.Hour + time.Millisecond, SocketLife: storage.NoFence},
		}
		f.ok(f.PutInstance(f.ctx, &want[2]))
		f.ok(f.PutInstance(f.ctx, &storage.Instance{ID: storage.InstanceID{1}, Node: "old"}))
		f.ok(f.PutInstance(f.ctx, &want[1]))
		slices.SortFunc(want, func(a, b storage.Instance) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		f.pause()
		got, err := f.Instances(f.ctx)
		f.ok(err)
		if !reflect.DeepEqual(got, want) {
			f.Fatalf("got\n%+v, want\n%+v", got, want)
		}
		f.ok(f.RemoveInstance(f.ctx, want[0].ID, start, "goodbye"))
		f.pause()
		got, err = f.Instances(f.ctx)
		f.ok(err)
		if !reflect.DeepEqual(got, want[1:]) {
			f.Fatalf("got\n%+v, want\n%+v", got, want[1:])
		}
	}},
	{"a credential is created once, kept whole, and changed in one step", func(f *fixture) {
		want := []storage.Credential{
			{Name: "admin", Role: storage.Admin},
			{Name: "login", Role: storage.Issuer, Tenants: []string{"a", "b"}, Audiences: []string{"chat"}, MaxTTL: time.Minute,
				TokensPerSecond: 5, Disabled: true, CreatedAt: f.now, Generation: 3, APIKeyHash: []byte{1, 2},
				SignedBy: "0123456789abcdef", CertificateEnds: f.now.Add(time.Hour)},
		}
		f.ok(f.CreateCredential(f.ctx, want[1]))
		f.ok(f.CreateCredential(f.ctx, want[0]))
		f.pause()
		f.is(f.CreateCredential(f.ctx, storage.Credential{Name: "login"}), storage.ErrExists)
		got, err := f.Credentials(f.ctx)
		f.ok(err)
		if !reflect.DeepEqual(got, want) {
			f.Fatalf("got\n%+v, want\n%+v", got, want)
		}
		c, err := f.UpdateCredential(f.ctx, "login", func(c *storage.Credential) error {
			c.Disabled, c.Tenants = false, append(c.Tenants, "c")
			return nil
		})
		f.ok(err)
		want[1].Disabled, want[1].Tenants = false, []string{"a", "b", "c"}
		if !reflect.DeepEqual(c, want[1]) {
			f.Fatalf("got\n%+v, want\n%+v", c, want[1])
		}
		no := errors.New("no")
		_, err = f.UpdateCredential(f.ctx, "login", func(c *storage.Credential) error { c.Generation = 99; c.Tenants[0] = "x"; return no })
		f.is(err, no)
		_, err = f.UpdateCredential(f.ctx, "nobody", func(*storage.Credential) error { return nil })
		f.is(err, storage.ErrNotFound)
		f.pause()
		got, err = f.Credentials(f.ctx)
		f.ok(err)
		if !reflect.DeepEqual(got, want) {
			f.Fatalf("got\n%+v, want\n%+v", got, want)
		}
	}},
	{"no change of a credential is lost among others at the same time", func(f *fixture) {
		f.ok(f.CreateCredential(f.ctx, storage.Credential{Name: "login"}))
		var wg sync.WaitGroup
		const callers, changes = 8, 10
		for range callers {
			wg.Go(func() {
				for range changes {
					if _, err := f.UpdateCredential(f.ctx, "login", func(c *storage.Credential) error { c.Generation++; return nil }); err != nil {
						f.Error(err)
					}
				}
			})
		}
		wg.Wait()
		f.pause()
		got, err := f.Credentials(f.ctx)
		f.ok(err)
		f.equal("generation", got[0].Generation, callers*changes)
	}},
	{"of many who create a credential at once, one does", func(f *fixture) {
		var wg sync.WaitGroup
		var errs [16]error
		for i := range errs {
			wg.Go(func() { errs[i] = f.CreateCredential(f.ctx, storage.Credential{Name: "login"}) })
		}
		wg.Wait()
		created := 0
		for _, err := range errs {
			if err == nil {
				created++
			} else {
				f.is(err, storage.ErrExists)
			}
		}
		f.equal("created", created, 1)
	}},
	{"a credential needs a name", func(f *fixture) {
		if err := f.CreateCredential(f.ctx, storage.Credential{}); err == nil {
			f.Fatal("one without was created")
		}
	}},
	{"edge keys are replaced as a whole, and listed in the order of their making", func(f *fixture) {
		want := []storage.EdgeKey{
			{ID: 300, Key: [32]byte{1}, CreatedAt: f.now, ActiveFrom: f.now, RetiredAt: f.now.Add(time.Hour)},
			{ID: 2, Key: [32]byte{2}, CreatedAt: f.now.Add(time.Minute), ActiveFrom: f.now.Add(time.Hour)},
		}
		f.ok(f.PutEdgeKeys(f.ctx, []storage.EdgeKey{{ID: 9, CreatedAt: f.now}, want[0]}))
		f.ok(f.PutEdgeKeys(f.ctx, []storage.EdgeKey{want[1], want[0]}))
		f.pause()
		got, err := f.EdgeKeys(f.ctx)
		f.ok(err)
		if !reflect.DeepEqual(got, want) {
			f.Fatalf("got\n%+v, want\n%+v", got, want)
		}
		// The newest is the one that is not retired, whatever the clock said.
		want[1].CreatedAt = f.now.Add(-time.Hour)
		f.ok(f.PutEdgeKeys(f.ctx, want))
		f.pause()
		got, err = f.EdgeKeys(f.ctx)
		f.ok(err)
		if !reflect.DeepEqual(got, want) {
			f.Fatalf("after the clock stepped back: got\n%+v, want\n%+v", got, want)
		}
		f.ok(f.PutEdgeKeys(f.ctx, nil))
		f.pause()
		got, err = f.EdgeKeys(f.ctx)
		f.ok(err)
		f.equal("keys", len(got), 0)
	}},
}
