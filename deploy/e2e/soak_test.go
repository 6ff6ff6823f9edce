//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
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
