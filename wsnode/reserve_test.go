package wsnode

import (
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// An address with as many sockets as it may have is told so before its token is
// spent: the same one opens a socket once there is room.
func TestAddressLimitSpendsNoToken(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { c.Limits.AuthenticatedPerAddress.Max = 1 }, func(l *lab) {
		first := l.open(echoPath, wstest.Token{})
		o := wstest.Opening{Target: echoPath, Bearer: l.token()}
		p := l.dial()
		p.Write(o.Bytes())
		l.wantRefused(p, 429, "address_limit")
		if n := len(l.a.Seen().Redeems); n != 1 {
			t.Errorf("%d tokens were redeemed, want the first alone", n)
		}
		if got := l.metric("connections_refused_total", "authenticated_per_address"); got != 1 {
			t.Errorf("%v refusals are counted, want 1", got)
		}
		first.Write(wstest.CloseFrame(ws.StatusNormalClosure, ""))
		first.WantClose(ws.StatusNormalClosure, "")
		synctest.Wait()
		l.dial().Open(o)
	})
}

// The place that a handshake has while its token is redeemed is its own, and is
// given back however that ends.
func TestPlacesAreGivenBack(t *testing.T) {
	one := func(c *Config, a *wstest.Authority) {
		c.Limits.AuthenticatedPerAddress.Max = 1
		a.Hold(wstest.Redemptions, true)
	}
	verifying := func(l *lab) *wstest.Peer {
		p := l.dial()
		p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
		synctest.Wait()
		return p
	}
	for _, c := range []struct {
		rule string
		end  func(l *lab, p *wstest.Peer)
	}{
		{"the authority refuses", func(l *lab, p *wstest.Peer) {
			l.a.OnRedeem(func(*pb.RedeemItem) *pb.RedeemResult { return wstest.RefusalOf(pb.Reason_REASON_TOKEN_USED) })
			l.a.Hold(wstest.Redemptions, false)
			l.wantRefused(p, 401, "token_used")
			l.a.OnRedeem(nil)
		}},
		{"the authority does not answer", func(l *lab, p *wstest.Peer) {
			l.wantRefused(p, 503, "authority_unavailable")
			l.a.Hold(wstest.Redemptions, false)
		}},
		{"the token is revoked meanwhile", func(l *lab, p *wstest.Peer) {
			l.a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return l.a.GrantAt(item, &pb.Revision{Epoch: 1}) })
			l.revokeAll()
			synctest.Wait()
			l.a.Hold(wstest.Redemptions, false)
			l.wantRefused(p, 401, "token_revoked")
			l.a.OnRedeem(nil)
		}},
		{"the peer goes", func(l *lab, p *wstest.Peer) {
			_ = p.Conn.Close()
			synctest.Wait()
			l.a.Hold(wstest.Redemptions, false)
		}},
		{"the peer sends too much meanwhile", func(l *lab, p *wstest.Peer) {
			go func() { _, _ = p.Conn.Write(make([]byte, 8000)) }()
			l.wantRefused(p, 400, "handshake_malformed")
			l.a.Hold(wstest.Redemptions, false)
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, one, func(l *lab) {
				first := verifying(l)
				l.wantRefused(verifying(l), 429, "address_limit")
				c.end(l, first)
				synctest.Wait()
				exchange(l.open(echoPath, wstest.Token{}), "x")
			})
		})
	}
}
