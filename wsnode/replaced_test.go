package wsnode

import (
	"testing"
	"testing/synctest"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// A session that newer ones took the place of is told to stay away: two clients that
// came back by themselves would close each other for ever. No receipt waits for it.
func TestReplaced(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p, other := l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{})
		synctest.Wait()
		newest, first := l.calls.newest().Identity().Session, [16]byte{}
		for _, s := range l.a.Sessions() {
			if s.ID != newest {
				first = s.ID
			}
		}
		l.a.Replace(first)
		p.WantClose(4509, "opened elsewhere")
		exchange(other, "goes on")
		synctest.Wait()
		if got := l.counted(); got != "map[] []" {
			t.Errorf("acknowledged %s", got)
		}
		if n := l.metric("sessions_closed_total", "session_replaced"); n != 1 {
			t.Errorf("%v sockets count as replaced", n)
		}
		for _, s := range l.a.Sessions() {
			if s.ID == first && (len(s.Reports) != 1 || s.Reports[0] != pb.Reason_REASON_SESSION_REPLACED) {
				t.Errorf("its end was reported as %v", s.Reports)
			}
		}
	})
}

// One whose grant was in flight is refused: the session has ended.
func TestReplacedInFlight(t *testing.T) {
	inLab(t, func(_ *Config, a *wstest.Authority) {
		a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return a.GrantAt(item, &pb.Revision{Epoch: 1}) })
	}, func(l *lab) {
		l.a.Hold(wstest.Redemptions, true)
		p := l.dial()
		p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
		synctest.Wait()
		l.a.Replace([16]byte(l.a.Seen().Redeems[0].GetSessionId()))
		synctest.Wait()
		l.a.Hold(wstest.Redemptions, false)
		l.wantRefused(p, 401, "session_ended")
	})
}
