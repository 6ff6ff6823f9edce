package wsnode

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// overDrivers runs a test with each driver, plain and over TLS. Two routes have
// another audience each, of which one holds what the application sends against a
// schema.
func overDrivers(t *testing.T, test func(t *testing.T, l *tcpLab)) {
	for _, d := range []Driver{AutoDriver, PortableDriver} {
		for name, over := range map[string]bool{"plain": false, "tls": true} {
			t.Run(string(d)+" "+name, func(t *testing.T) {
				var server, client *tls.Config
				if over {
					server, client = wstest.TLS(t)
				}
				l := newTCPWith(t, d, server, func(c *Config) {
					checkOutgoing(binaryPath, func(o *Outgoing) { o.OnRefusal = schema.Close })(c, nil)
					for i := range c.Routes {
						switch r := &c.Routes[i]; r.Path {
						case echoPath:
							r.Audience = "echo"
						case binaryPath:
							r.Audience = "news"
						}
					}
				})
				l.client = client
				test(t, l)
			})
		}
	}
}

// openTCP opens a session over TCP.
func (l *tcpLab) openTCP(path string, t wstest.Token) *wstest.Peer {
	l.t.Helper()
	c, err := net.Dial("tcp", l.listener.Addr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	if l.client != nil {
		c = tls.Client(c, l.client)
	}
	p := wstest.NewPeer(l.t, c)
	p.Open(wstest.Opening{Target: path, Bearer: l.a.Issue(t).Text})
	return p
}

// A broadcast reaches those sessions that it selects, and no other.
func TestBroadcastSelects(t *testing.T) {
	overDrivers(t, func(t *testing.T, l *tcpLab) {
		ada := l.openTCP(echoPath, wstest.Token{Tenant: "a", Subject: "ada", Audience: "echo"})
		twin := l.openTCP(echoPath, wstest.Token{Tenant: "b", Subject: "ada", Audience: "echo"})
		bob := l.openTCP(binaryPath, wstest.Token{Tenant: "a", Subject: "bob", Audience: "news"})
		all := []*wstest.Peer{ada, twin, bob}
		for _, test := range []struct {
			to   deliver.To
			gets []*wstest.Peer
		}{
			{deliver.To{All: true}, all},
			{deliver.To{Route: "echo"}, []*wstest.Peer{ada, twin}},
			{deliver.To{Route: "news"}, []*wstest.Peer{bob}},
			{deliver.To{Route: "none"}, nil},
			{deliver.To{Tenant: "a"}, []*wstest.Peer{ada, bob}},
			{deliver.To{Tenant: "b", Route: "news"}, nil},
			{deliver.To{Tenant: "b", Subject: "ada"}, []*wstest.Peer{twin}},
			{deliver.To{Tenant: "a", Subject: "ada", Route: "news"}, nil},
			{deliver.To{Tenant: "a", Subject: "nobody"}, nil},
		} {
			if err := l.Broadcast(test.to, deliver.Text, []byte(goodNews)); err != nil {
				t.Errorf("%+v: %v", test.to, err)
			}
			for _, p := range test.gets {
				p.Want(ws.OpText, goodNews)
			}
		}
		for _, p := range all { // and got nothing else
			p.Send(goodNews)
			p.Want(ws.OpText, goodNews)
		}
		if err := l.Broadcast(deliver.To{Route: "echo"}, deliver.Binary, []byte("\x00")); err != nil {
			t.Error(err)
		}
		ada.Want(ws.OpBinary, "\x00")
		twin.Want(ws.OpBinary, "\x00")
	})
}

// What cannot be sent is said at once. A route whose schema does not allow a
// message is asked once, and its sessions go on, even where one such message of
// their own would close them.
func TestBroadcastRefused(t *testing.T) {
	overDrivers(t, func(t *testing.T, l *tcpLab) {
		p := l.openTCP(echoPath, wstest.Token{Audience: "echo"})
		q, r := l.openTCP(binaryPath, wstest.Token{Audience: "news"}), l.openTCP(binaryPath, wstest.Token{Audience: "news"})
		for _, test := range []struct {
			to      deliver.To
			payload string
			want    error
		}{
			{deliver.To{}, "x", deliver.ErrNobody},
			{deliver.To{Subject: "ada"}, "x", deliver.ErrNoTenant},
			{deliver.To{All: true}, strings.Repeat("x", 1<<20+1), deliver.ErrMessageTooBig},
			{deliver.To{Route: "news"}, badNews, deliver.ErrNotAllowed},
			{deliver.To{All: true}, badNews, deliver.ErrNotAllowed},
		} {
			if err := l.Broadcast(test.to, deliver.Text, []byte(test.payload)); !errors.Is(err, test.want) {
				t.Errorf("%+v: %v, want %v", test.to, err, test.want)
			}
		}
		p.Want(ws.OpText, badNews) // which its route allows
		for _, p := range []*wstest.Peer{q, r} {
			p.Send(goodNews)
			p.Want(ws.OpText, goodNews)
		}
		if got := l.metric("messages_unsent_total", "message_not_allowed"); got != 2 {
			t.Errorf("%v messages are counted as unsent, want one for each broadcast", got)
		}
		lines := l.logs.lines(t, "the application sends what its schema does not allow")
		if len(lines) == 0 || lines[0]["broadcast"] != true || lines[0]["route"] != binaryPath {
			t.Errorf("logged %v", lines)
		}
	})
}

// Broadcasts come in their order, after what was sent before, also where a
// handler's call sends them. A session that has ended gets none.
func TestBroadcastOrder(t *testing.T) {
	overDrivers(t, func(t *testing.T, l *tcpLab) {
		l.calls.message = func(s deliver.Session, _ deliver.Op, payload []byte) error {
			if err := s.Send(payload); err != nil {
				return err
			}
			return errors.Join(l.Broadcast(deliver.To{Route: "echo"}, deliver.Text, []byte("1")), l.Broadcast(deliver.To{Route: "echo"}, deliver.Text, []byte("2")))
		}
		p := l.openTCP(echoPath, wstest.Token{Audience: "echo"})
		first := l.calls.newest()
		q := l.openTCP(echoPath, wstest.Token{Audience: "echo"})
		if err := first.Send([]byte("0")); err != nil {
			t.Fatal(err)
		}
		q.Send("q")
		for _, want := range []string{"q", "1", "2"} {
			q.Want(ws.OpText, want)
		}
		for _, want := range []string{"0", "1", "2"} {
			p.Want(ws.OpText, want)
		}
		if err := first.Close(1000, ""); err != nil {
			t.Fatal(err)
		}
		if err := l.Broadcast(deliver.To{Route: "echo"}, deliver.Text, []byte("late")); err != nil {
			t.Error(err)
		}
		q.Want(ws.OpText, "late")
		p.WantClose(1000, "")
		p.WantEnd()
	})
}
