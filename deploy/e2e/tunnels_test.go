//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
)

// bridge is an application that is the far end of a tunnel: what websockify and
// wstunnel are as servers.
type bridge struct {
	to string
	mu sync.Mutex
	by map[deliver.Session]net.Conn
}

func (b *bridge) Opened(s deliver.Session) {
	c, err := net.DialTimeout("tcp", b.to, patience)
	if err != nil {
		_ = s.Close(4000, err.Error())
		return
	}
	b.mu.Lock()
	b.by[s] = c
	b.mu.Unlock()
	go func() { // ends with its connection, which Closed closes
		buf := make([]byte, 16<<10)
		for {
			n, err := c.Read(buf)
			if n > 0 && s.SendBinary(buf[:n]) != nil || err != nil {
				_ = s.Close(1000, "")
				return
			}
		}
	}()
}

func (b *bridge) Message(s deliver.Session, _ deliver.Op, payload []byte) error {
	b.mu.Lock()
	c := b.by[s]
	b.mu.Unlock()
	if c != nil {
		_, _ = c.Write(payload) // its reader finds out
	}
	return nil
}

func (b *bridge) Closed(s deliver.Session, _ uint16, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.by[s]; c != nil {
		_ = c.Close()
		delete(b.by, s)
	}
}

// startSSHD starts a real sshd and returns its address.
func (s *system) startSSHD() string {
	s.t.Helper()
	key, config, at := filepath.Join(s.dir, "host_key"), filepath.Join(s.dir, "sshd_config"), address(s.t)
	command(s.t, "", nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).want(s.t, 0)
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where Debian's sshd separates privileges
		s.t.Fatal(err)
	}
	write(s.t, config, fmt.Sprintf("ListenAddress %s\nHostKey %s\nPidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n", at, key))
	start(s.t, "/usr/sbin/sshd", "-D", "-e", "-f", config)
	eventually(s.t, "sshd at "+at, func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return at
}

// startBridge runs a node in this process, whose application is a bridge to an
// address: /raw closes tunnels, as routes do, and /let only tells of them.
func (s *system) startBridge(to string) (at, log string) {
	s.t.Helper()
	cred, log := s.enroll("node", "bridge"), newLog(s.t, "bridge")
	out, err := os.Create(log)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg := wsnode.DefaultConfig()
	cfg.Authority.Address, cfg.Metrics, cfg.Log = s.listen, prometheus.NewRegistry(), slog.New(slog.NewJSONHandler(out, nil))
	if cfg.Credentials, err = tlsfile.Credentials(cred+"/ca.crt", cred+"/tls.crt", cred+"/tls.key", time.Now, cfg.Log); err != nil {
		s.t.Fatal(err)
	}
	for path, policy := range map[string]wsnode.TunnelPolicy{"/raw": wsnode.CloseTunnels, "/let": wsnode.LogTunnels} {
		var r wsnode.Route
		r.SetDefaults()
		r.Path, r.Audience, r.MissingOrigin, r.Unchecked, r.Binary, r.Tunnels = path, "chat", wsnode.AllowMissing, true, true, policy
		cfg.Routes = append(cfg.Routes, r)
	}
	n, err := wsnode.New(cfg, &bridge{to: to, by: map[deliver.Session]net.Conn{}})
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	n.Start()
	served := make(chan error, 1)
	go func() { served <- n.Serve(l, nil) }()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.Shutdown(ctx); err != nil {
			s.t.Error(err)
		}
		if err := <-served; err != nil {
			s.t.Error(err)
		}
		_ = out.Close()
	})
	eventually(s.t, "the bridge's node admits", func() bool { return n.Ready() == nil })
	return l.Addr().String(), log
}

// tunneller is a tool that carries SSH: a ProxyCommand, in which $URL and $TOKEN
// are the socket's.
type tunneller struct {
	name    string
	command string // under a name that no node knows
	asItIs  string // as it comes
}

func tunnellers(t *testing.T) []tunneller {
	t.Helper()
	dir, err := filepath.Abs("clients")
	if err != nil {
		t.Fatal(err)
	}
	websockify := "/usr/bin/python3 " + filepath.Join(dir, "websockifytunnel.py") + " $URL gatehouse.token.$TOKEN "
	wstunnel := "node " + filepath.Join(dir, "wstunnel.mjs") + " $URL $TOKEN "
	return []tunneller{
		{"websockify", websockify + "gatehouse.v1", websockify + "binary"},
		{"wstunnel of npm", wstunnel + "gatehouse.v1", wstunnel},
	}
}

// ssh runs a real client through a ProxyCommand, which has the token in its
// environment since ssh prints the command. Nobody may log in at the other end:
// the server says so once keys are exchanged.
func (s *system) ssh(url, token, through string) string {
	s.t.Helper()
	return command(s.t, "", []string{"URL=" + url, "TOKEN=" + token}, "ssh", "-v", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=35",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "PubkeyAuthentication=no",
		"-o", "ProxyCommand="+through, "nobody@tunnel.invalid", "true").want(s.t, 255).stderr
}

// TestTunnels proves what promise 7 says of tunnels. Tools of others carry a real
// SSH session through a socket, each with a valid token. Where tunnels are only
// told of it works, which shows that it is one; as routes come it is closed before
// the server has answered.
func TestTunnels(t *testing.T) {
	s := newSystem(t)
	admin := s.dial("")
	at, log := s.startBridge(s.startSSHD())
	found := func() int {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), `"msg":"tunnel found"`)
	}
	for _, tool := range tunnellers(t) {
		t.Run(tool.name, func(t *testing.T) {
			try := func(path, through string) string {
				return s.ssh("ws://"+at+path, s.issue(admin, &pb.IssueTokenRequest{Subject: "tunneller"}).GetToken(), through)
			}
			before := found()
			if said := try("/let", tool.command); !strings.Contains(said, "SSH2_MSG_NEWKEYS received") || !strings.Contains(said, "Permission denied") || found() != before+1 {
				t.Errorf("%d tunnels found; where they are only told of, SSH did not get through:\n%s", found()-before, said)
			}
			if said := try("/raw", tool.command); strings.Contains(said, "SSH2_MSG_KEXINIT received") || !strings.Contains(said, "tunnel: open") ||
				!strings.Contains(said, "tunnel: closed 1008 tunnels not allowed") || found() != before+2 {
				t.Errorf("%d tunnels found; want it to be closed:\n%s", found()-before, said)
			}
			for _, path := range []string{"/let", "/raw"} {
				if said := try(path, tool.asItIs); !strings.Contains(said, "tunnel: refused 403") {
					t.Errorf("%s, under its own name, want it to be refused:\n%s", path, said)
				}
			}
		})
	}
}

// TestUncheckedRoutesAreTold has the program as it comes: it tells of routes
// without a schema, and of those that let tunnels be, when it starts and in its
// metrics, and closes a tunnel where it may.
func TestUncheckedRoutesAreTold(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "  - {path: /let, audience: chat, missing_origin: allow, unchecked: true, tunnels: log}\n")
	for _, want := range []string{
		`"this route passes messages on without a schema","path":"/raw","binary":true`,
		`"this route passes messages on without a schema","path":"/let","binary":false`,
		`"this route does not close sockets whose messages carry another protocol","path":"/let","tunnels":"log"`,
	} {
		n.says(want)
	}
	if out := n.output(); strings.Count(out, `"this route `) != 3 {
		t.Errorf("more than these: %s", out)
	}
	tool := tunnellers(t)[0]
	said := s.ssh("ws://"+n.plain+"/raw", s.issue(s.dial(""), &pb.IssueTokenRequest{Subject: "tunneller"}).GetToken(), tool.command)
	if !strings.Contains(said, "tunnel: closed 1008 tunnels not allowed") {
		t.Errorf("not closed:\n%s", said)
	}
	_, metrics := get("http://" + n.admin + "/metrics")
	for _, want := range []string{
		`gatehouse_node_route_unchecked{route="/raw"} 1`, `gatehouse_node_route_unchecked{route="/chat"} 0`,
		`gatehouse_node_tunnels_found_total{route="/raw",signature="ssh"} 1`, `gatehouse_node_sessions_closed_total{reason="tunnel_found"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	n.says(`"signature":"ssh","carried":"raw","route":"/raw","policy":"close"`)
	if out := n.output(); strings.Contains(out, "OpenSSH") {
		t.Errorf("the log: %s", out)
	}
}
