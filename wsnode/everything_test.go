package wsnode

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// A revocation that hits everything on a full node closes all that it hits in one
// go, and nobody else: others talk on meanwhile, the acknowledgement counts each
// socket, and what the sockets had (goroutines, places under the limits) is free
// for as many anew.
func TestRevocationThatHitsEverything(t *testing.T) {
	const everything, others = 2000, 20
	full := func(c *Config, _ *wstest.Authority) {
		c.Limits.Sockets.Max, c.Limits.Addresses = everything+others, 2*everything
	}
	inLab(t, full, func(l *lab) {
		open := func(n int, tenant string) *wstest.Peer {
			p := l.dialFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}).String())
			p.Open(wstest.Opening{Target: echoPath, Bearer: l.a.Issue(wstest.Token{Tenant: tenant, Subject: fmt.Sprint("u", n)}).Text})
			return p
		}
		talkers := make([]*wstest.Peer, others)
		for n := range talkers {
			talkers[n] = open(everything+n, "bolt")
		}
		synctest.Wait()
		goroutines := runtime.NumGoroutine()
		for _, round := range []string{"the first", "as many anew"} {
			hit := make([]*wstest.Peer, everything)
			for n := range hit {
				hit[n] = open(n, "acme")
			}
			if got := l.Sessions(); got != everything+others {
				t.Fatalf("%s: %d sessions, want %d", round, got, everything+others)
			}
			hit[0].Write(wstest.Frame(ws.OpText, []byte("still heard")))
			hit[0].Want(ws.OpText, "still heard")
			unused := l.a.Issue(wstest.Token{Tenant: "acme"}).Text
			began := time.Now()
			at := l.a.Revoke(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "acme"}})
			for n, p := range talkers {
				exchange(p, fmt.Sprint("talker ", n))
			}
			synctest.Wait()
			acks := l.a.Seen().Acknowledgements
			last := acks[len(acks)-1]
			e := last.GetEnforced()
			if last.GetThrough().GetSequence() != at.GetSequence() || len(e) != 1 || e[0].GetSequence() != at.GetSequence() || e[0].GetClosed() != everything || e[0].GetLingering() != 0 {
				t.Fatalf("%s: acknowledged %v, want %d sockets closed", round, last, everything)
			}
			if took := time.Since(began); took > enforceTimeout {
				t.Errorf("%s: acknowledged after %v", round, took)
			}
			for _, p := range hit {
				p.WantClose(4501, "token revoked")
			}
			synctest.Wait()
			if got := l.Sessions(); got != others {
				t.Errorf("%s: %d sessions are left, want %d", round, got, others)
			}
			if c := l.addresses.Counts(); c.Sockets != others || c.Unauthenticated != 0 {
				t.Errorf("%s: counts %+v, want %d sockets", round, c, others)
			}
			tooMany := func() bool { return runtime.NumGoroutine() > goroutines+10 } // the node's own come and go
			for i := 0; i < 1e6 && tooMany(); i++ {
				runtime.Gosched() // those that have returned count until they are put away
			}
			if tooMany() {
				t.Errorf("%s: %d goroutines, before there were %d", round, runtime.NumGoroutine(), goroutines)
			}
			p := l.dial()
			p.Write(wstest.Opening{Target: echoPath, Bearer: unused}.Bytes())
			l.wantRefused(p, 401, "token_revoked")
		}
		if n := l.metric("sessions_closed_total", "token_revoked"); n != 2*everything {
			t.Errorf("%v sockets count as revoked, want %d", n, 2*everything)
		}
		for n, p := range talkers {
			exchange(p, fmt.Sprint("at last ", n))
		}
	})
}
