package main

import (
	"errors"
	"strings"
	"testing"
)

// A machine that has no room for so many sockets says so before it opens one, and
// what there is too little of.
func TestRoomForSockets(t *testing.T) {
	enough := room{files: 20_000, allFiles: 3_000_000, watches: 5_000_000, available: 24 << 30}
	for _, c := range []struct {
		of      string
		edit    func(*room)
		sockets int
		pairs   int
		why     string
	}{
		{"a million", func(*room) {}, 1_000_000, 53, ""},
		{"few go to two nodes all the same", func(*room) {}, 100, 2, ""},
		{"what one more would need a node more for", func(*room) {}, 3 * 19_000, 3, ""},
		{"that one more", func(*room) {}, 3*19_000 + 1, 4, ""},
		{"no files of a process", func(r *room) { r.files = spareFiles }, 100, 0, "ulimit -n"},
		{"no files of all processes", func(r *room) { r.allFiles = 2_000_000 }, 1_000_000, 0, "fs.file-max"},
		{"no watches", func(r *room) { r.watches = 1_999_999 }, 1_000_000, 0, "fs.epoll.max_user_watches"},
		{"no memory", func(r *room) { r.available = 12 << 30 }, 1_000_000, 0, "memory are free"},
		{"memory that is to stay free", func(r *room) { r.available = keepFree }, 100, 0, "3072 MB must stay so"},
	} {
		t.Run(c.of, func(t *testing.T) {
			r := enough
			c.edit(&r)
			pairs, err := r.pairsFor(c.sockets)
			switch {
			case c.why == "" && (err != nil || pairs != c.pairs):
				t.Errorf("%d nodes, %v; want %d", pairs, err, c.pairs)
			case c.why != "" && (!errors.Is(err, errNoRoom) || !strings.Contains(err.Error(), c.why)):
				t.Errorf("%v, want one that tells of %q", err, c.why)
			}
		})
	}
	if r, err := roomHere(); err != nil || r.files <= 0 || r.allFiles <= 0 || r.watches <= 0 || r.available <= 0 {
		t.Errorf("here there is %+v, %v", r, err)
	}
}

// Every socket has a number, and few are marked: by their address, or by their
// subject, and none by both.
func TestMembersOfAllVisitors(t *testing.T) {
	const pairs, sockets, marked = 3, 1000, 100
	first, byAddress, bySubject := 0, 0, 0
	subjects, addresses := map[string]int{}, map[string]int{}
	for i := range pairs {
		o := visitorsOrder{First: first, ByAddress: share(marked, i, pairs), BySubject: share(marked, i, pairs)}
		n := share(sockets, i, pairs)
		for m := range n {
			subject, from := o.member(m)
			subjects[subject]++
			addresses[from.String()]++
			inPrefix := strings.HasPrefix(from.String(), "127.99.")
			switch {
			case inPrefix && subject == markedSubject:
				t.Errorf("socket %d of %d is marked twice", m, i)
			case inPrefix:
				byAddress++
			case subject == markedSubject:
				bySubject++
			}
		}
		first += n
	}
	if first != sockets || byAddress != marked || bySubject != marked {
		t.Errorf("%d sockets, %d marked by address, %d by subject; want %d, %d and %d", first, byAddress, bySubject, sockets, marked, marked)
	}
	if len(subjects) != sockets-marked+1 {
		t.Errorf("%d subjects, want one for each socket but those of %q", len(subjects), markedSubject)
	}
	for from, n := range addresses {
		if n > ownersOfAddress {
			t.Errorf("%d sockets come from %s, want at most %d", n, from, ownersOfAddress)
		}
	}
}
