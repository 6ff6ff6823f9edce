package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// listedToken is what the authority knows of the n-th token.
func listedToken(n int, state pb.TokenState) *pb.Token {
	id, _ := testToken(n)
	return &pb.Token{
		TokenId: id.String(), State: state, Tenant: "default", Subject: "u42", Audience: "chat", MaxUses: 1,
		IssuedAt: timestamppb.New(testNow.Add(-12 * time.Second)), NotBefore: timestamppb.New(testNow.Add(-12 * time.Second)),
		ExpiresAt: timestamppb.New(testNow.Add(48 * time.Second)), SessionTtl: durationpb.New(12 * time.Hour), Issuer: "login",
		IssuedRevision: &pb.Revision{Epoch: testEpoch, Sequence: 41},
		IpBinding:      pb.IpBinding_IP_BINDING_OFF, UserAgentBinding: pb.UserAgentBinding_USER_AGENT_BINDING_OFF,
	}
}

func TestTokenShow(t *testing.T) {
	c := newCaller(t)
	id, text := testToken(1)
	full := listedToken(1, pb.TokenState_TOKEN_STATE_REVOKED)
	full.Uses, full.ClientIp, full.IpBinding = 1, "203.0.113.7", pb.IpBinding_IP_BINDING_PREFIX
	full.UserAgent, full.UserAgentBinding = []byte("Mozilla/5.0 \x1b[31m\xff"), pb.UserAgentBinding_USER_AGENT_BINDING_CLASS
	full.Browser, full.Os, full.Origin = "firefox", "linux", "https://app.example.com"
	full.Scopes, full.Attributes = []string{"message", "ping"}, map[string]string{"plan": "pro", "badge": "x"}
	full.Limits = &pb.SessionLimits{MessageBytes: 100, MessagesPerSecond: 1}
	full.NotBefore = timestamppb.New(testNow.Add(-2 * time.Second))
	full.RevokedBy, full.LockId, full.SessionIds = &pb.Revision{Epoch: testEpoch, Sequence: 42}, testLock, []string{testSession}
	c.authority.tokens = []*pb.Token{full}
	want := `token         ` + id.String() + `
state         revoked
tenant        default
subject       u42
audience      chat
uses          1 of 1
issued        2026-11-23 12:59:48 CET (12 s ago) by login, revision 7.41
active from   2026-11-23 12:59:58 CET (2.0 s ago)
expires       2026-11-23 13:00:48 CET (in 48 s)
session ttl   12 h
client ip     203.0.113.7 (binding prefix)
user agent    Mozilla/5.0 \x1b[31m\xff (binding class)
browser       firefox on linux
origin        https://app.example.com
scopes        message, ping
attribute     badge=x
attribute     plan=pro
limits        100 bytes a message, 1 message a second
revoked by    7.42
locked by     ` + testLock + `
session       ` + testSession + "\n"
	want = strings.ReplaceAll(want, "         ", "        ")
	for name, in := range map[string]struct{ stdin, arg string }{
		"by id":                  {"", id.String()},
		"by id, lower case":      {"", strings.ToLower(id.String())},
		"by text":                {text, "-"},
		"by text, spaces around": {" \t" + text + "\r\n\n", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.run(in.stdin, "token", "show", in.arg)
			got.stdout = strings.Join(strings.Fields(got.stdout), " ")
			c.check(got, exitOK, strings.Join(strings.Fields(want), " "), "")
		})
	}
	for _, r := range requestsOf[*pb.GetTokenRequest](c.authority) {
		if r.GetTokenId() != id.String() {
			t.Errorf("asked for %q", r.GetTokenId())
		}
	}
}

func TestTokenShowNotFound(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(9)
	c.check(c.run("", "token", "show", id.String()), exitNotFound, "",
		"gatehouse: error: no token has the id "+id.String()+", or it expired and was forgotten\n")
	c.check(c.run("", "token", "show", id.String(), "-o", "json"), exitNotFound, "",
		`{"error":{"code":"not_found","exit_code":3,"reason":"not_found","message":"no token has the id `+id.String()+`, or it expired and was forgotten","hint":""}}`+"\n")
}

func TestTokenShowUsage(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "token", "show", "u42"), exitUsage, "",
		"gatehouse: error: \"u42\" is not a token id: want 26 characters of Crockford base32, as in 01JD8Z0Q4M3T5V7X9ZABCDEFGH\n"+
			"gatehouse: hint: gatehouse token list shows ids; gatehouse token show - reads a token's text\n")
	c.check(c.run("", "token", "show"), exitUsage, "",
		"gatehouse: error: gatehouse token show takes one argument, a token id or -, but got 0\n"+
			"gatehouse: hint: gatehouse token show --help shows how\n")
	_, text := testToken(1)
	for name, stdin := range map[string]string{
		"nothing": "", "a cut token": text[:83], "an edited token": text[:83] + "=", "endless": strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			c.check(c.run(stdin, "token", "show", "-"), exitUsage, "",
				"gatehouse: error: standard input holds no token's text: malformed token\n"+
					"gatehouse: hint: a token's text is one line of 84 characters, as gatehouse token issue printed it\n")
		})
	}
	c.check(c.run(text+"\n"+text+"\n", "token", "introspect"), exitUsage, "",
		"gatehouse: error: standard input holds more than one token's text\ngatehouse: hint: pass them one by one\n")
}

func TestIntrospect(t *testing.T) {
	c := newCaller(t)
	c.authority.tokens = []*pb.Token{listedToken(1, pb.TokenState_TOKEN_STATE_ACTIVE), listedToken(2, pb.TokenState_TOKEN_STATE_USED)}
	_, active := testToken(1)
	_, used := testToken(2)
	if got := c.run(active+"\n", "token", "introspect"); got.code != exitOK || !strings.Contains(got.stdout, "state        active\n") {
		t.Errorf("%+v", got)
	}
	c.check(c.run(used, "token", "introspect"), exitOK, "inactive\n", "")
	c.check(c.run(used, "token", "introspect", "-o", "json"), exitOK, "{\n  \"active\": false,\n  \"token\": null\n}\n", "")
	if sent := requestsOf[*pb.IntrospectTokenRequest](c.authority); len(sent) != 3 || sent[0].GetToken() != active {
		t.Errorf("sent %d requests", len(sent))
	}
	got := c.run(active, "token", "introspect", "-o", "json")
	var answer struct {
		Active bool
		Token  struct {
			State string
			Uses  int
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &answer); err != nil || !answer.Active || answer.Token.State != "active" {
		t.Errorf("%v: %s", err, got.stdout)
	}
}

func TestTokenList(t *testing.T) {
	c := newCaller(t)
	other := listedToken(2, pb.TokenState_TOKEN_STATE_NOT_YET_ACTIVE)
	other.Tenant, other.Subject, other.ExpiresAt = "acme", "user with\tspaces\n", timestamppb.New(testNow.Add(90*time.Minute))
	c.authority.tokens = []*pb.Token{listedToken(1, pb.TokenState_TOKEN_STATE_ACTIVE), other}
	one, _ := testToken(1)
	two, _ := testToken(2)
	c.check(c.run("", "token", "list"), exitOK, `TOKEN                       STATE           TENANT   SUBJECT              AUDIENCE  USES  EXPIRES    ISSUER
`+one.String()+`  active          default  u42                  chat      0/1   in 48 s    login
`+two.String()+`  not_yet_active  acme     user with\tspaces\n  chat      0/1   in 90 min  login
`, "")
	c.check(c.run("", "token", "list", "--subject=u43"), exitOK, "", "gatehouse: no tokens\n")
	c.check(c.run("", "token", "list", "--subject=u43", "-o=json"), exitOK, "{\"tokens\": [], \"more\": false}\n", "")
	c.check(c.run("", "token", "list", "--limit=-1"), exitUsage, "", "gatehouse: error: --limit: -1 is below 0\n")

	got := c.run("", "token", "list", "--tenant=acme", "--subject=u", "--audience=chat", "--issuer=login", "--ip-prefix=203.0.113.0/24", "--state=not-yet-active")
	sent := requestsOf[*pb.ListTokensRequest](c.authority)
	want := &pb.ListTokensRequest{
		PageSize: pageSize, Tenant: "acme", Subject: "u", Audience: "chat", Issuer: "login", IpPrefix: "203.0.113.0/24",
		State: pb.TokenState_TOKEN_STATE_NOT_YET_ACTIVE,
	}
	if last := sent[len(sent)-1]; last.String() != want.String() {
		t.Errorf("sent %v: %+v", last, got)
	}
}

// Pages may be short, even empty, while there are more.
func TestListsPageToTheEnd(t *testing.T) {
	for _, tc := range []struct {
		limit, rows, calls int
		more               bool
	}{
		{0, 450, 3, false}, {450, 450, 3, false}, {449, 449, 3, true}, {200, 200, 1, true}, {3, 3, 1, true}, {1000, 450, 3, false},
	} {
		for _, holes := range []bool{false, true} {
			c := newCaller(t)
			for i := range 450 {
				c.authority.tokens = append(c.authority.tokens, listedToken(i, pb.TokenState_TOKEN_STATE_ACTIVE))
			}
			c.authority.pageTokens = holes
			got := c.run("", "token", "list", "-o", "json", fmt.Sprintf("--limit=%d", tc.limit))
			var list struct {
				Tokens []struct {
					ID string `json:"token_id"`
				}
				More bool
			}
			if err := json.Unmarshal([]byte(got.stdout), &list); err != nil {
				t.Fatal(err)
			}
			if len(list.Tokens) != tc.rows || list.More != tc.more {
				t.Errorf("limit %d, empty pages %v: %d tokens, more %v", tc.limit, holes, len(list.Tokens), list.More)
			}
			if calls := len(requestsOf[*pb.ListTokensRequest](c.authority)); !holes && calls != tc.calls {
				t.Errorf("limit %d: %d calls, want %d", tc.limit, calls, tc.calls)
			}
			for i, got := range list.Tokens {
				if id, _ := testToken(i); got.ID != id.String() {
					t.Fatalf("token %d is %s", i, got.ID)
				}
			}
			table := c.run("", "token", "list", fmt.Sprintf("--limit=%d", tc.limit))
			note := ""
			if tc.more {
				note = "gatehouse: there may be more tokens: raise --limit\n"
			}
			if n := strings.Count(table.stdout, "\n"); n != tc.rows+1 || table.stderr != note {
				t.Errorf("limit %d: %d lines, %q", tc.limit, n, table.stderr)
			}
		}
	}
}

// A filter that a script left empty must not list everything.
func TestListsRefuseFiltersThatAreNone(t *testing.T) {
	c := newCaller(t)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"token", "list", "--subject", ""}, "--subject is empty: leave it out to list all\ngatehouse: hint: an unset shell variable, perhaps\n"},
		{[]string{"token", "list", "--subject=u", "--issuer="}, "--issuer is empty: leave it out to list all\ngatehouse: hint: an unset shell variable, perhaps\n"},
		{[]string{"session", "list", "--node="}, "--node is empty: leave it out to list all\ngatehouse: hint: an unset shell variable, perhaps\n"},
		{[]string{"token", "list", "--ip-prefix=10.0.0.0/33"}, "--ip-prefix: \"10.0.0.0/33\" is neither a CIDR prefix such as 203.0.113.0/24 nor an address\n"},
		{[]string{"session", "list", "--ip-prefix=u42"}, "--ip-prefix: \"u42\" is neither a CIDR prefix such as 203.0.113.0/24 nor an address\n"},
	} {
		c.check(c.run("", tc.args...), exitUsage, "", "gatehouse: error: "+tc.want)
	}
	if n := len(c.authority.requests); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}
