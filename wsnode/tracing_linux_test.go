package wsnode

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// spans write down what is told of handshakes.
type spans struct {
	mu    sync.Mutex
	ended []string
}

func (s *spans) Handshake(driver string, at time.Time) HandshakeSpan {
	return &span{of: s, told: driver, last: at}
}

type span struct {
	of   *spans
	told string
	last time.Time
}

func (s *span) tell(what string, at time.Time) {
	if s.told += " " + what; at.Before(s.last) {
		s.told += " earlier"
	}
	s.last = at
}

func (s *span) Redeem(at time.Time) [24]byte {
	s.tell("redeem", at)
	return [24]byte{0: 1, 23: 2}
}

func (s *span) Redeemed(outcome string, at time.Time) { s.tell("redeemed "+outcome, at) }

func (s *span) End(h EndedHandshake, at time.Time) {
	s.tell(fmt.Sprintf("%s of %q", h.Outcome, h.Route), at)
	if len(h.ID) != 32 {
		s.told += " with the id " + h.ID
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.of.ended = append(s.of.ended, s.told)
}

// next is what was told of the handshake that ends next.
func (s *spans) next(t *testing.T) string {
	t.Helper()
	for deadline := time.Now().Add(wstest.Patience); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		if len(s.ended) > 0 {
			defer s.mu.Unlock()
			first := s.ended[0]
			s.ended = s.ended[1:]
			return first
		}
		s.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("no span ends")
		}
	}
}

// Every opening handshake is one span, which ends once, with its outcome; the
// authority is told of that of its redemption. Nothing in one is of the peer.
func TestHandshakeSpans(t *testing.T) {
	for d, name := range map[Driver]string{AutoDriver: "loops", PortableDriver: "portable"} {
		t.Run(name, func(t *testing.T) {
			traced := &spans{}
			l := newTCPWith(t, d, nil, func(c *Config) { c.Tracer = traced })
			dial := func() *wstest.Peer {
				c, err := net.Dial("tcp", l.listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				return wstest.NewPeer(t, c)
			}
			refused := func(o wstest.Opening) {
				p := dial()
				p.Write(o.Bytes())
				_, _ = p.Response()
			}
			want := func(told string) {
				t.Helper()
				if got, want := traced.next(t), name+" "+told; got != want {
					t.Errorf("%s, want %s", got, want)
				}
			}
			p := dial()
			p.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
			want(`redeem redeemed ok ok of "/echo"`)
			used := l.token()
			dial().Open(wstest.Opening{Target: echoPath, Bearer: used})
			want(`redeem redeemed ok ok of "/echo"`)
			refused(wstest.Opening{Target: echoPath, Bearer: used})
			want(`redeem redeemed token_used token_used of "/echo"`)
			refused(wstest.Opening{Target: "/nowhere", Bearer: l.token()})
			want(`route_unknown of ""`)
			refused(wstest.Opening{Target: echoPath})
			want(`token_missing of "/echo"`)
			gone := dial()
			gone.Write([]byte("GET /e"))
			_ = gone.Conn.Close()
			want(`connection_lost of ""`)
			exchange(p, "it was one span")
			l.a.Await(t, "the authority is told of all redemptions", func(s *wstest.Seen) bool { return len(s.Redeems) == 3 })
			l.a.Await(t, "each has its span", func(s *wstest.Seen) bool {
				for _, item := range s.Redeems {
					if string(item.GetSpan()) != "\x01"+strings.Repeat("\x00", 22)+"\x02" {
						t.Errorf("span %x", item.GetSpan())
					}
				}
				return true
			})
			l.a.OnRedeem(func(*pb.RedeemItem) *pb.RedeemResult { return wstest.RefusalOf(pb.Reason_REASON_LOCKED) })
			refused(wstest.Opening{Target: echoPath, Bearer: l.token()})
			want(`redeem redeemed locked locked of "/echo"`)
			traced.mu.Lock()
			defer traced.mu.Unlock()
			if len(traced.ended) > 0 {
				t.Errorf("more spans have ended: %q", traced.ended)
			}
		})
	}
}
