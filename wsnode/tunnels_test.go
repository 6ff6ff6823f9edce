package wsnode

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/tunnel"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

const sshBanner = "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"

func binaryFrame(payload string) []byte { return wstest.Frame(ws.OpBinary, []byte(payload)) }

// tunnelling sets what all routes do about tunnels.
func tunnelling(policy TunnelPolicy) func(*Config, *wstest.Authority) {
	return func(c *Config, _ *wstest.Authority) {
		for i := range c.Routes {
			c.Routes[i].Tunnels = policy
		}
	}
}

// tunnelsFound is the metric of a route and a signature; all others must be zero.
func (l *lab) tunnelsFound(route string, s tunnel.Signature) (n float64) {
	l.t.Helper()
	families, err := l.metrics.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	series := 0
	for _, f := range families {
		if f.GetName() != "gatehouse_node_tunnels_found_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			series++
			v := m.GetCounter().GetValue()
			if m.GetLabel()[0].GetValue() == route && m.GetLabel()[1].GetValue() == s.String() {
				n = v
			} else if v != 0 {
				l.t.Errorf("%v are counted as %v", v, m.GetLabel())
			}
		}
	}
	if want := len(l.cfg.Routes) * len(tunnel.Signatures()); series != want {
		l.t.Errorf("%d series from the start, want %d", series, want)
	}
	return n
}

// What is found is told once, and nothing of what was in it.
func (l *lab) wantTunnel(route string, s tunnel.Signature, carried string, policy TunnelPolicy) {
	l.t.Helper()
	synctest.Wait()
	lines := l.logs.lines(l.t, "tunnel found")
	if len(lines) != 1 || lines[0]["signature"] != s.String() || lines[0]["carried"] != carried || lines[0]["route"] != route ||
		lines[0]["policy"] != string(policy) || lines[0]["level"] != "WARN" || lines[0]["subject"] != "u42" || lines[0]["client_ip"] != "192.0.2.1" {
		l.t.Errorf("logged %v", lines)
	}
	if n := l.tunnelsFound(route, s); n != 1 {
		l.t.Errorf("%v are counted", n)
	}
	if strings.Contains(l.logs.String(), "OpenSSH") || strings.Contains(l.logs.String(), "U1NI") {
		l.t.Error("the log has what was sent")
	}
}

func TestTunnelIsClosed(t *testing.T) {
	for _, policy := range []TunnelPolicy{CloseTunnels, ""} {
		inLab(t, tunnelling(policy), func(l *lab) {
			p := l.open(binaryPath, wstest.Token{})
			p.Write(append(binaryFrame("hello"), binaryFrame(sshBanner)...))
			p.Want(ws.OpBinary, "hello")
			p.WantClose(1008, "tunnels not allowed")
			p.WantEnd()
			l.wantTunnel(binaryPath, tunnel.SSH, "raw", CloseTunnels)
			if events := strings.Join(l.calls.seen(), "\n"); strings.Contains(events, "SSH") {
				t.Errorf("the handler was told of it: %s", events)
			}
		})
	}
}

func TestTunnelIsLogged(t *testing.T) {
	inLab(t, tunnelling(LogTunnels), func(l *lab) {
		p := l.open(binaryPath, wstest.Token{})
		for range 3 {
			p.Write(binaryFrame(sshBanner))
			p.Want(ws.OpBinary, sshBanner)
		}
		l.wantTunnel(binaryPath, tunnel.SSH, "raw", LogTunnels)
	})
}

// A throttled socket may send what was taken for a tunnel by mistake, and goes on
// slowly; a renewal does not set it free.
func TestTunnelIsThrottled(t *testing.T) {
	inLab(t, tunnelling(ThrottleTunnels), func(l *lab) {
		p := l.open(binaryPath, wstest.Token{})
		p.Write(binaryFrame(sshBanner))
		p.Want(ws.OpBinary, sshBanner)
		l.wantTunnel(binaryPath, tunnel.SSH, "raw", ThrottleTunnels)
		p.Send(fmt.Sprintf(`{"gatehouse":"renew","token":"%s"}`, l.token()))
		if op, answer := p.Read(); op != ws.OpText || !strings.Contains(string(answer), "renewed") {
			t.Fatalf("%v %q", op, answer)
		}
		some := strings.Repeat("x", throttledBytes-messageCost)
		for range 40 { // as fast as it may, for ever
			p.Write(binaryFrame(some))
			p.Want(ws.OpBinary, some)
			time.Sleep(time.Second)
		}
		time.Sleep(throttledBurst / throttledBytes * time.Second)
		for range throttledBurst / throttledBytes { // and its burst at once
			p.Write(binaryFrame(some))
			p.Want(ws.OpBinary, some)
		}
		p.Write(binaryFrame(some))
		p.WantClose(4029, "too many messages")
		p.WantEnd()
	})
}

// Schemas see a text and not what it is for.
func TestTunnelOnACheckedRoute(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(chatPath, wstest.Token{})
		said := `{"type":"chat","text":"` + base64.StdEncoding.EncodeToString([]byte("RFB 003.008\n")) + `"}`
		p.Send(said)
		p.Want(ws.OpText, said)
		p.Send(`{"type":"chat","text":"AQ=="}`)
		p.WantClose(1008, "tunnels not allowed")
		p.WantEnd()
		l.wantTunnel(chatPath, tunnel.RFB, "json_base64", CloseTunnels)
		if got := l.metric("sessions_closed_total", pb.Reason_REASON_TUNNEL_FOUND.Label()); got != 1 {
			t.Errorf("%v sessions are closed for it", got)
		}
	})
}

func TestUncheckedRoutesAreMetered(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		for path, want := range map[string]float64{echoPath: 1, binaryPath: 1, closingPath: 1, chatPath: 0} {
			if got := l.metric("route_unchecked", path); got != want {
				t.Errorf("%s: %v, want %v", path, got, want)
			}
		}
	})
}
