//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// soakFor is how long TestSoak lasts; ./test --long asks for more.
func soakFor(t *testing.T) time.Duration {
	d, err := time.ParseDuration(cmpOr(os.Getenv("GATEHOUSE_TEST_SOAK"), "10s"))
	if err != nil {
		t.Fatalf("GATEHOUSE_TEST_SOAK: %v", err)
	}
	return d
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// TestSoak has two nodes, one of each driver, under all that clients and operators
// do at once, and a third one that is drained and started again and again. Whatever
// has gone on, in the end all that the nodes count is back where it was before, every
// slot of the clients' address is free, and their memory has not grown.
func TestSoak(t *testing.T) {
	s := newSystem(t)
	more := func(driver string) string {
		return "\ndrain_window: 1s\nreturn_window: 0s\nsockets: {driver: " + driver + ", handshake_timeout: 5s, ping_interval: 2s, pong_timeout: 10s, close_timeout: 5s, write_timeout: 5s, message_timeout: 5s}\n"
	}
	k := &soak{s: s, t: t, admin: s.dial("")}
	k.nodes = []*node{s.addNode("node-loops", more("auto")), s.addNode("node-portable", more("portable"))}
	drained := s.addNode("node-drained", more("auto"))
	k.run(2*time.Second, nil) // so that what is made once is there
	before := k.settled(nil)

	length := soakFor(t)
	live := k.run(length, drained)
	t.Logf("%v: %s", length, k.done())
	k.settled(before)
	for i, n := range k.nodes {
		k.wantPlateau(n, live[i])
		k.wantFreeSlots(n)
	}
}

// soak is what a soak is made of.
type soak struct {
	s     *system
	t     *testing.T
	admin *grpc.ClientConn
	nodes []*node
	did   [16]atomic.Int64 // by the index of deeds; then drains, and reloads
	busy  atomic.Int64     // deeds that a node had no time for
}

// deed is something that a client does to a node.
type deed struct {
	name string
	do   func(k *soak, c *soakClient) error
}

var deeds = []deed{
	{"echoes", (*soak).echoes},
	{"large messages", (*soak).large},
	{"renewals", (*soak).renews},
	{"revocations", (*soak).revoked},
	{"refusals", (*soak).refused},
	{"messages that no schema takes", (*soak).invalid},
	{"slow readers", (*soak).slow},
	{"resets before a byte", func(_ *soak, c *soakClient) error { return c.raw() }},
	{"resets within TLS or the head", (*soak).resetEarly},
	{"resets while the token is verified", (*soak).resetVerifying},
	{"resets of an open socket", (*soak).resetOpen},
	{"resets within a frame", (*soak).resetWithin},
	{"resets within the closing handshake", (*soak).resetClosing},
	{"silent sockets", (*soak).silent},
}

// run has clients at work for so long. It returns the live heap of each node, as it
// was over the time. Where a node is given, that is drained and started anew.
func (k *soak) run(length time.Duration, drained *node) [][]float64 {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var all sync.WaitGroup
	const clients = 24
	for i := range clients {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for n := i; ctx.Err() == nil; n++ {
				d := n % len(deeds)
				c := &soakClient{k: k, n: k.nodes[r.IntN(len(k.nodes))], tls: r.IntN(2) == 0, r: r}
				err := deeds[d].do(k, c)
				c.reset()
				if errors.Is(err, errBusy) { // the disk, or who else needs it, is slower than redeem_timeout
					k.busy.Add(1)
					continue
				}
				if err != nil {
					k.t.Errorf("%s, %s, TLS %t: %v", deeds[d].name, c.n.name, c.tls, err)
					return
				}
				k.did[d].Add(1)
				pause(ctx, time.Duration(r.IntN(20))*time.Millisecond)
			}
		})
	}
	if drained != nil {
		all.Go(func() { k.drains(ctx, drained) })
		all.Go(func() { k.reloads(ctx) })
	}
	live := make([][]float64, len(k.nodes))
	for pause(ctx, time.Second) {
		for i, n := range k.nodes {
			live[i] = append(live[i], k.read(n)["go_memstats_next_gc_bytes"])
		}
	}
	all.Wait()
	return live
}

// pause waits, and reports whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// read reads a node's metrics that have no labels.
func (k *soak) read(n *node) map[string]float64 {
	out := map[string]float64{}
	_, text := get("http://" + n.admin + "/metrics")
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}

// settled waits until nobody is there any more, and nothing of them: no more
// goroutines and descriptors than before, if there is a before.
func (k *soak) settled(before []map[string]float64) []map[string]float64 {
	k.t.Helper()
	out := make([]map[string]float64, len(k.nodes))
	for i, n := range k.nodes {
		most := map[string]float64{"gatehouse_node_sockets": 0, "gatehouse_node_sockets_unauthenticated": 0, "gatehouse_node_sessions": 0, "gatehouse_node_outbound_queued_bytes": 0}
		for _, name := range []string{"go_goroutines", "process_open_fds"} {
			if before != nil {
				most[name] = before[i][name]
			}
		}
		eventually(k.t, fmt.Sprintf("%s is back at %v", n.name, most), func() bool {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections() // which are the node's too
			out[i] = k.read(n)
			for name, most := range most {
				if v, ok := out[i][name]; !ok || v > most {
					return false
				}
			}
			return true
		})
		k.t.Logf("%s: %v goroutines, %v descriptors", n.name, out[i]["go_goroutines"], out[i]["process_open_fds"])
	}
	return out
}

// wantPlateau wants the live heap of the second half not to lie above that of the
// first by more than a quarter and 2 MiB. The collector aims at about twice of what
// was live at its end.
func (k *soak) wantPlateau(n *node, aims []float64) {
	half := len(aims) / 2
	if half < 30 {
		return // too short to tell
	}
	median := func(a []float64) float64 {
		a = slices.Clone(a)
		slices.Sort(a)
		return a[len(a)/2] / 2
	}
	first, second := median(aims[:half]), median(aims[half:])
	k.t.Logf("%s: live heap %.1f MiB in the first half, %.1f in the second", n.name, first/(1<<20), second/(1<<20))
	if second > first*1.25+2<<20 {
		k.t.Errorf("%s: memory grows: live heap %.1f MiB in the first half, %.1f in the second", n.name, first/(1<<20), second/(1<<20))
	}
}

// wantFreeSlots lowers the limits of an address and wants it to have all of them.
func (k *soak) wantFreeSlots(n *node) {
	const unauthenticated, sockets = 4, 6
	replaceInFile(k.t, n.config, "unauthenticated_per_address: {max: 1000}, authenticated_per_address: {max: 10000}",
		fmt.Sprintf("unauthenticated_per_address: {max: %d}, authenticated_per_address: {max: %d}", unauthenticated, sockets))
	k.reload(n)
	next := func() offer {
		return offer{url: "ws://" + n.plain + "/raw", bearer: k.issue().GetToken()}
	}
	for range sockets {
		eventually(k.t, "a socket", func() bool { // which a 503 holds up
			sock, err := open(k.t, next())
			if err == nil {
				sock.echo("x")
			}
			return err == nil
		})
	}
	wantStatus(k.t, next(), http.StatusTooManyRequests)
	// They wait for as long as the handshake may take, which is soon over.
	var waiting []net.Conn
	defer func() {
		for _, c := range waiting {
			_ = c.Close()
		}
	}()
	eventually(k.t, "as many wait as may", func() bool {
		for _, c := range waiting {
			_ = c.Close()
		}
		waiting = waiting[:0]
		for range unauthenticated {
			c, err := net.Dial("tcp", n.plain)
			if err != nil {
				k.t.Fatal(err)
			}
			waiting = append(waiting, c)
		}
		_, err := open(k.t, next())
		var e *errStatus
		return errors.As(err, &e) && e.code == http.StatusTooManyRequests && k.read(n)["gatehouse_node_sockets_unauthenticated"] == unauthenticated
	})
}

// done is how often each deed was done.
func (k *soak) done() string {
	var b strings.Builder
	for i, d := range deeds {
		fmt.Fprintf(&b, "%d %s, ", k.did[i].Load(), d.name)
	}
	return fmt.Sprintf("%s%d drains, %d reloads; %d told to come back later", b.String(), k.did[len(deeds)].Load(), k.did[len(deeds)+1].Load(), k.busy.Load())
}

// reload has a node read its file.
func (k *soak) reload(n *node) {
	had := k.read(n)[`gatehouse_node_reloads_total{result="ok"}`]
	n.signal(syscall.SIGHUP)
	eventually(k.t, n.name+" has reloaded", func() bool { return k.read(n)[`gatehouse_node_reloads_total{result="ok"}`] > had })
}

func (k *soak) reloads(ctx context.Context) {
	for pause(ctx, time.Second) {
		n := k.nodes[int(k.did[len(deeds)+1].Load())%len(k.nodes)]
		const many, more = "new_per_address: {max: 100000}", "new_per_address: {max: 100001}"
		b, err := os.ReadFile(n.config)
		if err != nil {
			k.t.Error(err)
			return
		}
		text := strings.NewReplacer(many, more, more, many).Replace(string(b))
		if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
			k.t.Error(err)
			return
		}
		had := k.read(n)[`gatehouse_node_reloads_total{result="ok"}`]
		n.signal(syscall.SIGHUP)
		for k.read(n)[`gatehouse_node_reloads_total{result="ok"}`] == had {
			if !pause(ctx, 10*time.Millisecond) {
				return
			}
		}
		k.did[len(deeds)+1].Add(1)
	}
}

// drains drains a node with sockets, and starts it again. Its process is another one
// then, in whose memory nothing can be left: that all of it ends is what counts.
func (k *soak) drains(ctx context.Context, n *node) {
	for ctx.Err() == nil {
		var open []*soakClient
		for i := range 6 {
			c := &soakClient{k: k, n: n, tls: i%2 == 0, r: rand.New(rand.NewPCG(uint64(i), 2))}
			err := c.open("/raw", k.issue().GetToken())
			if errors.Is(err, errBusy) {
				c.reset()
				continue
			}
			if err != nil {
				k.t.Errorf("before a drain: %v", err)
				return
			}
			open = append(open, c)
		}
		n.signal(syscall.SIGTERM)
		for _, c := range open {
			if err := c.wantClose(1012); err != nil {
				k.t.Errorf("drain: %v", err)
			}
			c.reset()
		}
		select {
		case <-n.done:
		case <-time.After(patience):
			k.t.Errorf("%s does not end", n.name)
			return
		}
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			k.t.Errorf("%s: exit code %d", n.name, code)
			return
		}
		k.did[len(deeds)].Add(1)
		if !pause(ctx, time.Second) {
			return
		}
		k.s.restart(n)
		for end := time.Now().Add(patience); ; {
			if code, _ := get("http://" + n.admin + "/readyz"); code == http.StatusOK {
				break
			}
			if time.Now().After(end) {
				k.t.Errorf("%s is not ready again", n.name)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// restart starts a node as startNode does, and does not wait.
func (s *system) restart(n *node) {
	n.process = start(s.t, bin("gatehouse-node"), "--config", n.config)
}

// issue gets a token, which is not looked for in the logs: there are too many.
func (k *soak) issue() *pb.IssueTokenResponse {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := pb.NewTokenServiceClient(k.admin).IssueToken(ctx, &pb.IssueTokenRequest{Subject: "u", Audience: "chat"})
	if err != nil {
		k.t.Errorf("issue: %v", err)
		return &pb.IssueTokenResponse{}
	}
	return r
}

// soakClient is one connection of a soak.
type soakClient struct {
	k   *soak
	n   *node
	tls bool
	r   *rand.Rand

	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS over it
	sock *socket
}

// raw connects, and no more.
func (c *soakClient) raw() error {
	at := c.n.plain
	if c.tls {
		at = c.n.wss
	}
	nc, err := net.DialTimeout("tcp", at, patience)
	if err != nil {
		return err
	}
	c.tcp = nc.(*net.TCPConn)
	c.conn = nc
	return nc.SetDeadline(time.Now().Add(patience))
}

// connect connects, over TLS where the client has that.
func (c *soakClient) connect() error {
	if err := c.raw(); err != nil || !c.tls {
		return err
	}
	over := tls.Client(c.tcp, c.k.s.clientTLS())
	c.conn = over
	return over.Handshake()
}

// head is an opening handshake with a token.
func head(path, token string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer " + token + "\r\n\r\n")
}

// open opens a WebSocket.
func (c *soakClient) open(path, token string) error {
	if err := c.connect(); err != nil {
		return err
	}
	if _, err := c.conn.Write(head(path, token)); err != nil {
		return err
	}
	answer := make([]byte, 0, 512)
	for !strings.HasSuffix(string(answer), "\r\n\r\n") { // a byte at a time: what follows is frames
		one := make([]byte, 1)
		if _, err := c.conn.Read(one); err != nil {
			return fmt.Errorf("answer %q: %w", answer, err)
		}
		answer = append(answer, one...)
	}
	if strings.HasPrefix(string(answer), "HTTP/1.1 503 ") {
		return errBusy
	}
	if !strings.HasPrefix(string(answer), "HTTP/1.1 101 ") {
		return fmt.Errorf("%w: %.60s", errNot101, answer)
	}
	c.sock = &socket{t: c.k.t, nc: c.conn, r: c.conn}
	return nil
}

var (
	errNot101 = errors.New("refused")
	errBusy   = errors.New("come back later")
)

// echo has a text of n bytes echoed.
func (c *soakClient) echo(n int) error {
	text := strings.Repeat("x", n)
	if err := wsutil.WriteClientText(c.conn, []byte(text)); err != nil {
		return err
	}
	got, err := c.sock.receive()
	if err == nil && got != text {
		err = fmt.Errorf("echo of %d bytes has %d", n, len(got))
	}
	return err
}

// wantClose reads to the close frame, and answers it.
func (c *soakClient) wantClose(code ws.StatusCode) error {
	for {
		_, err := c.sock.receive()
		var closed *errClosed
		switch {
		case err == nil:
		case errors.As(err, &closed) && closed.code == code:
			return nil
		default:
			return fmt.Errorf("%w, want close %d", err, code)
		}
	}
}

// leave closes with 1000, and wants an answer.
func (c *soakClient) leave() error {
	if err := ws.WriteFrame(c.conn, ws.MaskFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "")))); err != nil {
		return err
	}
	return c.wantClose(1000)
}

// reset ends the connection, if there is one, by a RST.
func (c *soakClient) reset() {
	if c.tcp != nil {
		_ = c.tcp.SetLinger(0)
		_ = c.tcp.Close()
	}
}

func (k *soak) echoes(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	for range 20 {
		if err := c.echo(c.r.IntN(300)); err != nil {
			return err
		}
	}
	return c.leave()
}

func (k *soak) large(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	for range 5 {
		if err := c.echo(30_000 + c.r.IntN(35_000)); err != nil {
			return err
		}
	}
	return c.leave()
}

func (k *soak) renews(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	if err := wsutil.WriteClientText(c.conn, []byte(`{"gatehouse": "renew", "token": "`+k.issue().GetToken()+`"}`)); err != nil {
		return err
	}
	switch got, err := c.sock.receive(); {
	case err != nil:
		return err
	case strings.Contains(got, "renew_failed"):
		return errBusy
	case !strings.Contains(got, "renewed"):
		return fmt.Errorf("answer to a renewal: %q", got)
	}
	if err := c.echo(100); err != nil {
		return err
	}
	return c.leave()
}

func (k *soak) revoked(c *soakClient) error {
	r := k.issue()
	if err := c.open("/raw", r.GetToken()); err != nil {
		return err
	}
	if err := c.echo(100); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := pb.NewRevocationServiceClient(k.admin).Revoke(ctx, &pb.RevokeRequest{
		Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: r.GetTokenId()}}, Reason: "soak"}); err != nil {
		return err
	}
	return c.wantClose(4501)
}

func (k *soak) refused(c *soakClient) error {
	if err := c.open("/nowhere", k.issue().GetToken()); !errors.Is(err, errNot101) { // before anybody is asked
		return fmt.Errorf("no refusal: %w", err)
	}
	return nil
}

func (k *soak) invalid(c *soakClient) error {
	if err := c.open("/chat", k.issue().GetToken()); err != nil {
		return err
	}
	if err := wsutil.WriteClientText(c.conn, []byte(`{"type":"admin"}`)); err != nil {
		return err
	}
	return c.wantClose(1008)
}

// slow sends and does not read until the node has enough of it, one way or another.
func (k *soak) slow(c *soakClient) error {
	if err := c.raw(); err != nil {
		return err
	}
	_ = c.tcp.SetReadBuffer(4096)
	if c.tls {
		over := tls.Client(c.tcp, k.s.clientTLS())
		c.conn = over
		if err := over.Handshake(); err != nil {
			return err
		}
	}
	if _, err := c.conn.Write(head("/raw", k.issue().GetToken())); err != nil {
		return err
	}
	_ = c.tcp.SetWriteDeadline(time.Now().Add(time.Second))
	message := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame(make([]byte, 60_000))))
	for range 90 { // what messages a second allow at once
		if _, err := c.conn.Write(message); err != nil {
			return nil // it stopped reading, or closed
		}
	}
	return nil
}

func (k *soak) resetEarly(c *soakClient) error {
	if err := c.raw(); err != nil {
		return err
	}
	begun := head("/raw", "x")[:40]
	if c.tls {
		begun = []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") // a ClientHello
		if c.r.IntN(2) == 0 {                                          // or a whole one, and the node's answer
			_ = tls.Client(&firstFlight{Conn: c.tcp}, k.s.clientTLS()).Handshake()
			return nil
		}
	}
	_, err := c.conn.Write(begun)
	return err
}

// firstFlight is a connection of which a byte can be read.
type firstFlight struct {
	net.Conn
	over bool
}

func (f *firstFlight) Read(p []byte) (int, error) {
	if f.over {
		return 0, io.EOF
	}
	f.over = true
	return f.Conn.Read(p[:1])
}

func (k *soak) resetVerifying(c *soakClient) error {
	if err := c.connect(); err != nil {
		return err
	}
	_, err := c.conn.Write(head("/raw", k.issue().GetToken()))
	return err
}

func (k *soak) resetOpen(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	return c.echo(10)
}

func (k *soak) resetWithin(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	f := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame(make([]byte, 10_000))))
	_, err := c.conn.Write(f[:1+c.r.IntN(len(f)-1)])
	return err
}

func (k *soak) resetClosing(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	if c.r.IntN(2) == 0 { // the node lingers
		return c.leave()
	}
	return wsutil.WriteClientText(c.conn, []byte("\xff")) // the node waits for an answer
}

// silent waits until the node ends a connection of whom it hears nothing.
func (k *soak) silent(c *soakClient) error {
	if err := c.raw(); err != nil {
		return err
	}
	if c.r.IntN(4) == 0 {
		_, _ = io.Copy(io.Discard, c.tcp) // to the end of it, however that is told
	}
	return nil
}
