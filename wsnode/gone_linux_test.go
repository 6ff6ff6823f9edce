package wsnode

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// leaving is how far a connection has come when its peer goes: by a RST, or without
// a word, as one whose cable is cut.
type leaving struct {
	name          string
	onTLS, offTLS bool // there is no such state without TLS, or with it
	reach         func(g *guest) error

	reset string // what the node makes of a RST
	// What has it end a connection that is silent from then on, and what it makes of
	// that.
	hurry  func(c *Config)
	silent string
}

const soon = 300 * time.Millisecond

var leavings = []leaving{
	{name: "before a byte", offTLS: true, reach: (*guest).connect,
		hurry: func(c *Config) { c.Sockets.HandshakeTimeout = soon }, silent: "refused handshake_timeout"},
	{name: "before a ClientHello", onTLS: true, reach: func(*guest) error { return nil },
		reset: "TLS failed", hurry: func(c *Config) { c.Sockets.HandshakeTimeout = soon }, silent: "TLS failed"},
	{name: "within a ClientHello", onTLS: true, reach: func(g *guest) error {
		return g.write("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	}, reset: "TLS failed", hurry: func(c *Config) { c.Sockets.HandshakeTimeout = soon }, silent: "TLS failed"},
	{name: "within the TLS handshake", onTLS: true, reach: func(g *guest) error {
		_ = tls.Client(&firstByte{Conn: g.tcp}, g.l.client).Handshake() // the node's answer has begun to come
		return nil
	}, reset: "TLS failed", hurry: func(c *Config) { c.Sockets.HandshakeTimeout = soon }, silent: "TLS failed"},
	{name: "within the head", reach: func(g *guest) error {
		if err := g.connect(); err != nil {
			return err
		}
		return g.write(string(wstest.Opening{Target: echoPath}.Bytes()[:60]))
	}, hurry: func(c *Config) { c.Sockets.HandshakeTimeout = soon }, silent: "refused handshake_timeout"},
	{name: "while the token is verified", reach: func(g *guest) error {
		g.l.a.Hold(wstest.Redemptions, true)
		if err := g.connect(); err != nil {
			return err
		}
		return g.write(string(wstest.Opening{Target: echoPath, Bearer: g.l.token()}.Bytes()))
	}, hurry: func(c *Config) { c.Authority.RedeemTimeout = soon }, silent: "refused authority_unavailable"},
	{name: "open", reach: func(g *guest) error { return g.open() },
		reset: "closed 1006 connection_lost", hurry: func(c *Config) {
			c.Sockets.PingInterval, c.Sockets.PongTimeout, c.Sockets.CloseTimeout = soon, soon, soon
		}, silent: "closed 1001 idle"},
	{name: "within a frame", reach: func(g *guest) error {
		if err := g.open(); err != nil {
			return err
		}
		return g.write(string(text(strings.Repeat("x", 3000))[:1500]))
	}, reset: "closed 1006 connection_lost", hurry: func(c *Config) { c.Sockets.MessageTimeout, c.Sockets.CloseTimeout = soon, soon }, silent: "closed 1008 message_timeout"},
	{name: "within a message", reach: func(g *guest) error {
		if err := g.open(); err != nil {
			return err
		}
		return g.write(string(raw(0x01, "a")))
	}, reset: "closed 1006 connection_lost", hurry: func(c *Config) { c.Sockets.MessageTimeout, c.Sockets.CloseTimeout = soon, soon }, silent: "closed 1008 message_timeout"},
	{name: "with output queued", reach: (*guest).overwhelm,
		reset: "closed 1006 connection_lost", hurry: func(c *Config) { c.Sockets.WriteTimeout = soon }, silent: "closed 1006 connection_lost"},
	{name: "within the closing handshake", reach: func(g *guest) error {
		if err := g.open(); err != nil {
			return err
		}
		if err := g.write(string(raw(0x82, "x"))); err != nil { // binary, which the route does not take
			return err
		}
		return g.read(ws.OpClose)
	}, reset: "closed 1008 binary_refused", hurry: func(c *Config) { c.Sockets.CloseTimeout = soon }, silent: "closed 1008 binary_refused"},
	{name: "while the node lingers behind a refusal", reach: func(g *guest) error {
		if err := g.connect(); err != nil {
			return err
		}
		if err := g.write(string(wstest.Opening{Target: "/nowhere"}.Bytes())); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, g.conn) // to the end of the node's side
		return err
	}, reset: "refused route_unknown", hurry: func(*Config) {}, silent: "refused route_unknown"},
	{name: "behind its close frame", reach: func(g *guest) error {
		if err := g.open(); err != nil {
			return err
		}
		if err := g.write(string(wstest.CloseFrame(1000, ""))); err != nil {
			return err
		}
		return g.read(ws.OpClose)
	}, reset: "closed 1000 peer_closed", hurry: func(*Config) {}, silent: "closed 1000 peer_closed"},
}

// guest is one connection to a node.
type guest struct {
	l    *tcpLab
	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS over it
}

// connect is TLS where the node has that.
func (g *guest) connect() error {
	if g.l.client == nil {
		return nil
	}
	over := tls.Client(g.tcp, g.l.client)
	g.conn = over
	return over.Handshake()
}

// write writes, and waits until the node has read it, behind its TLS handshake if
// there is one.
func (g *guest) write(b string) error {
	if _, err := g.conn.Write([]byte(b)); err != nil {
		return err
	}
	for deadline := time.Now().Add(wstest.Patience); unread(g.tcp) > 0 || g.l.metric("tls_handshakes", "") > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the node has not read all of %d bytes", len(b))
		}
	}
	return nil
}

// unread is how many bytes lie ready at the other end of a connection, which is a
// descriptor of this process too.
func unread(c net.Conn) int {
	port := c.LocalAddr().(*net.TCPAddr).Port
	open, _ := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		fd, _ := strconv.Atoi(e.Name())
		peer, err := unix.Getpeername(fd)
		if at, ok := peer.(*unix.SockaddrInet4); err == nil && ok && at.Port == port {
			n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ)
			return n
		}
	}
	return 0
}

// read reads frames up to one of op.
func (g *guest) read(op ws.OpCode) error {
	for {
		h, err := ws.ReadHeader(g.conn)
		if err == nil {
			_, err = io.CopyN(io.Discard, g.conn, h.Length)
		}
		if err != nil || h.OpCode == op {
			return err
		}
	}
}

// open opens a session, and has it echo.
func (g *guest) open() error {
	if err := g.connect(); err != nil {
		return err
	}
	if _, err := g.conn.Write(wstest.Opening{Target: echoPath, Bearer: g.l.token()}.Bytes()); err != nil {
		return err
	}
	answer := []byte{}
	for one := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\r\n\r\n")); answer = append(answer, one...) {
		if _, err := g.conn.Read(one); err != nil {
			return err
		}
	}
	if _, err := g.conn.Write(text("hello")); err != nil {
		return err
	}
	return g.read(ws.OpText)
}

// overwhelm has messages echoed and reads none, until answers wait.
func (g *guest) overwhelm() error {
	if err := g.open(); err != nil {
		return err
	}
	message := text(strings.Repeat("x", 60_000))
	for range 2 { // the kernel holds less than one
		if _, err := g.conn.Write(message); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(wstest.Patience); g.l.driver.Queued() < len(message)/2 && g.l.Sessions() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("nothing is queued")
		}
	}
	return nil
}

// firstByte is a connection of which one byte can be read.
type firstByte struct {
	net.Conn
	over bool
}

func (f *firstByte) Read(p []byte) (int, error) {
	if f.over {
		return 0, net.ErrClosed
	}
	f.over = true
	return f.Conn.Read(p[:1])
}

// A peer that goes, whatever state its connection is in, has the end that it is said
// to have here, on either driver, with TLS and without; and nothing is left of it.
func TestPeersThatGo(t *testing.T) {
	server, client := wstest.TLS(t)
	// The kernel holds little for who does not read, on either side.
	narrow := func(option int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 4096) })
		}
	}
	dialer, listens := net.Dialer{Control: narrow(unix.SO_RCVBUF)}, net.ListenConfig{Control: narrow(unix.SO_SNDBUF)}
	type stay struct {
		name, want string
		l          *tcpLab
	}
	var stays []stay
	for _, x := range leavings {
		for _, driver := range []Driver{AutoDriver, PortableDriver} {
			for _, cfg := range []*tls.Config{nil, server} {
				if x.onTLS && cfg == nil || x.offTLS && cfg != nil {
					continue
				}
				arrive := func(edit func(*Config)) *guest {
					for range 20 { // what is short for the silent may be too short to get there
						listener, err := listens.Listen(t.Context(), "tcp", "127.0.0.1:0")
						if err != nil {
							t.Fatal(err)
						}
						l := newTCPOn(t, listener, driver, cfg, edit)
						if cfg != nil {
							l.client = client
						}
						c, err := dialer.Dial("tcp", l.listener.Addr().String())
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = c.Close() })
						g := &guest{l: l, tcp: c.(*net.TCPConn), conn: c}
						_ = c.SetDeadline(time.Now().Add(wstest.Patience))
						if err = x.reach(g); err == nil {
							return g
						}
						t.Logf("%s %s: not reached: %v", x.name, driver, err)
					}
					t.Fatalf("%s %s: never reached", x.name, driver)
					return nil
				}
				name := fmt.Sprintf("%s %s, TLS %t", x.name, driver, cfg != nil)
				g := arrive(func(*Config) {})
				_ = g.tcp.SetLinger(0)
				_ = g.tcp.Close()
				stays = append(stays, stay{"RST " + name, x.reset, g.l})
				g = arrive(x.hurry)
				stays = append(stays, stay{"silence " + name, x.silent, g.l})
			}
		}
	}
	for _, x := range stays {
		t.Run(x.name, func(t *testing.T) {
			ctx, cancel := contextFor(wstest.Patience)
			defer cancel()
			if err := x.l.driver.Wait(ctx); err != nil {
				t.Fatal(err)
			}
			if got := x.l.end(); got != x.want {
				t.Errorf("it ends as %q, want %q", got, x.want)
			}
			if c := x.l.addresses.Counts(); c.Sockets != 0 || c.Unauthenticated != 0 || x.l.Sessions() != 0 || x.l.driver.Queued() != 0 {
				t.Errorf("left over: %+v, %d sessions, %d bytes queued", c, x.l.Sessions(), x.l.driver.Queued())
			}
		})
	}
}

// end is how the one connection of a node has ended.
func (l *tcpLab) end() string {
	var out []string
	for _, event := range l.calls.seen() {
		if strings.HasPrefix(event, "closed") {
			out = append(out, event)
		}
	}
	for _, line := range l.logs.lines(l.t, "handshake refused") {
		out = append(out, fmt.Sprint("refused ", line["reason"]))
	}
	if l.metric("tls_handshakes_failed_total", "") > 0 {
		out = append(out, "TLS failed")
	}
	return strings.Join(out, ", ")
}
