package authority_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestRotateEdgeKeys proves that an admin makes a new edge key ahead of time,
// or at once, and that with the others their tokens are gone.
func TestRotateEdgeKeys(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	api := f.credentials("admin")
	_, err := api.RotateEdgeKeys(f.ctx, &pb.RotateEdgeKeysRequest{})
	f.fails(err, "InvalidArgument invalid_request: reason: required, 1 to 512 bytes (invalid request)")

	resp, err := api.RotateEdgeKeys(f.ctx, &pb.RotateEdgeKeysRequest{Reason: "yearly"})
	f.ok(err)
	f.equal("new key", []any{resp.GetKey().GetKeyId(), resp.GetKey().GetActive(), resp.GetKey().GetActiveFrom().AsTime(), resp.GetDropped()}, []any{2, false, start.Add(time.Minute), 0})
	f.equal("keys that the node is sent", len(n.next().GetEdgeKeys().GetKeys()), 2)
	before := f.issue().GetToken()
	f.equal("made with", n.parsed(before).KeyID, 1)

	f.clock.advance(time.Second)
	resp, err = api.RotateEdgeKeys(f.ctx, &pb.RotateEdgeKeysRequest{Reason: "node-7 stolen", DropOthers: true})
	f.ok(err)
	f.equal("new key", []any{resp.GetKey().GetKeyId(), resp.GetKey().GetActive(), resp.GetDropped()}, []any{3, true, 2})
	f.equal("audit line", f.lastLine("RotateEdgeKeys"), "caller=admin drop_others=true dropped=2 key_id=3 outcome=ok reason=node-7 stolen")
	keys := n.next().GetEdgeKeys().GetKeys()
	f.equal("keys that the node is sent", []any{len(keys), keys[0].GetKeyId()}, []any{1, 3})
	f.equal("made with", n.parsed(f.issue().GetToken()).KeyID, 3)

	f.restart()
	list, err := f.credentials("viewer").ListEdgeKeys(f.ctx, &pb.ListEdgeKeysRequest{})
	f.ok(err)
	f.equal("keys", []any{len(list.GetKeys()), list.GetKeys()[0].GetKeyId(), list.GetKeys()[0].GetActive()}, []any{1, 3, true})
}

// TestRenewCertificate proves that a caller renews its own certificate, that the
// old one stays good, and that nobody renews what is disabled or reissued.
func TestRenewCertificate(t *testing.T) {
	f := newFixture(t)
	keyPEM, csr := f.request()
	resp, err := f.credentials("node-1").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err)
	block, _ := pem.Decode([]byte(resp.GetIssued().GetCertificatePem()))
	cert, err := x509.ParseCertificate(block.Bytes)
	f.ok(err)
	name, generation, err := pki.CredentialOf(cert)
	f.ok(err)
	f.equal("certificate", []any{name, generation, cert.NotAfter.UTC()}, []any{"node-1", 1, resp.GetIssued().GetExpiresAt().AsTime()})
	pair, err := tls.X509KeyPair([]byte(resp.GetIssued().GetCertificatePem()), keyPEM)
	f.ok(err)
	cfg := f.clientTLS("", 0)
	cfg.Certificates = []tls.Certificate{pair}
	renewed := f.dial(cfg)
	defer renewed.Close()
	again := func() error {
		_, csr, err := pki.NewRequest(rand.Reader)
		f.ok(err)
		_, err = pb.NewCredentialServiceClient(renewed).RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
		return err
	}
	f.ok(again())
	_, err = f.credentials("node-1").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err) // by the old one
	_, err = f.credentials("node-1").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{})
	f.fails(err, "InvalidArgument invalid_request: certificate_request: required, PKCS #10 in DER (invalid request)")
	_, err = f.credentials("node-1").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: []byte("x")})
	f.code(err, codes.InvalidArgument)

	_, err = f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "node-1", Reason: "stolen"})
	f.ok(err)
	f.code(again(), codes.PermissionDenied)
}
