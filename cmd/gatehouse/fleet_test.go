package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(testNow.Add(-d)) }

func TestSessionList(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(1)
	c.authority.sessions = []*pb.Session{{
		SessionId: testSession, TokenId: id.String(), Tenant: "default", Subject: "u42", Audience: "chat", Node: "node-1",
		InstanceId: instance(1), ClientIp: "2001:db8::7", UserAgent: []byte("\xffodd\x00"), Origin: []byte("https://app.example.com"),
		StartedAt: ago(3 * time.Hour), ExpiresAt: timestamppb.New(testNow.Add(9 * time.Hour)), Issuer: "login",
	}}
	c.check(c.run("", "session", "list"), exitOK,
		"SESSION                           TENANT   SUBJECT  AUDIENCE  NODE    CLIENT IP    STARTED  EXPIRES  TOKEN\n"+
			testSession+"  default  u42      chat      node-1  2001:db8::7  3 h ago  in 9 h   "+id.String()+"\n", "")
	c.check(c.run("", "session", "list", "-ojson"), exitOK,
		`{"sessions": [
{"session_id": "`+testSession+`", "token_id": "`+id.String()+`", "tenant": "default", "subject": "u42", "audience": "chat", "node": "node-1", "instance_id": "`+instance(1)+
			`", "client_ip": "2001:db8::7", "user_agent": "\ufffdodd\u0000", "origin": "https://app.example.com", "started_at": "2026-11-23T09:00:00Z", "expires_at": "2026-11-23T21:00:00Z", "issuer": "login", "client_certificate_sha256": ""}
], "more": false}
`, "")
	c.run("", "session", "list", "--tenant=t", "--subject=s", "--ip-prefix=::/64", "--node=n", "--token="+id.String(), "--issuer=i", "--limit=5")
	sent := requestsOf[*pb.ListSessionsRequest](c.authority)
	want := &pb.ListSessionsRequest{PageSize: 5, Tenant: "t", Subject: "s", IpPrefix: "::/64", Node: "n", TokenId: id.String(), Issuer: "i"}
	if got := sent[len(sent)-1]; !proto.Equal(got, want) {
		t.Errorf("sent %v", got)
	}
}

func TestSessionClose(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "session", "close", testSession, "--reason", "asked"), exitOK, "session closed: 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
	if sent := requestsOf[*pb.RevokeRequest](c.authority)[1]; sent.GetSelector().GetSessionId() != testSession || sent.GetReason() != "asked" {
		t.Errorf("sent %v", sent)
	}
	before := len(requestsOf[*pb.RevokeRequest](c.authority))
	c.authority.unknown[testSession] = true
	c.check(c.run("", "session", "close", testSession), exitNotFound, "",
		"gatehouse: error: nothing was live: session "+testSession+" has ended, or never was\n"+
			"gatehouse: hint: gatehouse session list shows the live sessions; gatehouse revoke --session revokes it all the same\n")
	if sent := requestsOf[*pb.RevokeRequest](c.authority)[before:]; len(sent) != 1 || !sent[0].GetDryRun() {
		t.Errorf("sent %v", sent)
	}
	c.check(c.run("", "session", "close", "u42"), exitUsage, "",
		"gatehouse: error: \"u42\" is not a session id: want 32 hexadecimal digits\ngatehouse: hint: gatehouse session list shows ids\n")
}

func TestNodeList(t *testing.T) {
	c := newCaller(t)
	c.authority.nodes = []*pb.Node{
		{Name: "node-1", InstanceId: instance(1), Attached: true, LastHeartbeatAt: ago(300 * time.Millisecond), Applied: &pb.Revision{Epoch: 7, Sequence: 42}, Sessions: 3, Version: "0.1.0", Address: "10.0.0.1", State: pb.NodeState_NODE_STATE_ATTACHED, Behind: 1},
		{Name: "node-2", InstanceId: instance(2), LastHeartbeatAt: timestamppb.New(time.Time{}), State: pb.NodeState_NODE_STATE_SILENT, Behind: 43},
		{Name: "node-3", InstanceId: instance(3), Attached: true, State: pb.NodeState_NODE_STATE_SILENT},
		{Name: "node-4", InstanceId: instance(4), Attached: true, State: pb.NodeState_NODE_STATE_BEHIND, Behind: 41234},
		{Name: "node-5", InstanceId: instance(5), State: pb.NodeState_NODE_STATE_DETACHED},
		{Name: "node-6", InstanceId: instance(6), Attached: true}, // as an older authority tells
		{Name: "node-7", InstanceId: instance(7)},
	}
	c.check(c.run("", "node", "list"), exitOK, `NODE    INSTANCE                          STATE         SESSIONS  APPLIED  HEARTBEAT   VERSION  ADDRESS
node-1  `+instance(1)+`  attached      3         7.42     300 ms ago  0.1.0    10.0.0.1
node-2  `+instance(2)+`  silent        0         -        -           -        -
node-3  `+instance(3)+`  silent        0         -        -           -        -
node-4  `+instance(4)+`  behind 41234  0         -        -           -        -
node-5  `+instance(5)+`  detached      0         -        -           -        -
node-6  `+instance(6)+`  attached      0         -        -           -        -
node-7  `+instance(7)+`  detached      0         -        -           -        -
`, "")
	if out := c.run("", "node", "list", "-ojson").stdout; !strings.Contains(out, `"state": "behind", "behind": 41234`) {
		t.Errorf("as JSON: %s", out)
	}
	c.authority.nodes = nil
	c.check(c.run("", "node", "list"), exitOK, "", "gatehouse: no nodes\n")
}

func TestNodeDisable(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "node", "disable", "node-7", "--reason=stolen"), exitOK, "disabled: node node-7\n",
		"gatehouse: if it was stolen, so were the edge keys: gatehouse key rotate --now makes them useless\n")
	sent := requestsOf[*pb.DisableCredentialRequest](c.authority)
	if want := (&pb.DisableCredentialRequest{Name: "node-7", Reason: "stolen", Role: pb.Role_ROLE_NODE}); len(sent) != 1 || !proto.Equal(sent[0], want) {
		t.Errorf("sent %v", sent)
	}
	c.check(c.run("", "node", "disable", "node-7"), exitUsage, "", "gatehouse: error: --reason is required\ngatehouse: hint: gatehouse node disable --help has examples\n")
}

func TestNodeForget(t *testing.T) {
	c := newCaller(t)
	lost := func() {
		c.authority.nodes = []*pb.Node{
			{Name: "node-1", InstanceId: instance(1), Attached: true},
			{Name: "node-2", InstanceId: instance(2), Address: "10.0.0.2", LastHeartbeatAt: ago(time.Hour), State: pb.NodeState_NODE_STATE_SILENT},
		}
	}
	forgotten := func() bool { return len(c.authority.nodes) == 1 }
	lost()
	c.check(c.run("", "node", "forget", instance(2)), exitUsage, "", "gatehouse: error: --reason is required\ngatehouse: hint: gatehouse node forget --help has examples\n")
	c.check(c.run("", "node", "forget", "node-2", "--reason=burnt", "--yes"), exitUsage, "",
		"gatehouse: error: \"node-2\" is not an instance's id: want 32 hexadecimal digits\ngatehouse: hint: gatehouse node list shows ids\n")
	c.check(c.run("", "node", "forget", instance(2), "--reason=burnt"), exitUsage, "",
		"gatehouse: error: if the node lives, receipts will say that it has no sockets though it has, and there is no terminal to ask at\ngatehouse: hint: add --yes\n")
	c.check(c.run("", "node", "forget", instance(2), "--reason=burnt", "--dry-run"), exitOK, "would be forgotten: node-2 "+instance(2)+"\n", "")
	c.check(c.run("", "node", "forget", instance(1), "--reason=burnt", "--yes"), exitFailure, "",
		"gatehouse: error: instance of node-1 is attached\ngatehouse: hint: gatehouse node list tells who is attached; one that is silent is released in its time\n")
	c.check(c.run("", "node", "forget", instance(3), "--reason=burnt", "--yes"), exitNotFound, "", "gatehouse: error: no node instance is registered under this id\n")
	if forgotten() {
		t.Fatal("it is forgotten though nobody has said so")
	}
	c.check(c.run("", "node", "forget", instance(2), "--reason=burnt", "--yes"), exitOK, "forgotten: node-2 "+instance(2)+"\n", "")
	if !forgotten() {
		t.Error("it is not forgotten")
	}

	lost()
	c.terminal = true
	asked := "gatehouse: instance " + instance(2) + " of node-2 at 10.0.0.2, last heard of 60 min ago: receipts will take your word that it has no sockets.\nType node-2 to go on: "
	c.check(c.run("node-1\n", "node", "forget", instance(2), "--reason=burnt"), exitFailure, "", asked+"gatehouse: error: not confirmed: nothing was changed\n")
	if forgotten() {
		t.Fatal("it is forgotten though its name was not confirmed")
	}
	c.check(c.run("node-2\n", "node", "forget", instance(2), "--reason=burnt", "-ojson"), exitOK,
		`{
  "node": {
    "name": "node-2",
    "instance_id": "`+instance(2)+`",
    "attached": false,
    "registered_at": null,
    "last_heartbeat_at": "2026-11-23T11:00:00Z",
    "applied": null,
    "sessions": 0,
    "version": "",
    "address": "10.0.0.2",
    "state": "silent",
    "behind": 0
  }
}
`, asked)
	if !forgotten() {
		t.Error("it is not forgotten")
	}
}

func TestRevocations(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(1)
	for i, sel := range []*pb.Selector{
		{By: &pb.Selector_TokenId{TokenId: id.String()}}, {By: &pb.Selector_SessionId{SessionId: testSession}},
		{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "u42"}}}, {By: &pb.Selector_Tenant{Tenant: "acme"}},
		{By: &pb.Selector_IpPrefix{IpPrefix: "10.0.0.0/8"}}, {By: &pb.Selector_Issuer{Issuer: "login"}},
		{By: &pb.Selector_AllSubjects{AllSubjects: true}},
	} {
		c.authority.revocations = append(c.authority.revocations, &pb.Revocation{
			Revision: &pb.Revision{Epoch: 7, Sequence: uint64(i + 1)}, Selector: sel, Reason: "why", Actor: "alice", CommittedAt: ago(time.Minute),
		})
	}
	c.authority.revocations[2].GraceUntil = timestamppb.New(testNow.Add(30 * time.Second))
	c.check(c.run("", "revocation", "list"), exitOK, `REVISION  COMMITTED  GRACE ENDS  HITS                                      BY     REASON
7.1       60 s ago   -           token `+id.String()+`          alice  why
7.2       60 s ago   -           session `+testSession+`  alice  why
7.3       60 s ago   in 30 s     subject u42 of tenant acme                alice  why
7.4       60 s ago   -           tenant acme                               alice  why
7.5       60 s ago   -           ip prefix 10.0.0.0/8                      alice  why
7.6       60 s ago   -           issuer login                              alice  why
7.7       60 s ago   -           all subjects                              alice  why
`, "")
	got := c.run("", "revocation", "list", "-ojson", "--limit=3")
	if want := `{"revision": "7.3", "selector": {"subject": {"tenant": "acme", "subject": "u42"}}, "reason": "why", "actor": "alice", "committed_at": "2026-11-23T11:59:00Z", "grace_until": "2026-11-23T12:00:30Z"}
], "more": true}
`; got.code != exitOK || got.stdout[len(got.stdout)-len(want):] != want {
		t.Errorf("%+v", got)
	}
}

func TestRevocationShow(t *testing.T) {
	c := newCaller(t)
	for _, rev := range []string{"7.42", "42"} {
		c.check(c.run("", "revocation", "show", rev), exitOK,
			"revision 7.42, committed 2026-11-23 13:00:00 CET (now): 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
	}
	if sent := requestsOf[*pb.GetReceiptRequest](c.authority); sent[1].GetRevision().GetEpoch() != 0 {
		t.Errorf("asked for %v, want no epoch", sent[1])
	}
	for _, bad := range []string{"x", "7.", ".42", "7.42.1", "7.-1", "7.18446744073709551616"} {
		c.check(c.run("", "revocation", "show", bad), exitUsage, "",
			"gatehouse: error: \""+bad+"\" is not a revision: want EPOCH.SEQUENCE as a revocation printed it, or SEQUENCE alone\ngatehouse: hint: gatehouse revocation list shows revisions\n")
	}
	if got := c.run("", "revocation", "show", "18446744073709551615.1"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	c.authority.receipt = func(rev *pb.Revision, asked int) *pb.Receipt { return testReceipt(rev, asked > 2) }
	silent := "gatehouse: error: not confirmed by 1 of 2 nodes: node-2 (instance " + instance(2) + ", by 2026-11-23 14:00:00 CET (in 60 min))\n" +
		"gatehouse: hint: ask again with gatehouse revocation show 7.50\n"
	c.check(c.run("", "revocation", "show", "50"), exitUnconfirmed,
		"revision 7.50, committed 2026-11-23 13:00:00 CET (now): 2 sockets closed on 1 of 2 nodes in 12 ms\n"+silentRows, silent)
	c.check(c.run("", "revocation", "show", "50", "--wait"), exitOK,
		"revision 7.50, committed 2026-11-23 13:00:00 CET (now): 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
}

func TestLocks(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "lock", "--subject=u42", "--tenant=acme", "--reason=fraud"), exitOK,
		"locked (lock "+testLock+"): 12 tokens, 3 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows, "")
	c.check(c.run("", "lock", "--ip-prefix=10.0.0.0/8", "--reason=fraud", "--yes", "--no-wait", "-ojson"), exitOK,
		"{\n  \"lock_id\": \""+testLock+"\",\n  \"revision\": \"7.42\",\n  \"tokens\": 12,\n  \"sessions\": 3,\n  \"receipt\": null\n}\n", "")
	c.check(c.run("", "lock", "--issuer=login", "--reason=fraud", "--dry-run"), exitOK, "would lock: 12 tokens and 3 live sockets\n", "")
	c.check(c.run("", "lock", "--tenant=acme", "--reason=fraud"), exitUsage, "",
		"gatehouse: error: --tenant may hit many users and nobody is there to ask: --yes is required without a terminal\ngatehouse: hint: --dry-run shows what would be hit\n")
	c.check(c.run("", "lock", "--subject=u42"), exitUsage, "", "gatehouse: error: --reason is required\ngatehouse: hint: whoever lifts the lock will want to know\n")
	c.check(c.run("", "lock", "--reason=x"), exitUsage, "",
		"gatehouse: error: say what to hit with exactly one of --subject, --tenant, --ip-prefix, --issuer\ngatehouse: hint: gatehouse lock --help has examples\n")
	want := []*pb.LockRequest{
		{Selector: &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "u42"}}}, Reason: "fraud"},
		{Selector: &pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: "10.0.0.0/8"}}, Reason: "fraud"},
		{Selector: &pb.LockSelector{By: &pb.LockSelector_Issuer{Issuer: "login"}}, Reason: "fraud", DryRun: true},
	}
	sent := slices.DeleteFunc(requestsOf[*pb.LockRequest](c.authority), func(r *pb.LockRequest) bool {
		return r.GetDryRun() && r.GetSelector().GetIssuer() == "" // a count
	})
	if len(sent) != len(want) {
		t.Fatalf("sent %v", sent)
	}
	for i, r := range sent {
		if (r.GetRequestId() == "") != r.GetDryRun() {
			t.Errorf("request id %q", r.GetRequestId())
		}
		if r.RequestId = ""; !proto.Equal(r, want[i]) {
			t.Errorf("sent %v\nwant %v", r, want[i])
		}
	}

	c.check(c.run("", "unlock", testLock, "--reason=cleared"), exitOK, "unlocked: "+testLock+"\n", "")
	c.check(c.run("", "unlock", testLock, "--reason=cleared", "-ojson"), exitOK, "{\n  \"revision\": \"7.43\"\n}\n", "")
	c.check(c.run("", "unlock", testSession, "--reason=cleared"), exitNotFound, "", "gatehouse: error: no lock has the id "+testSession+"\n")
	c.check(c.run("", "unlock", "u42", "--reason=cleared"), exitUsage, "",
		"gatehouse: error: \"u42\" is not a lock id: want 32 hexadecimal digits\ngatehouse: hint: gatehouse locks lists ids\n")
	c.check(c.run("", "unlock", testLock), exitUsage, "", "gatehouse: error: --reason is required\ngatehouse: hint: gatehouse unlock --help has examples\n")

	for _, sel := range []*pb.LockSelector{
		{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "u42"}}}, {By: &pb.LockSelector_Tenant{Tenant: "acme"}},
		{By: &pb.LockSelector_IpPrefix{IpPrefix: "10.0.0.0/8"}}, {By: &pb.LockSelector_Issuer{Issuer: "login"}},
	} {
		c.authority.locks = append(c.authority.locks, &pb.Lock{LockId: testLock, Selector: sel, Reason: "fraud", Actor: "alice", CommittedAt: ago(72 * time.Hour)})
	}
	c.check(c.run("", "locks"), exitOK, `LOCK                              DENIES                      SINCE       BY     REASON
`+testLock+`  subject u42 of tenant acme  3 days ago  alice  fraud
`+testLock+`  tenant acme                 3 days ago  alice  fraud
`+testLock+`  ip prefix 10.0.0.0/8        3 days ago  alice  fraud
`+testLock+`  issuer login                3 days ago  alice  fraud
`, "")
}

// Lists that need more than one page are told whole.
func TestNodesAndCredentialsOfManyPages(t *testing.T) {
	c := newCaller(t)
	for n := range 3*pageSize + 1 {
		c.authority.nodes = append(c.authority.nodes, &pb.Node{Name: fmt.Sprintf("node-%04d", n), InstanceId: instance(1)})
		c.authority.creds = append(c.authority.creds, &pb.Credential{Name: fmt.Sprintf("cred-%04d", n), Role: pb.Role_ROLE_NODE})
	}
	for verb, name := range map[string]string{"node": "node-", "credential": "cred-"} {
		got := c.run("", verb, "list", "-ojson")
		if n := strings.Count(got.stdout, `"name": "`+name); got.code != exitOK || n != 3*pageSize+1 || !strings.HasSuffix(got.stdout, "\n], \"more\": false}\n") {
			t.Errorf("%s list: exit code %d, %d of %d names", verb, got.code, n, 3*pageSize+1)
		}
	}
}
