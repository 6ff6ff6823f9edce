//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const hello = `{"type":"chat","text":"hello"}`

// The main job: issue, connect, exchange, revoke, see the socket close.
func TestIssueConnectRevoke(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	token := strings.TrimSpace(s.cli("token", "issue", "--subject", "u42", "--audience", "chat").want(t, 0).stdout)
	secrets.add(token)

	sock := mustOpen(t, offer{url: "wss://" + n.wss + "/chat", tls: s.clientTLS(), token: token, origin: "https://app.example.com"})
	sock.echo(hello)

	var list struct {
		Sessions []struct {
			SessionID string `json:"session_id"`
			Subject   string `json:"subject"`
			Node      string `json:"node"`
		} `json:"sessions"`
	}
	s.cli("session", "list", "--subject", "u42", "-o", "json").want(t, 0).decode(t, &list)
	if len(list.Sessions) != 1 || list.Sessions[0].Node != "node-1" {
		t.Fatalf("sessions %+v", list)
	}

	out := s.cli("revoke", "--subject", "u42", "--reason", "lost laptop").want(t, 0)
	sock.wantClose(4501, "token revoked")
	if !regexp.MustCompile(`1 socket\S* closed on 1 of 1 node`).MatchString(out.stdout + out.stderr) {
		t.Errorf("receipt does not count: %s%s", out.stdout, out.stderr)
	}
	wantStatus(t, offer{url: "wss://" + n.wss + "/chat", tls: s.clientTLS(), token: token, origin: "https://app.example.com"}, http.StatusUnauthorized)
	eventually(t, "session gone", func() bool {
		s.cli("session", "list", "-o", "json").want(t, 0).decode(t, &list)
		return len(list.Sessions) == 0
	})

	// What was issued after the revocation is not hit.
	later := s.issue(s.dial(""), &pb.IssueTokenRequest{Subject: "u42"})
	mustOpen(t, offer{url: "wss://" + n.wss + "/chat", tls: s.clientTLS(), token: later.GetToken(), origin: "https://app.example.com"}).echo(hello)

	n.stop()
	s.authority.stop()
}

// A token opens one socket in the whole fleet.
func TestSingleUseAcrossNodes(t *testing.T) {
	s := newSystem(t)
	a, b := s.addNode("node-a", ""), s.addNode("node-b", "")
	admin := s.dial("")
	for range 20 {
		tok := s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()
		results := make(chan error, 8)
		for i := range 8 {
			n := []*node{a, b}[i%2]
			go func() {
				sock, err := open(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok})
				if err == nil {
					_ = sock.nc.Close()
				}
				results <- err
			}()
		}
		opened := 0
		for range 8 {
			if err := <-results; err == nil {
				opened++
			}
		}
		if opened != 1 {
			t.Fatalf("a single-use token opened %d sockets", opened)
		}
	}
}

// Every wrong token and handshake has its row: the peer's answer, and the exact
// cause in the log.
func TestRefusals(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	url := "ws://" + n.plain + "/chat"
	fresh := func(req *pb.IssueTokenRequest) string {
		if req.Subject == "" {
			req.Subject = "u"
		}
		return s.issue(admin, req).GetToken()
	}
	used := fresh(&pb.IssueTokenRequest{})
	mustOpen(t, offer{url: url, bearer: used})
	revoked := s.issue(admin, &pb.IssueTokenRequest{Subject: "u"})
	s.cli("revoke", "--token", revoked.GetTokenId()).want(t, 0)
	edited := []byte(fresh(&pb.IssueTokenRequest{}))
	if edited[50]++; !strings.Contains("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", string(edited[50:51])) {
		edited[50] = 'A'
	}
	foreign := fresh(&pb.IssueTokenRequest{Audience: "another"})

	chrome := "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
	firefox := "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0"
	for _, c := range []struct {
		rule   string
		offer  offer
		status int
		reason string // in the log
	}{
		{"no token", offer{url: url}, 401, "token_missing"},
		{"a cookie alone", offer{url: url, header: http.Header{"Cookie": {"token=" + fresh(&pb.IssueTokenRequest{})}}}, 401, "cookie_only"},
		{"two tokens", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{}), token: fresh(&pb.IssueTokenRequest{})}, 401, "token_repeated"},
		{"a token in the query of a route that takes none there", offer{url: url + "?token=" + fresh(&pb.IssueTokenRequest{})}, 401, "token_carrier"},
		{"not a token", offer{url: url, bearer: "gh1_x"}, 401, "token_malformed"},
		{"a token cut short", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{})[:80]}, 401, "token_malformed"},
		{"an edited token", offer{url: url, bearer: string(edited)}, 401, "token_forged"},
		{"a used token", offer{url: url, bearer: used}, 401, "token_used"},
		{"a revoked token", offer{url: url, bearer: revoked.GetToken()}, 401, "token_revoked"},
		{"another audience", offer{url: url, bearer: foreign}, 403, "audience_mismatch"},
		{"another address", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{ClientIp: "203.0.113.7", IpBinding: pb.IpBinding_IP_BINDING_STRICT})}, 401, "ip_mismatch"},
		{"another browser", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{UserAgent: []byte(chrome)}), userAgent: firefox}, 401, "user_agent_mismatch"},
		{"a User-Agent that is not UTF-8", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{UserAgent: []byte(chrome)}), userAgent: "\xff\xfe"}, 401, "user_agent_mismatch"},
		{"an Origin that the route does not know", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{}), origin: "https://evil.example"}, 403, "origin_refused"},
		{"Origin null", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{}), origin: "null"}, 403, "origin_refused"},
		{"an Origin with the right suffix", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{}), origin: "https://evil-app.example.com"}, 403, "origin_refused"},
		{"an Origin other than the token's", offer{url: url, bearer: fresh(&pb.IssueTokenRequest{Origin: "https://other.example.com"}), origin: "https://app.example.com"}, 401, "origin_mismatch"},
		{"no such route", offer{url: "ws://" + n.plain + "/nowhere", bearer: fresh(&pb.IssueTokenRequest{})}, 404, "route_unknown"},
	} {
		e := wantStatusRule(t, c.rule, c.offer, c.status)
		id := e.header.Get("Gatehouse-Handshake")
		line := ""
		eventually(t, c.rule+" in the log", func() bool { // which is written behind the answer
			for l := range strings.Lines(n.output()) {
				if id != "" && strings.Contains(l, id) && strings.Contains(l, "refused") {
					line = l
				}
			}
			return line != ""
		})
		if !strings.Contains(line, `"reason":"`+c.reason+`"`) {
			t.Errorf("%s: log says %s, want reason %s", c.rule, line, c.reason)
		}
		if c.status == 401 && e.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 without WWW-Authenticate", c.rule)
		}
	}
	// To the peer all that can be wrong with a token looks alike.
	for _, tok := range []string{used, revoked.GetToken(), string(edited), "gh1_x"} {
		e := wantStatus(t, offer{url: url, bearer: tok}, 401)
		if !strings.HasPrefix(e.body, "token_inactive ") {
			t.Errorf("body %q", e.body)
		}
	}
	// A User-Agent of a newer version of the same browser fits.
	mustOpen(t, offer{url: url, bearer: fresh(&pb.IssueTokenRequest{UserAgent: []byte(chrome)}), userAgent: strings.Replace(chrome, "131", "140", 1)})
	// A browser is told why by a close frame, where the route asks for that.
	sock := mustOpen(t, offer{url: "ws://" + n.plain + "/closing", token: used})
	sock.wantClose(4401, "token_inactive")
	mustOpen(t, offer{url: "ws://" + n.plain + "/closing?token=" + fresh(&pb.IssueTokenRequest{})}).echo(hello)

	_, metrics := get("http://" + n.admin + "/metrics")
	if !counted(metrics, `gatehouse_node_handshakes_refused_total{reason="token_used"}`) {
		t.Error("refusals are not counted by reason")
	}
	_, metrics = get("http://" + s.admin + "/metrics")
	if !counted(metrics, `gatehouse_authority_tokens_redeemed_total{outcome="token_used"}`) {
		t.Error("redemptions are not counted by outcome")
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, nodes := get("http://" + n.admin + "/metrics")
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (gatehouse_\w+) (\w+)$`).FindAllStringSubmatch(metrics+nodes, -1) {
		if !strings.Contains(string(page), fmt.Sprintf("| `%s` | %s |", m[1], m[2])) {
			t.Errorf("docs/metrics.md lacks the %s %s", m[2], m[1])
		}
	}
}

// counted reports whether a sample is there and above zero.
func counted(metrics, sample string) bool {
	return strings.Contains(metrics, sample+" ") && !strings.Contains(metrics, sample+" 0\n")
}

func wantStatusRule(t *testing.T, rule string, o offer, code int) *errStatus {
	t.Helper()
	_, err := open(t, o)
	if e, ok := err.(*errStatus); ok && e.code == code {
		return e
	}
	t.Fatalf("%s: %v, want status %d", rule, err, code)
	return nil
}

// The authority is away: handshakes get 503, sockets live on; it comes back on
// the same file and everything is there.
func TestAuthorityAway(t *testing.T) {
	s := prepare(t)
	s.extra = "fleet: {heartbeat_interval: 100ms, admission_fence: 500ms}\n"
	s.writeConfig()
	s.startAuthority()
	n := s.addNode("node-1", "")
	admin := s.dial("")
	url := "ws://" + n.plain + "/chat"
	used := s.issue(admin, &pb.IssueTokenRequest{Subject: "u", Ttl: durationOf(time.Hour)}).GetToken()
	unused := s.issue(admin, &pb.IssueTokenRequest{Subject: "u", Ttl: durationOf(time.Hour)}).GetToken()
	revoked := s.issue(admin, &pb.IssueTokenRequest{Subject: "u", Ttl: durationOf(time.Hour)})
	s.cli("revoke", "--token", revoked.GetTokenId()).want(t, 0)
	sock := mustOpen(t, offer{url: url, bearer: used})

	s.authority.kill()
	eventually(t, "fence", func() bool {
		code, _ := get("http://" + n.admin + "/readyz")
		return code == http.StatusServiceUnavailable
	})
	e := wantStatus(t, offer{url: url, bearer: unused}, http.StatusServiceUnavailable)
	if e.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	sock.echo(hello)

	s.startAuthority()
	s.await(n.admin)
	sock.echo(hello)
	wantStatus(t, offer{url: url, bearer: used}, http.StatusUnauthorized)
	wantStatus(t, offer{url: url, bearer: revoked.GetToken()}, http.StatusUnauthorized)
	mustOpen(t, offer{url: url, bearer: unused}).echo(hello)
	s.cli("revoke", "--subject", "u", "--reason", "test").want(t, 0)
	sock.wantClose(4501, "token revoked")
}

// A node that is killed and started again on its state folder declares its
// predecessor dead, so that its sessions are not listed for an hour.
func TestNodeKilledAndRestarted(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	tok := s.issue(s.dial(""), &pb.IssueTokenRequest{Subject: "u"}).GetToken()
	mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok})
	n.kill()
	s.startNode(n)
	var nodes struct {
		Nodes []struct{ Name string } `json:"nodes"`
	}
	s.cli("node", "list", "-o", "json").want(t, 0).decode(t, &nodes)
	if len(nodes.Nodes) != 1 {
		t.Fatalf("%d instances are registered, want 1", len(nodes.Nodes))
	}
	if out := s.cli("session", "list", "-o", "json").want(t, 0).stdout; strings.Contains(out, `"session_id"`) {
		t.Fatalf("the dead process's session is listed: %s", out)
	}
}

// A lock denies until it is lifted, and closes what is open.
func TestLock(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	url := "ws://" + n.plain + "/chat"
	before := s.issue(admin, &pb.IssueTokenRequest{Subject: "u42"}).GetToken()
	sock := mustOpen(t, offer{url: url, bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u42"}).GetToken()})
	id := strings.TrimSpace(s.cli("lock", "--subject", "u42", "--reason", "stolen account").want(t, 0).stdout)
	sock.wantClose(4503, "locked")
	wantStatus(t, offer{url: url, bearer: before}, http.StatusUnauthorized)
	s.cli("token", "issue", "--subject", "u42", "--audience", "chat").want(t, 1)
	id = regexp.MustCompile(`[0-9a-f]{32}`).FindString(id)
	s.cli("unlock", id, "--reason", "cleared").want(t, 0)
	tok := s.issue(admin, &pb.IssueTokenRequest{Subject: "u42"}).GetToken()
	mustOpen(t, offer{url: url, bearer: tok}).echo(hello)
}

// A config with an unknown key is refused with its line and a suggestion, by
// check and by a start alike.
func TestConfigCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "authority.yaml")
	write(t, path, "listen: 127.0.0.1:0\ntokens:\n  max_tll: 5m\n")
	for _, args := range [][]string{{"config", "check", "--config", path}, {"--config", path}} {
		r := command(t, "", nil, bin("gatehouse-authority"), args...).want(t, 2)
		if !strings.Contains(r.stderr, path+":3") || !strings.Contains(r.stderr, "max_ttl") {
			t.Errorf("%s", r.stderr)
		}
	}
	write(t, path, "listen: 127.0.0.1:0\nstate: "+dir+"\n")
	command(t, "", nil, bin("gatehouse-authority"), "config", "check", "--config", path).want(t, 0)
	printed := command(t, "", []string{"GATEHOUSE_TOKENS_MAX_TTL=2h"}, bin("gatehouse-authority"), "config", "print", "--config", path, "--log-level", "debug").want(t, 0)
	for _, want := range []string{"max_ttl: 2h", "GATEHOUSE_TOKENS_MAX_TTL", "level: debug", "--log-level"} {
		if !strings.Contains(strings.ToLower(printed.stdout), strings.ToLower(want)) {
			t.Errorf("config print lacks %q:\n%s", want, printed.stdout)
		}
	}
	write(t, path, "listeners:\n  - {address: 127.0.0.1:0, plain: true}\n")
	r := command(t, "", nil, bin("gatehouse-node"), "config", "check", "--config", path).want(t, 2)
	if !strings.Contains(r.stderr, "allow_plain") {
		t.Errorf("a plain listener needs no explicit word: %s", r.stderr)
	}
}

// A busy port is said with the flag that chooses another.
func TestBusyPort(t *testing.T) {
	s := newSystem(t)
	other := prepare(t)
	r := command(t, "", nil, bin("gatehouse-authority"), "--config", other.config, "--listen", s.listen).want(t, 1)
	if !strings.Contains(r.stderr, "--listen") || !strings.Contains(r.stderr, "in use") {
		t.Errorf("%s", r.stderr)
	}
}

// A second authority on the same state folder is refused; a newer or damaged
// store is not touched.
func TestStoreFiles(t *testing.T) {
	s := newSystem(t)
	r := command(t, "", nil, bin("gatehouse-authority"), "--config", s.config, "--listen", address(t), "--admin", "").want(t, 1)
	if !strings.Contains(r.stderr, "in use") {
		t.Errorf("%s", r.stderr)
	}
	s.authority.stop()
	db := filepath.Join(s.state, "gatehouse.db")
	good, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"not a store":   []byte(strings.Repeat("this is no database\n", 5000)),
		"cut in a page": good[:5000],
		"both metas overwritten": func() []byte {
			b := append([]byte{}, good...)
			copy(b, make([]byte, 2*4096))
			return b
		}(),
	} {
		write(t, db, string(text))
		r := command(t, "", nil, bin("gatehouse-authority"), "--config", s.config).want(t, 1)
		if !strings.Contains(r.stderr, "gatehouse.db") || strings.Contains(r.stderr, "panic") {
			t.Errorf("%s: %s", name, r.stderr)
		}
		if left, err := os.ReadFile(db); err != nil || string(left) != string(text) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if err := os.WriteFile(db, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s.startAuthority()
}

// An unenrolled or disabled caller gets nowhere.
func TestDisabledCredential(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	dir := s.enroll("issuer", "login", "--audience", "chat", "--tenant", "acme", "--max-ttl", "30s")
	login := s.dial(dir)
	tok := s.issue(login, &pb.IssueTokenRequest{Subject: "u"})
	if tok.GetExpiresAt().AsTime().After(time.Now().Add(31 * time.Second)) {
		t.Error("max_ttl does not bind")
	}
	mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok.GetToken()})
	if got := s.cli("node", "disable", "login", "--reason", "a slip").want(t, 2); !strings.Contains(got.stderr, "use gatehouse credential disable login") {
		t.Errorf("an issuer disabled as a node: %s", got.stderr)
	}
	s.cli("credential", "disable", "login", "--reason", "rotated").want(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := pb.NewTokenServiceClient(login).IssueToken(ctx, &pb.IssueTokenRequest{Subject: "u", Audience: "chat"})
	if err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("a disabled credential: %v", err)
	}
	s.cli("node", "disable", "node-1", "--reason", "stolen").want(t, 0)
	eventually(t, "node detached", func() bool {
		code, _ := get("http://" + n.admin + "/readyz")
		return code == http.StatusServiceUnavailable
	})
}
