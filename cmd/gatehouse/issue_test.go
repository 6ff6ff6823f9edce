package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/callerr"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func TestIssuePrintsTheTokenAloneOnStdout(t *testing.T) {
	c := newCaller(t)
	id, text := testToken(1)
	c.check(c.run("", "token", "issue", "--subject", "u42", "--audience", "chat"), exitOK,
		text+"\n", "gatehouse: token "+id.String()+", expires 2026-11-23 13:01:00 CET (in 60 s)\n")

	id, text = testToken(2)
	c.check(c.run("", "token", "issue", "--subject", "u42", "--audience", "chat", "-o", "json"), exitOK, `{
  "token": "`+text+`",
  "token_id": "`+id.String()+`",
  "expires_at": "2026-11-23T12:01:00Z",
  "issued_revision": "7.1"
}
`, "")
}

func TestIssueFillsTheRequest(t *testing.T) {
	c := newCaller(t)
	got := c.run("", "token", "issue", "--subject=u42", "--audience=chat", "--tenant=acme", "--client-ip=203.0.113.7",
		"--user-agent=Firefox", "--origin=https://app.example.com", "--attribute=plan=pro", "--attribute=q=a,b=c",
		"--scope=message", "--scope=ping,pong", "--max-uses=3", "--not-before=5m", "--ttl=30s", "--session-ttl=1h",
		"--ip-binding=prefix", "--user-agent-binding=strict", "--message-bytes=100", "--messages-per-second=5", "--sessions-per-subject=2",
		"--client-cert="+strings.Repeat("fb", 32))
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	want := &pb.IssueTokenRequest{
		Subject: "u42", Audience: "chat", Tenant: "acme", ClientIp: "203.0.113.7", UserAgent: []byte("Firefox"),
		Origin: "https://app.example.com", Attributes: map[string]string{"plan": "pro", "q": "a,b=c"},
		Scopes: []string{"message", "ping,pong"}, MaxUses: 3, NotBefore: timestamppb.New(testNow.Add(5 * time.Minute)),
		Ttl: durationpb.New(30 * time.Second), SessionTtl: durationpb.New(time.Hour),
		IpBinding: pb.IpBinding_IP_BINDING_PREFIX, UserAgentBinding: pb.UserAgentBinding_USER_AGENT_BINDING_STRICT,
		Limits: &pb.SessionLimits{MessageBytes: 100, MessagesPerSecond: 5, SessionsPerSubject: 2},

		ClientCertificateSha256: bytes.Repeat([]byte{0xfb}, 32),
	}
	if sent := requestsOf[*pb.IssueTokenRequest](c.authority)[0]; !proto.Equal(sent, want) {
		t.Errorf("sent %v\nwant %v", sent, want)
	}
	for _, at := range []string{"2026-11-23T13:05:00+01:00", "2026-11-23T12:05:00Z"} {
		c.run("", "token", "issue", "--subject=u42", "--audience=chat", "--not-before="+at)
	}
	for _, sent := range requestsOf[*pb.IssueTokenRequest](c.authority)[1:] {
		if !sent.GetNotBefore().AsTime().Equal(want.GetNotBefore().AsTime()) {
			t.Errorf("not_before %v", sent.GetNotBefore().AsTime())
		}
	}
}

// A certificate is named by its file, in PEM or DER, or by what openssl and RFC 8705
// call it.
func TestIssueClientCert(t *testing.T) {
	shows, _ := wstest.TLS(t)
	der := shows.Certificates[0].Certificate[0]
	other, _ := wstest.TLS(t)
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	sum := sha256.Sum256(der)
	var colons []string
	for _, b := range sum {
		colons = append(colons, fmt.Sprintf("%02X", b))
	}
	for _, name := range []string{
		file("cert.pem", block("CERTIFICATE", der)), file("cert.der", der),
		file("chain.pem", append(block("CERTIFICATE", der), block("CERTIFICATE", other.Certificates[0].Certificate[0])...)),
		hex.EncodeToString(sum[:]), strings.Join(colons, ":"), base64.RawURLEncoding.EncodeToString(sum[:]),
	} {
		if got, err := certificateHash(name); err != nil || !bytes.Equal(got, sum[:]) {
			t.Errorf("%s: %x, %v, want %x", name, got, err, sum)
		}
	}
	for name, want := range map[string]string{
		file("key.pem", block("PRIVATE KEY", der)): "key.pem holds something else than certificates in PEM",
		file("empty", nil):                         "empty holds no certificate, in PEM or DER",
		strings.Repeat("fb", 31):                   "neither the SHA-256 of a certificate, of 64 hexadecimal digits or 43 characters of base64url, nor its file: ",
	} {
		if got, err := certificateHash(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %x, %v, want %s", name, got, err, want)
		}
	}
}

func TestIssueUsage(t *testing.T) {
	c := newCaller(t)
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"subject is required", []string{"--audience=chat"}, "--subject and --audience are required"},
		{"audience is required", []string{"--subject=u42"}, "--subject and --audience are required"},
		{"a batch has a token", []string{"--subject=u", "--audience=a", "-n0"}, "--count: 0 is below 1"},
		{"no negative ttl", []string{"--subject=u", "--audience=a", "--ttl=-1s"}, "--ttl: -1s is below 0"},
		{"no negative session ttl", []string{"--subject=u", "--audience=a", "--session-ttl=-1s"}, "--session-ttl: -1s is below 0"},
		{"not-before is a time", []string{"--subject=u", "--audience=a", "--not-before=noon"}, `--not-before: "noon" is neither a time such as 2026-11-23T12:00:00Z nor a duration such as 5m`},
		{"a certificate is there", []string{"--subject=u", "--audience=a", "--client-cert=nowhere.crt"}, "--client-cert: neither the SHA-256 of a certificate, of 64 hexadecimal digits or 43 characters of base64url, nor its file: open nowhere.crt: no such file or directory"},
		{"an attribute has a value", []string{"--subject=u", "--audience=a", "--attribute=plan"}, `--attribute: "plan" is not NAME=VALUE, or gives NAME again`},
		{"an attribute is given once", []string{"--subject=u", "--audience=a", "--attribute=p=1", "--attribute=p=2"}, `--attribute: "p=2" is not NAME=VALUE, or gives NAME again`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := c.run("", append([]string{"token", "issue"}, tc.args...)...)
			c.check(got, exitUsage, "", "gatehouse: error: "+tc.want+"\ngatehouse: hint: gatehouse token issue --help has examples\n")
		})
	}
	c.check(c.run("", "token", "issue", "--ip-binding=none"), exitUsage, "",
		"gatehouse: error: invalid argument \"none\" for \"--ip-binding\" flag: want one of off, log, prefix, strict\n"+
			"gatehouse: hint: gatehouse token issue --help lists the flags\n")
	if n := len(requestsOf[*pb.IssueTokenRequest](c.authority)); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

func TestIssueBatch(t *testing.T) {
	c := newCaller(t)
	got := c.run("", "token", "issue", "--subject=u42", "--audience=chat", "--count=300")
	lines := strings.Split(strings.TrimSuffix(got.stdout, "\n"), "\n")
	if got.code != exitOK || len(lines) != 300 {
		t.Fatalf("exit %d, %d lines, %s", got.code, len(lines), got.stderr)
	}
	if _, text := testToken(300); lines[299] != text {
		t.Error("the last line is not the last token")
	}
	if got.stderr != "gatehouse: the last token expires 2026-11-23 13:01:00 CET (in 60 s)\n" {
		t.Error(got.stderr)
	}
	var sizes []int
	for _, r := range requestsOf[*pb.IssueTokensRequest](c.authority) {
		sizes = append(sizes, len(r.GetRequests()))
	}
	if len(sizes) != 2 || sizes[0] != 256 || sizes[1] != 44 {
		t.Errorf("batches of %v, want 256 and 44", sizes)
	}
}

// What was issued before a batch failed is worth nothing if its text is lost.
func TestIssueBatchKeepsWhatWasIssued(t *testing.T) {
	quota := "issued 300 of 1000 tokens: credential alice may issue 300 tokens a second"
	c := newCaller(t)
	got := c.run("", "token", "issue", "--subject=refused-after-300", "--audience=chat", "--count=1000")
	if n := strings.Count(got.stdout, "gh1_"); got.code != exitUnconfirmed || n != 300 {
		t.Errorf("exit %d, %d tokens", got.code, n)
	}
	if want := "gatehouse: error: " + quota + "\ngatehouse: hint: " + callerr.ReasonHints[pb.Reason_REASON_QUOTA_EXCEEDED] + "\n"; !strings.HasSuffix(got.stderr, want) {
		t.Errorf("stderr %s", got.stderr)
	}

	c = newCaller(t)
	got = c.run("", "token", "issue", "--subject=refused-after-300", "--audience=chat", "--count=1000", "-ojson")
	var list struct {
		Tokens []struct{ Token string }
		More   bool
	}
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || len(list.Tokens) != 300 || !list.More {
		t.Errorf("%v: %d tokens, more %v", err, len(list.Tokens), list.More)
	}
	if want := `{"error":{"code":"unconfirmed","exit_code":6,"reason":"quota_exceeded","message":"` + quota; !strings.HasPrefix(got.stderr, want) {
		t.Errorf("stderr %s", got.stderr)
	}

	c = newCaller(t)
	got = c.run("", "token", "issue", "--subject=refused-after-0", "--audience=chat", "--count=2")
	if got.code != exitFailure || got.stdout != "" || !strings.Contains(got.stderr, "issued 0 of 2 tokens") {
		t.Errorf("%+v", got)
	}

	c = newCaller(t)
	c.authority.errs["IssueTokens"] = withReason(codes.Unavailable, pb.Reason_REASON_STOPPING, "authority is stopping")
	got = c.run("", "token", "issue", "--subject=u42", "--audience=chat", "--count=2", "-ojson")
	if got.code != exitUnavailable || got.stdout != "{\"tokens\": [], \"more\": true}\n" {
		t.Errorf("%+v", got)
	}

	c = newCaller(t)
	c.check(c.run("", "token", "issue", "--subject=unanswered", "--audience=chat", "--count=2"), exitFailure, "",
		"gatehouse: error: issued 0 of 2 tokens: the authority answered 0 of 2 requests\n")
}
