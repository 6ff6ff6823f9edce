package authority

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// bait is an authority with an honest node, which has a session and has said
// nothing since, and with a hostile one that knows all ids.
type bait struct {
	*fuzzed
	t       *testing.T
	rest    []byte // of what the fuzzer wrote
	honest  storage.InstanceID
	stream  *attachment // the honest node's
	session storage.SessionID
	token   token.Token // the hostile node's, for 100 uses
	csr     []byte
}

var hostileIDs = [...]storage.InstanceID{{0xa}, {0xb}, {0xc}}

const honestName = "node-2"

func newBait(t *testing.T, ca *pki.CA, csr, script []byte) *bait {
	b := &bait{fuzzed: newFuzzed(t), t: t, rest: script, honest: storage.InstanceID{2}, session: storage.SessionID{2, 2}, csr: csr}
	b.ca = ca
	if err := token.Parse([]byte(b.text), &b.token); err != nil {
		t.Fatal(err)
	}
	hostile := b.caller
	b.caller = &caller{Credential: &storage.Credential{Name: "login", Role: storage.Issuer}}
	issued, err := b.IssueToken(b.context(), &pb.IssueTokenRequest{Subject: "bob", Audience: "chat"})
	if err != nil {
		t.Fatal(err)
	}
	inst := storage.Instance{ID: b.honest, Node: honestName}
	if err := b.store.PutInstance(context.Background(), &inst); err != nil {
		t.Fatal(err)
	}
	b.stream = b.fleet.attach(inst, time.Hour, testStart)
	var theirs token.Token
	if err := token.Parse([]byte(issued.GetToken()), &theirs); err != nil {
		t.Fatal(err)
	}
	b.caller = &caller{Credential: &storage.Credential{Name: honestName, Role: storage.Node}}
	stream := &scripted[pb.RedeemRequest, pb.RedeemResponse]{ctx: b.context(), said: []*pb.RedeemRequest{
		{Hello: &pb.RedeemHello{Hello: hello(), InstanceId: b.honest[:]}}, {Items: []*pb.RedeemItem{b.itemOf(&theirs, b.session)}},
	}}
	if err := b.Redeem(stream); err != nil || stream.sent[1].GetResults()[0].GetGrant() == nil {
		t.Fatalf("the honest node's redemption: %v, %v", stream.sent, err)
	}
	b.revoke()
	b.caller = hostile
	return b
}

func (b *bait) itemOf(t *token.Token, session storage.SessionID) *pb.RedeemItem {
	d := t.Secret.Digest()
	return &pb.RedeemItem{
		TokenId: bytes.Clone(t.ID[:]), Digest: d[:], SessionId: session[:], Audience: "chat",
		Observed: &pb.Observation{Ip: []byte{192, 0, 2, 7}, Origin: []byte("https://app.example.com")},
	}
}

func (b *bait) revoke() {
	if _, err := b.appendEntry(b.context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "elsewhere"}, Actor: "admin"}); err != nil {
		b.t.Fatal(err)
	}
}

// next is a number below n that the fuzzer has drawn; 0 once there is no more.
func (b *bait) next(n int) int {
	if len(b.rest) == 0 {
		return 0
	}
	v := int(b.rest[0]) % n
	b.rest = b.rest[1:]
	return v
}

// raw is a run of bytes that the fuzzer has drawn.
func (b *bait) raw() []byte {
	n := min(b.next(256), len(b.rest))
	out := b.rest[:n]
	b.rest = b.rest[n:]
	return out
}

func (b *bait) instance() []byte {
	switch n := b.next(6); n {
	case 3:
		return b.honest[:]
	case 4:
		return make([]byte, 16)
	case 5:
		return b.raw()
	default:
		return bytes.Clone(hostileIDs[n][:])
	}
}

func (b *bait) sessionID() []byte {
	switch b.next(5) {
	case 0:
		return b.session[:]
	case 1:
		return b.raw()
	}
	id := storage.SessionID{0xe, byte(b.next(8))}
	return id[:]
}

func (b *bait) revision() *pb.Revision {
	head, _ := b.store.Head()
	seq := []uint64{0, 1, head.Sequence - 1, head.Sequence, head.Sequence, head.Sequence + 1, 1 << 63, 1<<64 - 1}[b.next(8)]
	switch b.next(8) {
	case 0:
		return nil
	case 1:
		return &pb.Revision{Epoch: head.Epoch + 1, Sequence: seq}
	}
	return &pb.Revision{Epoch: head.Epoch, Sequence: seq}
}

// says is a message of an Attach stream.
func (b *bait) says(kind int) *pb.AttachRequest {
	switch kind {
	case 0:
		h := &pb.AttachHello{Hello: hello(), InstanceId: b.instance(), Applied: b.revision()}
		for range b.next(4) {
			h.DeadInstanceIds = append(h.DeadInstanceIds, b.instance())
		}
		return &pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: h}}
	case 1:
		return &pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}}
	case 2:
		m := &pb.AttachRequest{}
		_ = proto.Unmarshal(b.raw(), m) // what of it can be read
		return m
	case 3, 4:
		return &pb.AttachRequest{Message: &pb.AttachRequest_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: uint64(b.next(4)), Applied: b.revision(), Sessions: 1<<32 - 1}}}
	}
	ack := &pb.Acknowledgement{Through: b.revision()}
	for range b.next(8) {
		ack.Enforced = append(ack.Enforced, &pb.Enforced{
			Sequence: b.revision().GetSequence(), Closed: uint32(b.next(4)) << 30, Lingering: uint32(b.next(4)) << 30,
		})
	}
	for range b.next(4) {
		ack.Pending = append(ack.Pending, b.revision().GetSequence())
	}
	return &pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{Acknowledgement: ack}}
}

// act does one thing that a hostile node can, or that happens meanwhile.
func (b *bait) act() {
	switch b.next(7) {
	case 0, 1:
		stream := &scripted[pb.AttachRequest, pb.AttachResponse]{ctx: b.context(), said: []*pb.AttachRequest{b.says(0)}}
		for range b.next(8) {
			stream.said = append(stream.said, b.says(b.next(8)))
		}
		b.closedList(b.Attach(stream))
		sendable(b.t, stream.sent)
	case 2:
		stream := &scripted[pb.RedeemRequest, pb.RedeemResponse]{ctx: b.context(), said: []*pb.RedeemRequest{{Hello: &pb.RedeemHello{Hello: hello(), InstanceId: b.instance()}}}}
		for range b.next(4) {
			req := &pb.RedeemRequest{}
			for range b.next(6) {
				req.Items = append(req.Items, b.item())
			}
			stream.said = append(stream.said, req)
		}
		b.closedList(b.Redeem(stream))
		sendable(b.t, stream.sent)
	case 3:
		req := &pb.ReportSessionsRequest{InstanceId: b.instance()}
		for range b.next(8) {
			req.Ended = append(req.Ended, &pb.SessionEnd{SessionId: b.sessionID(), Reason: pb.Reason(b.next(200)), EndedAt: timestamppb.New(testStart)})
		}
		_, err := b.ReportSessions(b.context(), req)
		b.closedList(err)
	case 4:
		csr := bytes.Clone(b.csr)
		if edits := b.raw(); len(edits) > 0 {
			copy(csr[b.next(len(csr)):], edits)
		}
		resp, err := b.RenewCertificate(b.context(), &pb.RenewCertificateRequest{CertificateRequest: csr})
		b.closedList(err)
		if err == nil {
			b.own([]byte(resp.GetIssued().GetCertificatePem()))
		}
	case 5:
		b.revoke()
	case 6:
		if err := b.tend(b.context()); err != nil {
			b.t.Fatal(err)
		}
		if err := b.keepAcknowledged(b.context(), nil); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bait) item() *pb.RedeemItem {
	it := b.itemOf(&b.token, storage.SessionID{})
	it.SessionId = b.sessionID()
	switch b.next(8) {
	case 0:
		it.RenewsSessionId = b.sessionID()
	case 1:
		it.TokenId = b.raw()
	case 2:
		it.Observed.Origin = b.raw()
	case 3:
		_ = proto.Unmarshal(b.raw(), it)
	}
	return it
}

// own fails unless a certificate is the hostile node's own.
func (b *bait) own(chain []byte) {
	block, _ := pem.Decode(chain)
	if block == nil {
		b.t.Fatalf("a chain that is no PEM: %q", chain)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		b.t.Fatal(err)
	}
	if name, _, err := pki.CredentialOf(cert); err != nil || name != b.caller.Name {
		b.t.Fatalf("node %s has a certificate of %s, %v", b.caller.Name, name, err)
	}
}

// closedList fails if an error has no reason of the closed list, or is the
// authority's own.
func (b *bait) closedList(err error) {
	b.check(b.t, err)
	if err != nil && verdictOf(err).reason == pb.Reason_REASON_UNSPECIFIED {
		b.t.Fatalf("an error without a reason: %v", err)
	}
}

func sendable[M proto.Message](t *testing.T, sent []M) {
	for _, m := range sent {
		if _, err := proto.Marshal(m); err != nil {
			t.Fatalf("a response that can't be sent: %v", err)
		}
	}
}

// stands fails unless the honest node has what it had, and every receipt waits for
// it.
func (b *bait) stands() {
	ctx := b.context()
	if b.fleet.attached(b.honest) != b.stream || b.fleet.owner(b.honest) != honestName {
		b.t.Fatal("the honest node's instance is not what it was")
	}
	live, err := b.store.Sessions(ctx, []storage.SessionID{b.session})
	if err != nil || live[0] == nil || live[0].Instance != b.honest {
		b.t.Fatalf("the honest node's session: %+v, %v", live[0], err)
	}
	entries, err := b.store.Entries(ctx, storage.Revision{}, 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range entries {
		rc, _, err := b.receipt(ctx, &entries[i])
		if err != nil || rc.GetComplete() {
			b.t.Fatalf("receipt %v, %v", rc, err)
		}
		for _, row := range rc.GetRows() {
			if row.GetNode() == honestName && (row.GetEnforced() || row.GetClosed() != 0 || row.GetDeparted() != "") {
				b.t.Fatalf("the honest node has not said %v", row)
			}
		}
		counts, err := b.store.Counts(ctx, entries[i].Revision.Sequence)
		if _, ok := counts[b.honest]; ok || err != nil {
			b.t.Fatalf("counts %v, %v", counts, err)
		}
	}
	if known, err := b.store.Acknowledged(ctx); err != nil || known[b.honest].Through != 0 {
		b.t.Fatalf("acknowledged %v, %v", known, err)
	}
	if n := b.store.Stats().Sessions; n > 1+100 {
		b.t.Fatalf("%d sessions of two tokens for 1 and 100", n)
	}
	if n := len(b.fleet.snapshot()); n > 1+len(hostileIDs)+256 {
		b.t.Fatalf("%d instances", n)
	}
	r := b.receipts
	if r.unkeptCounts() > len(r.waiting)*maxUnkept || len(r.waiting) > 1 || len(r.early) > maxEarly || len(b.enforcements.told) > maxEnforcements {
		b.t.Fatalf("%v counts wait, %d are early, %d are told of", r.waiting, len(r.early), len(b.enforcements.told))
	}
}

// FuzzHostileNode lets a hostile node say anything on any of its streams, in any
// order, between revocations: whatever it says, it speaks for itself alone.
func FuzzHostileNode(f *testing.F) {
	ca, err := pki.Create(filepath.Join(f.TempDir(), "ca"), func() time.Time { return testStart }, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	_, csr, err := pki.NewRequest(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, script := range []string{
		"",
		"\x00\x00\x04\x02\x00\x07\x05\x04\x02\x01\x04\x02\x01\x01\x05",         // attaches, acknowledges, counts
		"\x00\x03\x04\x02\x01\x03\x00\x03\x03\x00\x00\x02\x03\x03\x02\x02",     // as the honest node
		"\x00\x00\x04\x02\x03\x03\x03\x03\x01\x01\x03\x00\x04\x00\x07\x00\x07", // declares it dead, reports its session, leaves
		"\x00\x00\x00\x00\x00\x02\x00\x03\x05\x02\x01\x02\x03\x00\x04\x05\x06\x00\x04\x02\x05\x06",
		"\x04\x00\x04\x10\x01\x02\x03\x04\x05\x06\x06\x05\x00\x01\x04\x02\x00\x05\x05\x05\x02\x02\x03\x03\x01\x01",
	} {
		f.Add([]byte(script))
		f.Add([]byte(strings.Repeat(script, 4)))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		b := newBait(t, ca, csr, script)
		for range 64 {
			if len(b.rest) == 0 {
				break
			}
			b.act()
		}
		b.stands()
	})
}

// TestHostileScripts runs what FuzzHostileNode would, on drawn scripts.
func TestHostileScripts(t *testing.T) {
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), func() time.Time { return testStart }, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, csr, err := pki.NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(200) {
		script := make([]byte, 300)
		_, _ = mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(script) // it does not fail
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			b := newBait(t, ca, csr, script)
			for range 64 {
				b.act()
			}
			b.stands()
		})
	}
}
