package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const rowsHeader = "NODE    INSTANCE                          ENFORCED  CLOSED  LINGERING  AFTER / DEADLINE\n"

var (
	completeRows = rowsHeader +
		"node-1  " + instance(1) + "  yes       2       1          12 ms\n" +
		"node-2  " + instance(2) + "  yes       1       0          4 ms\n"
	silentRows = rowsHeader +
		"node-1  " + instance(1) + "  yes       2       1          12 ms\n" +
		"node-2  " + instance(2) + "  no        0       0          by 2026-11-23 14:00:00 CET (in 60 min)\n"
)

// TestDepartedNode proves that nobody reads the count of a node that left without
// telling as all there was.
func TestDepartedNode(t *testing.T) {
	c := newCaller(t)
	c.authority.receipt = func(rev *pb.Revision, _ int) *pb.Receipt {
		r := testReceipt(rev, true)
		r.Rows[1].Departed = "goodbye"
		return r
	}
	c.check(c.run("", "revoke", "--subject", "u42"), exitOK, "revoked: 12 tokens, 3 live sockets; at least 3 sockets closed on 2 of 2 nodes in 12 ms\n"+
		"NODE    INSTANCE                          ENFORCED  CLOSED     LINGERING  AFTER / DEADLINE\n"+
		"node-1  "+instance(1)+"  yes       2          1          12 ms\n"+
		"node-2  "+instance(2)+"  yes       1 or more  0          4 ms, departed: goodbye\n", "")
}

// TestRevokeWithGrace proves that a grace is asked for, shown while it lasts, and
// waited for.
func TestRevokeWithGrace(t *testing.T) {
	c := newCaller(t)
	until := timestamppb.New(testNow.Add(30 * time.Second))
	c.authority.receipt = func(rev *pb.Revision, _ int) *pb.Receipt {
		r := testReceipt(rev, false)
		r.GraceUntil = until
		r.Rows[1].InGrace, r.Rows[1].Deadline = true, timestamppb.New(testNow.Add(31*time.Second))
		return r
	}
	within := rowsHeader +
		"node-1  " + instance(1) + "  yes       2       1          12 ms\n" +
		"node-2  " + instance(2) + "  in grace  0       0          by 2026-11-23 13:00:30 CET (in 30 s)\n"
	c.check(c.run("", "revoke", "--subject", "u42", "--grace", "30s", "--timeout", "500ms"), exitUnconfirmed,
		"revoked: 12 tokens, 3 live sockets; 2 sockets closed on 1 of 2 nodes in 12 ms\n"+within,
		"gatehouse: error: not confirmed by 1 of 2 nodes: node-2 (instance "+instance(2)+", where sockets have until 2026-11-23 13:00:30 CET (in 30 s) to renew)\n"+
			"gatehouse: hint: ask again with gatehouse revocation show 7.1\n")
	for _, r := range requestsOf[*pb.RevokeRequest](c.authority) {
		if r.GetGrace().AsDuration() != 30*time.Second {
			t.Errorf("sent %v", r)
		}
	}
	c.check(c.run("", "revoke", "--subject", "u42", "--grace", "30s", "--no-wait"), exitOK,
		"revoked: 12 tokens, 3 live sockets; revision 7.2, sockets have until 2026-11-23 13:00:30 CET (in 30 s) to renew\n", "")
	c.check(c.run("", "revoke", "--subject", "u42", "--grace", "90s", "--dry-run"), exitOK, "would revoke: 12 tokens and 3 live sockets, with 90 s to renew\n", "")
	c.check(c.run("", "revoke", "--subject", "u42", "--grace", "1500ms", "--dry-run", "-o", "json"), exitOK,
		"{\n  \"dry_run\": true,\n  \"tokens\": 12,\n  \"sessions\": 3,\n  \"grace\": \"1.5s\"\n}\n", "")
	c.check(c.run("", "revoke", "--subject", "u42", "--grace", "30s", "--no-wait", "-o", "json"), exitOK,
		"{\n  \"revision\": \"7.3\",\n  \"tokens\": 12,\n  \"sessions\": 3,\n  \"grace_until\": \"2026-11-23T12:00:30Z\",\n  \"receipt\": null\n}\n", "")
}

// TestGraceIsWaitedFor proves that the time to wait is longer by the grace, where
// nobody says how long it is.
func TestGraceIsWaitedFor(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"": 30 * time.Second, "--grace=1m": 90 * time.Second, "--grace=1m --timeout=5s": 5 * time.Second,
	} {
		e, f := ending{}, pflag.NewFlagSet("revoke", pflag.ContinueOnError)
		f.DurationVar(&e.grace, "grace", 0, "")
		e.flags(f)
		if err := errors.Join(f.Parse(strings.Fields(args)), e.check(f)); err != nil || e.timeout != want {
			t.Errorf("%q: waits %v, %v, want %v", args, e.timeout, err, want)
		}
	}
}

func TestRevokeSelectors(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(1)
	for _, tc := range []struct {
		name string
		args []string
		want *pb.RevokeRequest
		hit  string
	}{
		{"token", []string{"--token", strings.ToLower(id.String())}, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: id.String()}}}, "1 token, 3 live sockets"},
		{"session", []string{"--session", testSession}, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_SessionId{SessionId: testSession}}}, "0 tokens, 1 live socket"},
		{"subject", []string{"--subject", "u42"}, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Subject: "u42"}}}}, "12 tokens, 3 live sockets"},
		{"subject of a tenant", []string{"--tenant", "acme", "--subject", "u42", "--reason", "left"}, &pb.RevokeRequest{
			Selector: &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "u42"}}}, Reason: "left"}, "12 tokens, 3 live sockets"},
		{"tenant", []string{"--tenant", "acme", "--reason", "left", "--yes"}, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_Tenant{Tenant: "acme"}}, Reason: "left"}, "12 tokens, 3 live sockets"},
		{"prefix", []string{"--ip-prefix", "203.0.113.0/24", "--reason", "abuse", "--yes"}, &pb.RevokeRequest{
			Selector: &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: "203.0.113.0/24"}}, Reason: "abuse"}, "12 tokens, 3 live sockets"},
		{"one address", []string{"--ip-prefix", "2001:db8::1", "--reason", "abuse", "--yes"}, &pb.RevokeRequest{
			Selector: &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: "2001:db8::1"}}, Reason: "abuse"}, "12 tokens, 3 live sockets"},
		{"issuer", []string{"--issuer", "login", "--reason", "key leaked", "--yes"}, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_Issuer{Issuer: "login"}}, Reason: "key leaked"}, "12 tokens, 3 live sockets"},
		{"everyone", []string{"--all-subjects", "--reason", "edge key leaked", "--yes"}, &pb.RevokeRequest{
			Selector: &pb.Selector{By: &pb.Selector_AllSubjects{AllSubjects: true}}, Reason: "edge key leaked"}, "12 tokens, 3 live sockets"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(requestsOf[*pb.RevokeRequest](c.authority))
			c.check(c.run("", append([]string{"revoke"}, tc.args...)...), exitOK, "revoked: "+tc.hit+"; 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
			sent := requestsOf[*pb.RevokeRequest](c.authority)[before:]
			if len(sent) != 2 || !sent[0].GetDryRun() || sent[1].GetDryRun() || !proto.Equal(sent[0].GetSelector(), sent[1].GetSelector()) {
				t.Fatalf("sent %v, want a count and the revocation", sent)
			}
			sent = sent[1:]
			if b, err := hex.DecodeString(sent[0].GetRequestId()); err != nil || len(b) != 16 {
				t.Errorf("request id %q", sent[0].GetRequestId())
			}
			sent[0].RequestId = ""
			if !proto.Equal(sent[0], tc.want) {
				t.Errorf("sent %v\nwant %v", sent[0], tc.want)
			}
		})
	}
	if c.run("", "revoke", "--subject=u", "--request-id=0123456789abcdef"); true {
		sent := requestsOf[*pb.RevokeRequest](c.authority)
		if got := sent[len(sent)-1].GetRequestId(); got != "0123456789abcdef" {
			t.Errorf("request id %q", got)
		}
	}
}

func TestRevokeUsage(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(1)
	const oneOf = "say what to hit with exactly one of --token, --session, --subject, --tenant, --ip-prefix, --issuer, --all-subjects, --token-stdin"
	const help = "gatehouse revoke --help has examples"
	for _, tc := range []struct {
		name       string
		args       []string
		want, hint string
	}{
		{"no selector", nil, oneOf, help},
		{"two selectors", []string{"--token", id.String(), "--issuer", "login"}, "--token and --issuer were given: " + oneOf, help},
		{"subject of a tenant beside another", []string{"--subject=u", "--tenant=t", "--issuer=i"}, "--subject and --issuer were given: " + oneOf, help},
		{"a tenant of no subject beside another", []string{"--token", id.String(), "--tenant=t"}, "--token and --tenant were given: " + oneOf, help},
		{"a selector beside standard input", []string{"--subject=u", "--token-stdin"}, "--subject and --token-stdin were given: " + oneOf, help},
		{"everyone beside one", []string{"--all-subjects", "--tenant=t"}, "--tenant and --all-subjects were given: " + oneOf, help},
		{"everyone unsaid", []string{"--all-subjects=false"}, "--all-subjects=false does not say what to hit", ""},
		{"everyone needs a reason", []string{"--all-subjects", "--yes"}, "--reason is required with --all-subjects, which may hit many users", ""},
		{"an empty selector", []string{"--tenant="}, "--tenant is empty: say what to hit", "an unset shell variable, perhaps"},
		{"an empty tenant of a subject", []string{"--subject=u", "--tenant="}, "--tenant is empty: say what to hit", "an unset shell variable, perhaps"},
		{"a token is an id", []string{"--token=u42"}, `--token: "u42" is not a token id: want 26 characters of Crockford base32, as in 01JD8Z0Q4M3T5V7X9ZABCDEFGH`,
			"gatehouse token list shows ids; gatehouse revoke --token-stdin reads tokens' texts"},
		{"a session is an id", []string{"--session=u42"}, `"u42" is not a session id: want 32 hexadecimal digits`, "gatehouse session list shows ids"},
		{"a prefix is one", []string{"--ip-prefix=10.0.0.0/33", "--reason=x"}, `--ip-prefix: "10.0.0.0/33" is neither a CIDR prefix such as 203.0.113.0/24 nor an address`, ""},
		{"a wide selector needs a reason", []string{"--tenant=acme", "--yes"}, "--reason is required with --tenant, which may hit many users", ""},
		{"a dry run of a wide selector too", []string{"--issuer=login", "--dry-run"}, "--reason is required with --issuer, which may hit many users", ""},
		{"nobody to ask", []string{"--ip-prefix=10.0.0.0/8", "--reason=x"},
			"--ip-prefix may hit many users and nobody is there to ask: --yes is required without a terminal", "--dry-run shows what would be hit"},
		{"wait and do not", []string{"--subject=u", "--wait", "--no-wait"}, "--wait and --no-wait contradict each other", ""},
		{"a time to wait", []string{"--subject=u", "--timeout=0s"}, "--timeout: 0s is not above 0", "--no-wait does not wait at all"},
		{"no grace", []string{"--subject=u", "--grace=0s"}, "--grace: 0s is not above 0", "without --grace sockets are closed at once"},
		{"a grace in the past", []string{"--subject=u", "--grace=-1s"}, "--grace: -1s is not above 0", "without --grace sockets are closed at once"},
		{"a grace for what leaked", []string{"--token-stdin", "--grace=1s"},
			"--grace leaves sockets open, and --token-stdin is for leaked tokens: close theirs at once", ""},
		{"one request id for many", []string{"--token-stdin", "--request-id=0123456789abcdef"},
			"--request-id names one revocation; --token-stdin makes many, each with an id of its own", ""},
		{"standard input that is not to be read", []string{"--token-stdin=false"}, "--token-stdin=false says nothing to hit: leave it out", ""},
		{"an argument", []string{"u42"}, `gatehouse revoke takes no argument, but got "u42"`, "gatehouse revoke --help shows how"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := "gatehouse: error: " + tc.want + "\n"
			if tc.hint != "" {
				want += "gatehouse: hint: " + tc.hint + "\n"
			}
			c.check(c.run("", append([]string{"revoke"}, tc.args...)...), exitUsage, "", want)
		})
	}
	if n := len(requestsOf[*pb.RevokeRequest](c.authority)); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

// lines gives one line to each Read, as a terminal does.
type lines []string

func (l *lines) Read(b []byte) (int, error) {
	if len(*l) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*l)[0])
	*l = (*l)[1:]
	return n, nil
}

func TestWideSelectorsAskOnATerminal(t *testing.T) {
	for _, tc := range []struct {
		name, typed string
		code        exitCode
		requests    int
	}{
		{"the value", "acme\n", exitOK, 2},
		{"the value, Windows", "acme\r\n", exitOK, 2},
		{"yes is not the value", "yes\n", exitFailure, 1},
		{"spaces matter", " acme\n", exitFailure, 1},
		{"nothing", "\n", exitFailure, 1},
		{"the end", "", exitFailure, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCaller(t)
			c.terminal = true
			got := c.runCtx(context.Background(), &lines{tc.typed}, "revoke", "--tenant", "acme", "--reason", "left")
			asked := "gatehouse: tenant acme at ADDRESS: 12 tokens and 3 live sockets\nType acme to go on: "
			if tc.code == exitOK {
				c.check(got, exitOK, "revoked: 12 tokens, 3 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, asked)
			} else {
				c.check(got, tc.code, "", asked+"gatehouse: error: not confirmed: nothing was changed\n")
			}
			sent := requestsOf[*pb.RevokeRequest](c.authority)
			if len(sent) != tc.requests || !sent[0].GetDryRun() {
				t.Errorf("sent %v", sent)
			}
			if tc.requests == 2 && sent[1].GetDryRun() {
				t.Error("nothing but dry runs was sent")
			}
		})
	}
}

func TestRevokeDryRun(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "revoke", "--tenant=acme", "--reason=x", "--dry-run"), exitOK, "would revoke: 12 tokens and 3 live sockets\n", "")
	c.check(c.run("", "revoke", "--subject=u42", "--dry-run", "-ojson"), exitOK, "{\n  \"dry_run\": true,\n  \"tokens\": 12,\n  \"sessions\": 3\n}\n", "")
	for _, r := range requestsOf[*pb.RevokeRequest](c.authority) {
		if !r.GetDryRun() {
			t.Error("a dry run revoked")
		}
	}
}

func TestRevokeWithoutWaiting(t *testing.T) {
	for _, flag := range []string{"--no-wait", "--wait=false"} {
		c := newCaller(t)
		c.check(c.run("", "revoke", "--subject=u42", flag), exitOK, "revoked: 12 tokens, 3 live sockets; revision 7.1, not confirmed by nodes yet\n", "")
		c.check(c.run("", "revoke", "--subject=u42", flag, "-ojson"), exitOK, "{\n  \"revision\": \"7.2\",\n  \"tokens\": 12,\n  \"sessions\": 3,\n  \"receipt\": null\n}\n", "")
		if len(c.authority.asked) != 0 {
			t.Error("the receipt was asked for")
		}
	}
}

func TestReceipts(t *testing.T) {
	const hint = "gatehouse: hint: ask again with gatehouse revocation show 7.1\n"
	partial := func(rev *pb.Revision, asked int) *pb.Receipt { return testReceipt(rev, false) }
	for _, tc := range []struct {
		name           string
		receipt        func(*pb.Revision, int) *pb.Receipt
		err            error
		fails          int
		code           exitCode
		stdout, stderr string
	}{
		{name: "rows that come later are merged", receipt: func(rev *pb.Revision, asked int) *pb.Receipt {
			r := testReceipt(rev, asked > 0)
			if asked > 0 {
				r.Rows = r.Rows[1:]
			}
			return r
		}, stdout: "revoked: 12 tokens, 3 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n" + completeRows},
		{name: "a silent node is named with its deadline", receipt: partial, code: exitUnconfirmed,
			stdout: "revoked: 12 tokens, 3 live sockets; 2 sockets closed on 1 of 2 nodes in 12 ms\n" + silentRows,
			stderr: "gatehouse: error: not confirmed by 1 of 2 nodes: node-2 (instance " + instance(2) + ", by 2026-11-23 14:00:00 CET (in 60 min))\n" + hint},
		{name: "a silent node without a deadline", receipt: func(rev *pb.Revision, asked int) *pb.Receipt {
			r := testReceipt(rev, false)
			r.Rows = r.Rows[1:]
			r.Rows[0].Deadline = nil
			return r
		}, code: exitUnconfirmed,
			stdout: "revoked: 12 tokens, 3 live sockets; 0 sockets closed on 0 of 1 node\n" + rowsHeader + "node-2  " + instance(2) + "  no        0       0          no deadline\n",
			stderr: "gatehouse: error: not confirmed by 1 of 1 node: node-2 (instance " + instance(2) + ", no deadline)\n" + hint},
		{name: "no node", receipt: func(rev *pb.Revision, asked int) *pb.Receipt { return &pb.Receipt{Revision: rev, Complete: true} },
			stdout: "revoked: 12 tokens, 3 live sockets; no node is registered, so no socket was open\n"},
		{name: "the authority restarts meanwhile", err: withReason(codes.Unavailable, pb.Reason_REASON_STOPPING, "authority is stopping"), fails: 2,
			stdout: "revoked: 12 tokens, 3 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n" + completeRows},
		{name: "the receipt can't be read", err: withReason(codes.Internal, pb.Reason_REASON_INTERNAL, "internal error"), fails: 1, code: exitUnconfirmed,
			stdout: "revoked: 12 tokens, 3 live sockets; revision 7.1, not confirmed by nodes yet\n",
			stderr: "gatehouse: error: revoked, but who has enforced it could not be learnt: internal error\n" + hint},
		{name: "nobody answers for the receipt", err: withReason(codes.Unavailable, pb.Reason_REASON_STOPPING, "authority is stopping"), fails: 1000, code: exitUnconfirmed,
			stdout: "revoked: 12 tokens, 3 live sockets; revision 7.1, not confirmed by nodes yet\n",
			stderr: "gatehouse: error: revoked, but who has enforced it could not be learnt: authority is stopping\n" + hint},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCaller(t)
			c.authority.receipt, c.authority.hang = tc.receipt, tc.code == exitUnconfirmed
			if tc.err != nil {
				c.authority.errs["WatchReceipt"], c.authority.fails["WatchReceipt"] = tc.err, tc.fails
			}
			timeout := "10s"
			if tc.code == exitUnconfirmed {
				timeout = "400ms"
			}
			if tc.fails > 1 {
				timeout = "3s" // for a first answer, on a busy machine too
			}
			c.check(c.run("", "revoke", "--subject=u42", "--timeout", timeout), tc.code, tc.stdout, tc.stderr)
		})
	}
}

func TestRevokeJSON(t *testing.T) {
	c := newCaller(t)
	c.authority.silence()
	got := c.run("", "revoke", "--subject=u42", "--timeout=500ms", "-o", "json")
	c.check(got, exitUnconfirmed, `{
  "revision": "7.1",
  "tokens": 12,
  "sessions": 3,
  "receipt": {
    "revision": "7.1",
    "committed_at": "2026-11-23T12:00:00Z",
    "complete": false,
    "rows": [
      {
        "node": "node-1",
        "instance_id": "`+instance(1)+`",
        "enforced": true,
        "closed": 2,
        "lingering": 1,
        "after": "0.012s",
        "deadline": null,
        "departed": "",
        "in_grace": false
      },
      {
        "node": "node-2",
        "instance_id": "`+instance(2)+`",
        "enforced": false,
        "closed": 0,
        "lingering": 0,
        "after": null,
        "deadline": "2026-11-23T13:00:00Z",
        "departed": "",
        "in_grace": false
      }
    ],
    "grace_until": null
  }
}
`, `{"error":{"code":"unconfirmed","exit_code":6,"reason":"","message":"not confirmed by 1 of 2 nodes: node-2 (instance `+instance(2)+
		`, by 2026-11-23 14:00:00 CET (in 60 min))","hint":"ask again with gatehouse revocation show 7.1"}}`+"\n")
	if !json.Valid([]byte(got.stderr)) {
		t.Error("stderr is not JSON")
	}
}

// The authority revokes what it does not know too (RFC 7009 section 2.2), but
// an operator wants to be told.
func TestRevokeOfTheUnknown(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(1)
	c.authority.unknown = map[string]bool{id.String(): true, testSession: true}
	none := func(rev *pb.Revision, _ int) *pb.Receipt {
		r := testReceipt(rev, true)
		for _, row := range r.Rows {
			row.Closed, row.Lingering = 0, 0
		}
		return r
	}
	c.authority.receipt = none
	rows := strings.NewReplacer("2       1", "0       0", "1       0", "0       0").Replace(completeRows)
	noToken := "gatehouse: error: the authority knows no token " + id.String() + ": it never was, or it expired and was forgotten\n" +
		"gatehouse: hint: should such a token turn up, it is revoked\n"
	c.check(c.run("", "revoke", "--token", id.String()), exitNotFound, "revoked: 0 tokens, 0 live sockets; 0 sockets closed on 2 of 2 nodes in 12 ms\n"+rows, noToken)
	c.check(c.run("", "revoke", "--token", id.String(), "--no-wait"), exitNotFound, "revoked: 0 tokens, 0 live sockets; revision 7.2, not confirmed by nodes yet\n", noToken)
	noSession := "gatehouse: error: the authority knows no live session " + testSession + ": it has ended, or never was\n" +
		"gatehouse: hint: gatehouse session list shows the live sessions\n"
	c.check(c.run("", "revoke", "--session", testSession), exitNotFound, "revoked: 0 tokens, 0 live sockets; 0 sockets closed on 2 of 2 nodes in 12 ms\n"+rows, noSession)

	// A token is forgotten before the sessions it opened have ended.
	c.authority.receipt = nil
	c.check(c.run("", "revoke", "--token", id.String()), exitOK, "revoked: 0 tokens, 0 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
}

// Whoever mistypes a subject wants to be told, though there is no error in it.
func TestRevokeOfNothing(t *testing.T) {
	c := newCaller(t)
	c.authority.unknown["typo"] = true
	c.authority.receipt = func(rev *pb.Revision, _ int) *pb.Receipt { return &pb.Receipt{Revision: rev, Complete: true} }
	const done = "revoked: 0 tokens, 0 live sockets; no node is registered, so no socket was open\n"
	c.check(c.run("", "revoke", "--subject=typo"), exitOK, done,
		"gatehouse: nothing was hit: no token left to revoke and no live socket is of subject typo; check the spelling, and --tenant, since subjects are of a tenant\n")
	c.check(c.run("", "revoke", "--subject=typo", "--tenant=acme"), exitOK, done,
		"gatehouse: nothing was hit: no token left to revoke and no live socket is of subject typo of tenant acme; check the spelling\n")
	got := c.run("", "revoke", "--subject=typo", "-ojson")
	if got.code != exitOK || got.stderr != "" || !strings.Contains(got.stdout, "\"tokens\": 0,\n  \"sessions\": 0,") {
		t.Errorf("%+v", got)
	}
	c.authority.receipt = nil
	c.check(c.run("", "revoke", "--subject=typo"), exitOK, "revoked: 0 tokens, 0 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
}

// Nobody waits long for numbers before what is urgent.
func TestRevokeGoesOnWithoutACount(t *testing.T) {
	c := newCaller(t)
	c.authority.errs["Revoke"], c.authority.fails["Revoke"] = withReason(codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "busy"), 1
	c.check(c.run("", "revoke", "--subject=u42", "--no-wait", "-ojson"), exitOK, "{\n  \"revision\": \"7.1\",\n  \"tokens\": null,\n  \"sessions\": null,\n  \"receipt\": null\n}\n", "")
	c.authority.fails["Revoke"] = 1
	c.check(c.run("", "revoke", "--subject=u42", "--no-wait"), exitOK, "revoked: revision 7.2, not confirmed by nodes yet\n",
		"gatehouse: what it hits was not counted within 3s; it goes on without\n")
	c.authority.fails["Revoke"] = 1
	if got := c.run("", "revoke", "--subject=u42", "--dry-run"); got.code != exitUnavailable {
		t.Errorf("a dry run that could not count: %+v", got)
	}
	c.authority.errs["Revoke"], c.authority.fails["Revoke"] = withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "viewer alice may not call it"), 1
	if got := c.run("", "revoke", "--subject=u42"); got.code != exitDenied {
		t.Errorf("%+v", got)
	}
}

func TestInterruptedWhileWaiting(t *testing.T) {
	c := newCaller(t)
	c.authority.silence()
	c.check(c.interrupt("waiting for 1 of 2 nodes", strings.NewReader(""), "revoke", "--subject=u42"), exitInterrupted,
		"revoked: 12 tokens, 3 live sockets; 2 sockets closed on 1 of 2 nodes in 12 ms\n"+silentRows,
		"gatehouse: error: revoked, but who has enforced it could not be learnt: interrupted\n"+
			"gatehouse: hint: ask again with gatehouse revocation show 7.1\n")
}

func TestInterruptedAtThePrompt(t *testing.T) {
	c := newCaller(t)
	never, w := io.Pipe()
	defer w.Close()
	got := c.interrupt("Type acme to go on: ", never, "revoke", "--tenant=acme", "--reason=x")
	if got.code != exitInterrupted || !strings.HasSuffix(got.stderr, "Type acme to go on: \ngatehouse: error: interrupted\n") {
		t.Errorf("%+v", got)
	}
	if sent := requestsOf[*pb.RevokeRequest](c.authority); slices.ContainsFunc(sent, func(r *pb.RevokeRequest) bool { return !r.GetDryRun() }) {
		t.Error("revoked without a confirmation")
	}
}
