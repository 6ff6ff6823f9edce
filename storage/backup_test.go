package storage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// TestAfterRestore proves that a restored store knows of all who may have sockets
// of before, or says that it may not.
func TestAfterRestore(t *testing.T) {
	fleet := func(epoch, head uint64, nodes ...string) *storage.Registered {
		out := &storage.Registered{Head: storage.Revision{Epoch: epoch, Sequence: head}}
		for _, n := range nodes {
			out.Instances = append(out.Instances, storage.Instance{ID: storage.InstanceID{n[0]}, Node: n, Registered: 1, SessionFence: time.Duration(n[0]), SocketLife: time.Duration(n[0])})
		}
		return out
	}
	backup := fleet(1, 10, "a", "b")
	for rule, c := range map[string]struct {
		replaced *storage.Registered
		want     string
	}{
		"the store went on with the history":      {fleet(1, 12, "b", "c"), "b c"}, // a has left
		"it is as it was at the backup":           {fleet(1, 10, "a", "b"), "a b"},
		"it is lost":                              {nil, storage.NodesUnknown + " a b"},
		"it is an older backup, put there":        {fleet(1, 9, "a"), storage.NodesUnknown + " a b"},
		"it has another history":                  {fleet(2, 99, "b", "d"), storage.NodesUnknown + " a b d"},
		"it has another, and did not know either": {fleet(2, 99, storage.NodesUnknown, "b"), storage.NodesUnknown + " a b"},
	} {
		var got []string
		ids := map[storage.InstanceID]bool{}
		for _, i := range storage.AfterRestore(*backup, c.replaced, time.UnixMilli(1)) {
			got = append(got, i.Node)
			ids[i.ID] = true
			if min(i.SessionFence, i.SocketLife) < 'b' && i.Node != "a" {
				t.Errorf("%s: %s has a session fence of %d and a socket life of %d: others of its history were told longer ones", rule, i.Node, i.SessionFence, i.SocketLife)
			}
			if i.Registered != 10 {
				t.Errorf("%s: %s is registered at %d: entries from 11 on must wait for it", rule, i.Node, i.Registered)
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != c.want || len(ids) != len(got) {
			t.Errorf("%s: %s, want %s", rule, fmt.Sprint(got), c.want)
		}
	}
}

// Whom a restored store does not know may live by the fence of one whose record is
// older than the socket life, be it without end.
func TestAfterRestoreOlderRecords(t *testing.T) {
	backup := storage.Registered{Head: storage.Revision{Epoch: 1, Sequence: 1}, Instances: []storage.Instance{
		{ID: storage.InstanceID{1}, Node: "older", SessionFence: storage.NoFence},
		{ID: storage.InstanceID{2}, Node: "newer", SessionFence: storage.NoFence, SocketLife: time.Hour},
	}}
	for _, i := range storage.AfterRestore(backup, nil, time.UnixMilli(1)) {
		if i.Node == storage.NodesUnknown && i.SocketLife != storage.NoFence {
			t.Errorf("they are released after %v", i.SocketLife)
		}
	}
}
