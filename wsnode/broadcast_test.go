package wsnode

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// On the portable driver broadcasts go on while the handler of one socket takes its
// time. For that one as much waits as may, of what it is to get; then it is closed as
// one that does not read.
func TestBroadcastToBusySockets(t *testing.T) {
	inLab(t, withoutPings, func(l *lab) {
		release := make(chan struct{})
		l.calls.message = func(s deliver.Session, _ deliver.Op, _ []byte) error {
			<-release
			return nil
		}
		busy, other, idle := l.open(echoPath, wstest.Token{Tenant: "a"}), l.open(echoPath, wstest.Token{Tenant: "b"}), l.open(echoPath, wstest.Token{Tenant: "a"})
		busy.Send("takes long")
		other.Send("too")
		synctest.Wait()
		news := strings.Repeat("n", 1000)
		most := l.cfg.Sockets.OutboundBytes / (len(news) + 4)
		cast := func() {
			if err := l.Broadcast(deliver.To{Tenant: "a"}, deliver.Text, []byte(news)); err != nil {
				t.Fatal(err)
			}
			idle.Want(ws.OpText, news)
		}
		for range most {
			cast()
		}
		if got := l.metric("sessions_closed_total", "slow_reader"); got != 0 || l.Sessions() != 3 {
			t.Fatalf("%v sessions are closed, %d live", got, l.Sessions())
		}
		cast()
		for _, s := range l.sessions.all() {
			if ended := s.cause.Load() != 0; ended != (s.party.tenant == "a" && errors.Is(s.ending(), errSlowReader)) {
				t.Errorf("a session of tenant %s has ended: %t", s.party.tenant, ended)
			}
		}
		cast() // the busy one gets none
		close(release)
		for range most {
			busy.Want(ws.OpText, news)
		}
		busy.WantClose(1013, "reading too slowly")
		if err := l.Broadcast(deliver.To{Tenant: "b"}, deliver.Text, []byte("for b")); err != nil {
			t.Fatal(err)
		}
		other.Want(ws.OpText, "for b")
	})
}
