package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// fakeAuthority answers as an authority does, from what a test put into it.
type fakeAuthority struct {
	pb.UnimplementedTokenServiceServer
	pb.UnimplementedRevocationServiceServer
	pb.UnimplementedSessionServiceServer
	pb.UnimplementedCredentialServiceServer
	pb.UnimplementedAuditServiceServer
	pb.UnimplementedMaintenanceServiceServer

	ca   *fakeCA
	addr string

	// Set by tests before calls. errs has what a method fails with, and fails how
	// many times yet; without an entry there it fails always.
	tokens      []*pb.Token
	sessions    []*pb.Session
	nodes       []*pb.Node
	locks       []*pb.Lock
	creds       []*pb.Credential
	revocations []*pb.Revocation
	errs        map[string]error
	receipt     func(rev *pb.Revision, asked int) *pb.Receipt // nil: complete, two nodes
	hang        bool                                          // receipts are watched without an end
	unknown     map[string]bool                               // ids and subjects that nothing has
	caPEM       string                                        // of renewals; its CA's where empty
	pageTokens  bool                                          // every second page is empty

	mu       sync.Mutex
	requests []proto.Message
	shown    *x509.Certificate // at the last call; nil with an API key
	fails    map[string]int
	sequence uint64
	asked    map[uint64]int // receipts, by sequence
}

const testEpoch = 7

// testNow is the time of all tests: 13:00 in the zone that they run in.
var (
	testNow  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	testZone = time.FixedZone("CET", 3600)
)

// startAuthority serves a fake on loopback until the test ends. Its callers
// need a certificate of its CA, or the API key testAPIKey.
func startAuthority(t testing.TB) *fakeAuthority {
	t.Helper()
	f := &fakeAuthority{ca: testCA(), errs: map[string]error{}, unknown: map[string]bool{}, fails: map[string]int{}, asked: map[uint64]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(f.ca.cert)
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
			Certificates: []tls.Certificate{f.ca.server},
		})),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := f.admit(ctx, info.FullMethod, req.(proto.Message)); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := f.admit(stream.Context(), info.FullMethod, nil); err != nil {
				return err
			}
			return handler(srv, stream)
		}),
	)
	pb.RegisterTokenServiceServer(srv, f)
	pb.RegisterRevocationServiceServer(srv, f)
	pb.RegisterSessionServiceServer(srv, f)
	pb.RegisterCredentialServiceServer(srv, f)
	pb.RegisterAuditServiceServer(srv, f)
	pb.RegisterMaintenanceServiceServer(srv, f)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go func() { _ = srv.Serve(l) }() // ends by Stop
	t.Cleanup(srv.Stop)
	return f
}

const testAPIKey = "ghk1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// admit authenticates, notes the request, and fails where the test wants it.
func (f *fakeAuthority) admit(ctx context.Context, method string, req proto.Message) error {
	p, _ := peer.FromContext(ctx)
	info := p.AuthInfo.(credentials.TLSInfo)
	if len(info.State.VerifiedChains) == 0 && !slices.Equal(metadata.ValueFromIncomingContext(ctx, "authorization"), []string{"Bearer " + testAPIKey}) {
		return withReason(codes.Unauthenticated, pb.Reason_REASON_UNAUTHENTICATED, "no credential: call with a client certificate or an API key")
	}
	name := method[strings.LastIndex(method, "/")+1:]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shown = nil
	if chain := info.State.PeerCertificates; len(chain) > 0 {
		f.shown = chain[0]
	}
	if req != nil {
		f.requests = append(f.requests, proto.Clone(req))
	}
	if left, limited := f.fails[name]; limited {
		if f.fails[name] = left - 1; left <= 0 {
			return nil
		}
	}
	return f.errs[name]
}

// requestsOf are the requests of a type that were made, in order.
func requestsOf[M proto.Message](f *fakeAuthority) []M {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []M
	for _, r := range f.requests {
		if m, ok := r.(M); ok {
			out = append(out, m)
		}
	}
	return out
}

// lastShown is the certificate that the last call was made with.
func (f *fakeAuthority) lastShown() *x509.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shown
}

// withReason is an error as the authority sends it.
func withReason(code codes.Code, reason pb.Reason, text string) error {
	s, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: reason.Label(), Domain: pb.Domain})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

// testToken is the n-th token: its id and text are always the same.
func testToken(n int) (id token.ID, text string) {
	ring := token.NewRing([]token.EdgeKey{{ID: 1}})
	seed := make([]byte, 42)
	for i := range seed {
		seed[i] = byte(n*31 + i*7 + n>>8)
	}
	t, err := ring.Mint(1, testNow.Add(time.Minute), strings.NewReader(string(seed)))
	if err != nil {
		panic(err)
	}
	return t.ID, string(t.AppendText(nil))
}

func (f *fakeAuthority) IssueToken(_ context.Context, req *pb.IssueTokenRequest) (*pb.IssueTokenResponse, error) {
	return f.issue(req), nil
}

func (f *fakeAuthority) issue(req *pb.IssueTokenRequest) *pb.IssueTokenResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sequence++
	id, text := testToken(int(f.sequence))
	expires := testNow.Add(time.Minute)
	if req.GetTtl() != nil {
		expires = testNow.Add(req.GetTtl().AsDuration())
	}
	return &pb.IssueTokenResponse{
		Token: text, TokenId: id.String(), ExpiresAt: timestamppb.New(expires),
		IssuedRevision: &pb.Revision{Epoch: testEpoch, Sequence: 1},
	}
}

// IssueTokens refuses subjects called refused-after-N once N tokens are issued.
func (f *fakeAuthority) IssueTokens(_ context.Context, req *pb.IssueTokensRequest) (*pb.IssueTokensResponse, error) {
	resp := &pb.IssueTokensResponse{}
	for _, r := range req.GetRequests() {
		if r.GetSubject() == "unanswered" {
			break
		}
		if after, ok := strings.CutPrefix(r.GetSubject(), "refused-after-"); ok {
			if n, _ := strconv.Atoi(after); f.issued() >= n {
				resp.Results = append(resp.Results, &pb.IssueTokensResult{Outcome: &pb.IssueTokensResult_Error{Error: &pb.ItemError{
					Code: int32(codes.ResourceExhausted), Reason: pb.Reason_REASON_QUOTA_EXCEEDED, Message: "credential alice may issue 300 tokens a second",
				}}})
				continue
			}
		}
		resp.Results = append(resp.Results, &pb.IssueTokensResult{Outcome: &pb.IssueTokensResult_Token{Token: f.issue(r)}})
	}
	return resp, nil
}

func (f *fakeAuthority) issued() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.sequence)
}

func (f *fakeAuthority) IntrospectToken(_ context.Context, req *pb.IntrospectTokenRequest) (*pb.IntrospectTokenResponse, error) {
	var t token.Token
	if token.Parse([]byte(req.GetToken()), &t) == nil {
		for _, k := range f.tokens {
			if k.GetTokenId() == t.ID.String() && k.GetState() == pb.TokenState_TOKEN_STATE_ACTIVE {
				return &pb.IntrospectTokenResponse{Active: true, Token: k}, nil
			}
		}
	}
	return &pb.IntrospectTokenResponse{}, nil
}

func (f *fakeAuthority) GetToken(_ context.Context, req *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	for _, t := range f.tokens {
		if t.GetTokenId() == req.GetTokenId() {
			return &pb.GetTokenResponse{Token: t}, nil
		}
	}
	return nil, withReason(codes.NotFound, pb.Reason_REASON_NOT_FOUND, "no token has the id "+req.GetTokenId()+", or it expired and was forgotten")
}

// page cuts one page out of all, whose page tokens are offsets.
func page[M any](f *fakeAuthority, all []M, size int32, from string) ([]M, string) {
	at, _ := strconv.Atoi(from)
	if f.pageTokens && !strings.HasPrefix(from, "0") {
		return nil, "0" + from
	}
	end := min(at+int(size), len(all))
	if end == len(all) {
		return all[at:], ""
	}
	return all[at:end], strconv.Itoa(end)
}

func (f *fakeAuthority) ListTokens(_ context.Context, req *pb.ListTokensRequest) (*pb.ListTokensResponse, error) {
	var hit []*pb.Token
	for _, t := range f.tokens {
		if (req.GetSubject() == "" || req.GetSubject() == t.GetSubject()) && (req.GetState() == 0 || req.GetState() == t.GetState()) {
			hit = append(hit, t)
		}
	}
	tokens, next := page(f, hit, req.GetPageSize(), req.GetPageToken())
	return &pb.ListTokensResponse{Tokens: tokens, NextPageToken: next}, nil
}

func (f *fakeAuthority) ListSessions(_ context.Context, req *pb.ListSessionsRequest) (*pb.ListSessionsResponse, error) {
	sessions, next := page(f, f.sessions, req.GetPageSize(), req.GetPageToken())
	return &pb.ListSessionsResponse{Sessions: sessions, NextPageToken: next}, nil
}

func (f *fakeAuthority) ListNodes(_ context.Context, req *pb.ListNodesRequest) (*pb.ListNodesResponse, error) {
	nodes, next := page(f, f.nodes, req.GetPageSize(), req.GetPageToken())
	return &pb.ListNodesResponse{Nodes: nodes, NextPageToken: next}, nil
}

func (f *fakeAuthority) ForgetNode(_ context.Context, req *pb.ForgetNodeRequest) (*pb.ForgetNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(f.nodes, func(n *pb.Node) bool { return n.GetInstanceId() == req.GetInstanceId() })
	if at < 0 {
		return nil, withReason(codes.NotFound, pb.Reason_REASON_NOT_FOUND, "no node instance is registered under this id")
	}
	n := f.nodes[at]
	if n.GetAttached() {
		return nil, withReason(codes.FailedPrecondition, pb.Reason_REASON_INSTANCE_ALIVE, "instance of "+n.GetName()+" is attached")
	}
	if !req.GetDryRun() {
		f.nodes = slices.Delete(f.nodes, at, at+1)
	}
	return &pb.ForgetNodeResponse{Node: n}, nil
}

func (f *fakeAuthority) ListRevocations(_ context.Context, req *pb.ListRevocationsRequest) (*pb.ListRevocationsResponse, error) {
	all, next := page(f, f.revocations, req.GetPageSize(), req.GetPageToken())
	return &pb.ListRevocationsResponse{Revocations: all, NextPageToken: next}, nil
}

func (f *fakeAuthority) ListLocks(_ context.Context, req *pb.ListLocksRequest) (*pb.ListLocksResponse, error) {
	all, next := page(f, f.locks, req.GetPageSize(), req.GetPageToken())
	return &pb.ListLocksResponse{Locks: all, NextPageToken: next}, nil
}

func (f *fakeAuthority) Revoke(_ context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &pb.RevokeResponse{}
	switch {
	case req.GetDryRun():
		resp.Tokens, resp.Sessions = f.hit(req.GetSelector())
		return resp, nil
	case req.GetSelector().GetTokenId() != "" && !f.unknown[req.GetSelector().GetTokenId()]:
		resp.Tokens = 1
	case req.GetSelector().GetSessionId() != "" && !f.unknown[req.GetSelector().GetSessionId()]:
		resp.Sessions = 1
	}
	f.sequence++
	resp.Revision, resp.CommittedAt = &pb.Revision{Epoch: testEpoch, Sequence: f.sequence}, timestamppb.New(testNow)
	if g := req.GetGrace(); g != nil {
		resp.GraceUntil = timestamppb.New(testNow.Add(g.AsDuration()))
	}
	return resp, nil
}

// hit counts what a selector hits: nothing where it is of the unknown.
func (f *fakeAuthority) hit(sel *pb.Selector) (tokens, sessions uint64) {
	switch {
	case f.unknown[sel.GetTokenId()], f.unknown[sel.GetSessionId()], f.unknown[sel.GetSubject().GetSubject()]:
		return 0, 0
	case sel.GetTokenId() != "":
		return 1, 3
	case sel.GetSessionId() != "":
		return 0, 1
	}
	return 12, 3
}

func (f *fakeAuthority) Lock(_ context.Context, req *pb.LockRequest) (*pb.LockResponse, error) {
	if req.GetDryRun() {
		return &pb.LockResponse{Tokens: 12, Sessions: 3}, nil
	}
	return &pb.LockResponse{LockId: testLock, Revision: &pb.Revision{Epoch: testEpoch, Sequence: 42}}, nil
}

const (
	testLock    = "3f9a6c0d2b7e4815a1c45d90f2b86e37"
	testSession = "9b2f61d04c7a4e8fb3d5a06c1e97f248"
)

func (f *fakeAuthority) Unlock(_ context.Context, req *pb.UnlockRequest) (*pb.UnlockResponse, error) {
	if req.GetLockId() != testLock {
		return nil, withReason(codes.NotFound, pb.Reason_REASON_NOT_FOUND, "no lock has the id "+req.GetLockId())
	}
	return &pb.UnlockResponse{Revision: &pb.Revision{Epoch: testEpoch, Sequence: 43}}, nil
}

func (f *fakeAuthority) receiptOf(rev *pb.Revision) *pb.Receipt {
	rev = &pb.Revision{Epoch: cmp.Or(rev.GetEpoch(), testEpoch), Sequence: rev.GetSequence()}
	f.mu.Lock()
	asked := f.asked[rev.GetSequence()]
	f.asked[rev.GetSequence()]++
	receipt := f.receipt
	f.mu.Unlock()
	if receipt != nil {
		return receipt(rev, asked)
	}
	return testReceipt(rev, true)
}

// silence makes node-2 never enforce anything, and receipts be watched without
// an end.
func (f *fakeAuthority) silence() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.receipt, f.hang = func(rev *pb.Revision, _ int) *pb.Receipt { return testReceipt(rev, false) }, true
}

func (f *fakeAuthority) hangs() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hang
}

func (f *fakeAuthority) GetReceipt(_ context.Context, req *pb.GetReceiptRequest) (*pb.GetReceiptResponse, error) {
	return &pb.GetReceiptResponse{Receipt: f.receiptOf(req.GetRevision())}, nil
}

// WatchReceipt sends receipt after receipt until one is complete.
func (f *fakeAuthority) WatchReceipt(req *pb.WatchReceiptRequest, stream pb.RevocationService_WatchReceiptServer) error {
	for {
		r := f.receiptOf(req.GetRevision())
		if err := stream.Send(&pb.WatchReceiptResponse{Receipt: r}); err != nil || r.GetComplete() {
			return err
		}
		if f.hangs() {
			<-stream.Context().Done()
			return stream.Context().Err()
		}
	}
}

func (f *fakeAuthority) ListCredentials(_ context.Context, req *pb.ListCredentialsRequest) (*pb.ListCredentialsResponse, error) {
	creds, next := page(f, f.creds, req.GetPageSize(), req.GetPageToken())
	return &pb.ListCredentialsResponse{Credentials: creds, NextPageToken: next}, nil
}

func (f *fakeAuthority) CreateCredential(_ context.Context, req *pb.CreateCredentialRequest) (*pb.CreateCredentialResponse, error) {
	cred := proto.Clone(req.GetCredential()).(*pb.Credential)
	cred.CreatedAt, cred.Generation, cred.ApiKey = timestamppb.New(testNow), 1, len(req.GetCertificateRequest()) == 0
	issued, err := f.equip(req.GetCertificateRequest())
	return &pb.CreateCredentialResponse{Credential: cred, Issued: issued}, err
}

func (f *fakeAuthority) ReissueCredential(_ context.Context, req *pb.ReissueCredentialRequest) (*pb.ReissueCredentialResponse, error) {
	cred := &pb.Credential{Name: req.GetName(), Role: pb.Role_ROLE_NODE, CreatedAt: timestamppb.New(testNow), Generation: 2, ApiKey: len(req.GetCertificateRequest()) == 0}
	issued, err := f.equip(req.GetCertificateRequest())
	return &pb.ReissueCredentialResponse{Credential: cred, Issued: issued}, err
}

func (f *fakeAuthority) RenewCertificate(_ context.Context, req *pb.RenewCertificateRequest) (*pb.RenewCertificateResponse, error) {
	issued, err := f.equip(req.GetCertificateRequest())
	if f.caPEM != "" {
		issued.CaPem = f.caPEM
	}
	return &pb.RenewCertificateResponse{Issued: issued}, err
}

func (f *fakeAuthority) ListEdgeKeys(context.Context, *pb.ListEdgeKeysRequest) (*pb.ListEdgeKeysResponse, error) {
	return &pb.ListEdgeKeysResponse{Keys: []*pb.EdgeKeyInfo{
		{KeyId: 7, CreatedAt: ago(26 * time.Hour), ActiveFrom: ago(25 * time.Hour), RetiredAt: timestamppb.New(testNow.Add(time.Hour))},
		{KeyId: 8, CreatedAt: ago(2 * time.Hour), ActiveFrom: ago(time.Hour), RetiredAt: timestamppb.New(testNow.Add(3 * time.Hour)), Active: true},
		{KeyId: 9, CreatedAt: ago(0), ActiveFrom: timestamppb.New(testNow.Add(time.Minute))},
	}}, nil
}

func (f *fakeAuthority) RotateEdgeKeys(_ context.Context, req *pb.RotateEdgeKeysRequest) (*pb.RotateEdgeKeysResponse, error) {
	resp := &pb.RotateEdgeKeysResponse{Key: &pb.EdgeKeyInfo{KeyId: 9, CreatedAt: ago(0), ActiveFrom: timestamppb.New(testNow.Add(time.Minute))}}
	if req.GetDropOthers() {
		resp.Dropped, resp.Key.ActiveFrom, resp.Key.Active = 2, ago(713*time.Millisecond), true
	}
	return resp, nil
}

func (f *fakeAuthority) equip(csr []byte) (*pb.IssuedCredential, error) {
	issued := &pb.IssuedCredential{CaPem: string(f.ca.pem)}
	if len(csr) == 0 {
		issued.ApiKey = testAPIKey
		return issued, nil
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, withReason(codes.InvalidArgument, pb.Reason_REASON_INVALID_REQUEST, "certificate_request: "+err.Error())
	}
	issued.CertificatePem = string(f.ca.sign(req.Subject.CommonName, req.PublicKey))
	issued.ExpiresAt = timestamppb.New(testNow.AddDate(1, 0, 0))
	return issued, nil
}

func (f *fakeAuthority) DisableCredential(_ context.Context, req *pb.DisableCredentialRequest) (*pb.DisableCredentialResponse, error) {
	role := cmp.Or(req.GetRole(), pb.Role_ROLE_ISSUER)
	return &pb.DisableCredentialResponse{Credential: &pb.Credential{Name: req.GetName(), Role: role, Disabled: true}}, nil
}

func (f *fakeAuthority) EnableCredential(_ context.Context, req *pb.EnableCredentialRequest) (*pb.EnableCredentialResponse, error) {
	return &pb.EnableCredentialResponse{Credential: &pb.Credential{Name: req.GetName(), Role: pb.Role_ROLE_ISSUER}}, nil
}

// fakeCA certifies the fake and its callers.
type fakeCA struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pem    []byte
	server tls.Certificate
}

var testCA = sync.OnceValue(newCA)

func newCA() *fakeCA {
	ca := &fakeCA{key: newKey()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: testNow.AddDate(-10, 0, 0), NotAfter: testNow.AddDate(90, 0, 0),
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key))
	ca.cert = must(x509.ParseCertificate(der))
	ca.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key := newKey()
	ca.server = must(tls.X509KeyPair(ca.sign("authority", &key.PublicKey), keyPEM(key)))
	return ca
}

// sign certifies a key for client and server use alike.
func (ca *fakeCA) sign(name string, public any) []byte {
	serial := must(rand.Int(rand.Reader, big.NewInt(1<<60)))
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: testNow.AddDate(-10, 0, 0), NotAfter: testNow.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca.cert, public, ca.key))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// writeCredential writes what name calls with into dir.
func (ca *fakeCA) writeCredential(t testing.TB, dir, name string) {
	t.Helper()
	key := newKey()
	for file, text := range map[string][]byte{"ca.crt": ca.pem, "tls.crt": ca.sign(name, &key.PublicKey), "tls.key": keyPEM(key), "api.key": []byte(testAPIKey + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func keyPEM(key *ecdsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func instance(n int) string { return hex.EncodeToString([]byte(fmt.Sprintf("instance-%07d", n))) }
