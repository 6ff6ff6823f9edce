package ledger

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// FuzzIndex proves that the index finds what Selector says: it puts a selector
// in, next to others, and asks for a token and a session.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{192, 0, 2, 7}, []byte{192, 0, 2, 0}, 24, uint8(4), "acme", "ada")
	f.Add([]byte{192, 0, 2, 7}, []byte{192, 0, 2, 8}, 32, uint8(4), "", "")
	f.Add([]byte{192, 0, 2, 7}, []byte{0, 0, 0, 0}, 0, uint8(4), "acme", "")
	f.Add([]byte("\x20\x01\x0d\xb8............"), []byte("\x20\x01\x0d\xb8============"), 32, uint8(4), "acme", "bob")
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x07"), []byte{192, 0, 2, 0}, 24, uint8(4), "", "ada")
	f.Add([]byte{192, 0, 2, 7}, []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x00"), 95, uint8(4), "", "ada")
	f.Add([]byte{192, 0, 2, 7}, []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x00"), 128, uint8(4), "", "ada")
	f.Add([]byte{}, []byte{0, 0, 0, 0}, 0, uint8(0), "acme", "ada")
	f.Fuzz(func(t *testing.T, addr, prefix []byte, bits int, kind uint8, tenant, name string) {
		ip, _ := netip.AddrFromSlice(addr)
		base, _ := netip.AddrFromSlice(prefix)
		x := &storage.Token{ID: storage.TokenID{1}, Tenant: "acme", Subject: "ada", Issuer: "login", ClientIP: ip}
		s := &storage.Session{ID: storage.SessionID{2}, Token: x.ID, Tenant: x.Tenant, Subject: x.Subject, Issuer: x.Issuer, TokenIP: x.ClientIP, ClientIP: base}
		var sel storage.Selector
		switch kind % 7 {
		case 0:
			sel.Token = storage.TokenID{byte(bits)}
		case 1:
			sel.Session = storage.SessionID{byte(bits)}
		case 2:
			sel.Tenant, sel.Subject = tenant, name
		case 3:
			sel.Tenant = tenant
		case 4:
			sel.Prefix = netip.PrefixFrom(base, bits)
		case 5:
			sel.Issuer = name
		case 6:
			sel.AllSubjects = true
		}
		if sel == (storage.Selector{}) || kind%7 == 4 && !sel.Prefix.IsValid() {
			return
		}
		ix := newIndex[hit]()
		others := []storage.Selector{
			{Token: storage.TokenID{77}}, {Session: storage.SessionID{77}}, {Tenant: "x", Subject: "y"}, {Tenant: "x"}, {Issuer: "x"},
			{Prefix: netip.MustParsePrefix("203.0.113.0/25")}, {Prefix: netip.MustParsePrefix("2001:db9::/33")},
		}
		for i := range others {
			ix.put(&others[i], hit{newest: 1})
		}
		ix.put(&sel, hit{newest: 2})
		found := func(s *storage.Session) bool {
			return ix.hits(x, s, func(h hit) bool { return h.newest == 2 })
		}
		if got, want := found(nil), sel.HitsToken(x); got != want {
			t.Fatalf("%+v hits the token: %v, the index says %v", sel, want, got)
		}
		if got, want := found(s), sel.HitsSession(s) || sel.HitsToken(x); got != want {
			t.Fatalf("%+v hits the session: %v, the index says %v", sel, want, got)
		}
		if h, ok := ix.get(&sel); !ok || h.newest != 2 {
			t.Fatalf("%+v is not found by itself", sel)
		}
		ix.remove(&sel)
		ix.remove(&sel)
		if found(s) {
			t.Fatalf("%+v hits when it is removed", sel)
		}
		if got := fmt.Sprint(ix.lengths4, ix.lengths6); got != "[{25 1}] [{33 1}]" && sel.Prefix.Masked() != others[5].Prefix && sel.Prefix.Masked() != others[6].Prefix {
			t.Fatalf("lengths in use after removal: %s", got)
		}
	})
}

// One look-up is a few map look-ups and allocates nothing, whatever the number
// of entries.
func TestHitsAllocs(t *testing.T) {
	l := New(1)
	for i := range 1000 {
		sel := storage.Selector{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 8+i%25)}
		l.entries.put(&sel, hit{newest: 5})
		l.standing.put(&sel, []denial{{set: 5}})
	}
	x := &storage.Token{IssuedRevision: storage.Revision{Epoch: 1, Sequence: 9}, Tenant: "acme", ClientIP: netip.MustParseAddr("192.0.2.7")}
	s := &storage.Session{ClientIP: netip.MustParseAddr("192.0.2.8")}
	got := testing.AllocsPerRun(100, func() {
		if l.revoked(x, s, 9) || l.lockOn(x, s, 9) != nil {
			t.Fatal("hit")
		}
	})
	if got != 0 {
		t.Fatalf("%v allocations, want 0", got)
	}
}

func BenchmarkHits(b *testing.B) {
	for _, n := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			l := New(1)
			for i := range n {
				sel := storage.Selector{Token: storage.TokenID{byte(i), byte(i >> 8), byte(i >> 16)}}
				switch i % 4 {
				case 0:
					sel = storage.Selector{Tenant: "acme", Subject: fmt.Sprint(i)}
				case 1:
					sel = storage.Selector{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 16+i/4%16)}
				}
				l.entries.put(&sel, hit{newest: uint64(i)})
			}
			x := &storage.Token{IssuedRevision: storage.Revision{Epoch: 1, Sequence: 1 << 40}, Tenant: "acme", Subject: "ada", ClientIP: netip.MustParseAddr("192.0.2.7")}
			s := &storage.Session{ClientIP: netip.MustParseAddr("192.0.2.8")}
			b.ReportAllocs()
			for b.Loop() {
				if l.revoked(x, s, 1<<40) {
					b.Fatal("hit")
				}
			}
		})
	}
}
