//go:build e2e

package e2e

import (
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// issuerOf is the name of the CA of the certificate in a credential's folder.
func issuerOf(t *testing.T, dir string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Issuer.CommonName
}

// served is the name of the CA of the certificate that the authority shows.
func (s *system) served() string {
	s.t.Helper()
	c, err := tls.Dial("tcp", s.listen, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // what it shows is looked at, not trusted
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Issuer.CommonName
}

// as runs gatehouse with the credential in dir.
func (s *system) as(dir string, args ...string) result {
	s.t.Helper()
	return command(s.t, "", []string{
		"GATEHOUSE_ADDRESS=" + s.listen, "GATEHOUSE_CA_FILE=" + dir + "/ca.crt",
		"GATEHOUSE_CERT_FILE=" + dir + "/tls.crt", "GATEHOUSE_KEY_FILE=" + dir + "/tls.key",
	}, bin("gatehouse"), args...)
}

// section is the one shell block below a heading of a page.
func section(t *testing.T, page, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n"+heading+"\n")
	m := regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindStringSubmatch(rest)
	if !found || m == nil {
		t.Fatalf("%s has no commands below %q", page, heading)
	}
	return strings.Split(strings.TrimSpace(m[1]), "\n")
}

// rotation is a system in the course of one, with sockets that stay open.
type rotation struct {
	*system
	node   *node
	issuer *grpc.ClientConn
	socks  []*socket
	id     string // of the node's instance
}

func (r *rotation) instance() string {
	r.t.Helper()
	var list struct {
		Nodes []struct {
			Name       string `json:"name"`
			InstanceID string `json:"instance_id"`
		} `json:"nodes"`
	}
	r.cli("node", "list", "-o", "json").want(r.t, 0).decode(r.t, &list)
	if len(list.Nodes) != 1 {
		r.t.Fatalf("%d node instances", len(list.Nodes))
	}
	return list.Nodes[0].InstanceID
}

// works proves that sockets are open still, that the node admits and revokes, and
// that it is the process it was.
func (r *rotation) works(what string) {
	r.t.Helper()
	r.await(r.node.admin)
	for _, sock := range r.socks {
		sock.echo(hello)
	}
	r.issuer.Connect() // its connection may have ended with a CA
	eventually(r.t, what+": the issuer calls", func() bool { return r.issuer.GetState() == connectivity.Ready })
	tok, sock := r.admitted(r.issuer, r.node)
	sock.echo(hello)
	r.cli("revoke", "--token", tok.GetTokenId()).want(r.t, 0)
	sock.wantClose(4501, "token revoked")
	if got := r.instance(); got != r.id {
		r.t.Fatalf("%s: the instance %s is attached, not %s", what, got, r.id)
	}
}

// The whole rotation, by the commands that docs/operations.md has for it: no
// socket closes, what is renewed works on, and certificates of the CA that was
// retired are refused.
func TestRotateCA(t *testing.T) {
	s := prepare(t)
	s.extra = "fleet: {heartbeat_interval: 100ms}\n"
	s.writeConfig()
	s.startAuthority()
	n := s.addNode("node-1", "")
	login, late, admin := s.enroll("issuer", "login"), s.enroll("viewer", "late"), filepath.Join(s.state, "credentials", "admin")
	stolen := filepath.Join(s.dir, "stolen")
	if err := os.CopyFS(stolen, os.DirFS(login)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(stolen, "tls.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	creds, err := tlsfile.Credentials(login+"/ca.crt", login+"/tls.crt", login+"/tls.key", time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.listen, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := &rotation{system: s, node: n, issuer: conn}
	for range 5 {
		tok := s.issue(conn, &pb.IssueTokenRequest{Subject: "staying"}).GetToken()
		r.socks = append(r.socks, mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok}))
	}
	r.id = r.instance()
	r.works("before")
	first := s.served()

	var out string
	step := func(line string) {
		t.Helper()
		t.Log(line)
		line = strings.NewReplacer("/var/lib/gatehouse/authority", s.state, "/backups", s.dir+"/backups").Replace(line)
		words := []string{"-c", line}
		env := []string{"PATH=" + programs + ":" + os.Getenv("PATH")}
		switch strings.Fields(line)[0] {
		case "gatehouse-authority":
			words[1] += " --config " + s.config
		case "gatehouse":
			env = append(env, "GATEHOUSE_ADDRESS="+s.listen, "GATEHOUSE_CA_FILE="+login+"/ca.crt", "GATEHOUSE_CERT_FILE="+login+"/tls.crt", "GATEHOUSE_KEY_FILE="+login+"/tls.key")
		}
		out = command(t, "", env, "bash", words...).want(t, 0).stdout
	}
	steps := section(t, "../../docs/operations.md", "## Rotate the CA")
	if len(steps) != 5 || !strings.Contains(steps[0], "ca rotate") || !strings.Contains(steps[2], "credential renew") || !strings.Contains(steps[3], "ca list") || !strings.Contains(steps[4], "ca retire") {
		t.Fatalf("docs/operations.md has other steps than this test runs: %q", steps)
	}
	if err := os.Mkdir(s.dir+"/backups", 0o700); err != nil {
		t.Fatal(err)
	}

	step(steps[0])
	second := s.served()
	if second == first || issuerOf(t, admin) != second {
		t.Fatalf("the authority shows a certificate of %s, the first admin one of %s; %s signed before", second, issuerOf(t, admin), first)
	}
	r.works("rotated")
	s.as(stolen, "token", "list").want(t, 0) // by the old certificate, knowing the old CA alone
	eventually(t, "the node's certificate is of the new CA", func() bool { return issuerOf(t, filepath.Join(s.dir, "node-1")) == second })
	r.works("the node has renewed")
	step(steps[1])
	if _, err := os.Stat(s.dir + "/backups/ca/ca.key"); err != nil {
		t.Error(err)
	}
	step(steps[2])
	if got := issuerOf(t, login); got != second {
		t.Fatalf("renewed, the issuer's certificate is of %s", got)
	}
	step(steps[3]) // nobody has called since
	if !strings.Contains(out, "late  viewer") || strings.Contains(out, "node-1") || strings.Contains(out, "login") {
		t.Errorf("who depends on the old CA:\n%s", out)
	}
	s.as(login, "token", "list").want(t, 0)
	if got := s.maintain("ca", "retire", "--reason", "too early", "--yes").want(t, 1); !strings.Contains(got.stderr, "whoever depends on it could not call any more: late;") {
		t.Errorf("it says %s", got.stderr)
	}
	s.as(late, "credential", "renew").want(t, 0)

	step(steps[4])
	s.as(late, "node", "list").want(t, 0)
	r.works("retired")
	if got := s.as(stolen, "token", "list"); got.code == 0 || !strings.Contains(got.stderr, "what answers is not this authority") {
		t.Errorf("who knows the retired CA alone: %+v", got)
	}
	if err := os.Remove(stolen + "/ca.crt"); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(login+"/ca.crt", stolen+"/ca.crt"); err != nil {
		t.Fatal(err)
	}
	if got := s.as(stolen, "token", "list").want(t, 4); !strings.Contains(got.stderr, "the authority refused the connection") {
		t.Errorf("a certificate of the retired CA: %s", got.stderr)
	}
	s.as(login, "token", "list").want(t, 0)

	// The next rotation is killed right after its command: what it made is in force.
	s.maintain("ca", "rotate", "--reason", "again").want(t, 0)
	s.authority.kill()
	s.startAuthority()
	third := s.served()
	if third == second || third == first {
		t.Fatalf("after the kill the authority shows a certificate of %s", third)
	}
	r.works("killed")
	eventually(t, "the node's certificate is of the third CA", func() bool { return issuerOf(t, filepath.Join(s.dir, "node-1")) == third })
	s.as(login, "credential", "renew").want(t, 0)
	s.maintain("ca", "retire", "--reason", "again", "--force", "--yes").want(t, 0)
	r.works("by the third CA")

	// A node that starts knows the third from its state folder, while its ca_file
	// has the first.
	if text, err := os.ReadFile(filepath.Join(s.dir, "node-1", "ca.crt")); err != nil || strings.Count(string(text), "BEGIN") != 1 {
		t.Fatalf("the node's ca_file was changed: %v", err)
	}
	for _, sock := range r.socks {
		_ = sock.nc.Close()
	}
	n.stop()
	s.startNode(n)
	r.socks, r.id = nil, r.instance()
	r.works("started again")
	n.stop()
	s.authority.stop()
}
