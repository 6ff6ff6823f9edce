package authority_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// rotatable has a CA of its own, and counts what it is asked to certify.
func rotatable(t *testing.T) (f *fixture, recertified *int) {
	recertified = new(int)
	dir := t.TempDir()
	site := sync.OnceValues(func() (*pki.CA, string) { return install(dir) })
	return newFixture(t, func(f *fixture) {
		f.site = site
		f.recertify = func() error {
			*recertified++
			_, err := f.ca.EnsureServer(filepath.Join(dir, "tls"), []string{"localhost", "127.0.0.1"})
			return err
		}
	}), recertified
}

func (f *fixture) cas() *pb.ListCAsResponse {
	f.Helper()
	list, err := f.credentials("viewer").ListCAs(f.ctx, &pb.ListCAsRequest{})
	f.ok(err)
	return list
}

func (f *fixture) dependents() string {
	f.Helper()
	list := f.cas()
	var names []string
	for _, d := range list.GetDependents() {
		names = append(names, d.GetName())
	}
	f.equal("counted", list.GetDependentsTotal(), len(names))
	return strings.Join(names, " ")
}

// reconnect has callers come again, with new certificates; the connections that
// they have stay.
func (f *fixture) reconnect(names ...string) {
	f.Helper()
	f.mu.Lock()
	for _, name := range names {
		if c := f.conns[name]; c != nil {
			f.Cleanup(func() { _ = c.Close() })
			delete(f.conns, name)
		}
	}
	f.mu.Unlock()
}

// TestRotateCA goes through a rotation: new certificates are of the new CA, those
// of the old one count until it is retired, which is refused while anyone
// depends on it, and then end with their connections.
func TestRotateCA(t *testing.T) {
	f, recertified := rotatable(t)
	f.create(&pb.Credential{Name: "ci", Role: pb.Role_ROLE_ISSUER})
	for _, name := range []string{"off", "key"} {
		f.create(&pb.Credential{Name: name, Role: pb.Role_ROLE_ISSUER})
	}
	_, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "off", Reason: "test"})
	f.ok(err)
	_, err = f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: "key"})
	f.ok(err)
	list := f.cas()
	f.equal("before", []any{len(list.GetCas()), list.GetCas()[0].GetSigns(), len(list.GetDependents()), len(list.GetUnseen())}, []any{1, true, 0, 0})
	trusting := func(h *pb.AttachHello) { h.Hello.Features = []string{pb.FeatureTrust} }
	told, untold := f.node("node-1", trusting), f.node("node-2")
	oldIssuer, old := f.signedBy(f.ca, "login", 0), f.ca.Cert()
	stale := f.dial(oldIssuer)
	defer stale.Close()
	issue := f.issueOn
	f.ok(issue(stale))

	_, err = f.credentials("viewer").RotateCA(f.ctx, &pb.RotateCARequest{Reason: "x"})
	f.code(err, codes.PermissionDenied)
	_, err = f.credentials("admin").RotateCA(f.ctx, &pb.RotateCARequest{})
	f.fails(err, "InvalidArgument invalid_request: reason: required, 1 to 512 bytes (invalid request)")
	_, err = f.credentials("admin").RetireCA(f.ctx, &pb.RetireCARequest{Reason: "x", Force: true})
	f.fails(err, "FailedPrecondition ca_rotation: no CA but the one that signs is trusted: there is none to retire")
	made, err := f.credentials("admin").RotateCA(f.ctx, &pb.RotateCARequest{Reason: "yearly"})
	f.ok(err)
	id := pki.ID(f.ca.Cert())
	f.equal("the new CA", []any{made.GetCa().GetCaId(), made.GetCa().GetSigns(), made.GetCa().GetExpiresAt().AsTime()}, []any{id, true, start.Add(pki.CALife)})
	f.equal("audit line", f.lastLine("RotateCA"), "ca_id="+id+" caller=admin outcome=ok reason=yearly")
	f.equal("certified", *recertified, 1)
	_, err = f.credentials("admin").RotateCA(f.ctx, &pb.RotateCARequest{Reason: "again"})
	f.fails(err, "FailedPrecondition ca_rotation: the CA before this one is trusted still: retire that first")

	// Only nodes that understand it are told.
	f.equal("the node is told", told.next().GetTrust().GetCaPem(), string(f.ca.Bundle()))
	_, err = f.credentials("admin").RotateEdgeKeys(f.ctx, &pb.RotateEdgeKeysRequest{Reason: "to have something sent"})
	f.ok(err)
	f.equal("both are told of other things", []any{told.next().GetEdgeKeys() != nil, untold.next().GetEdgeKeys() != nil}, []any{true, true})

	// New certificates are of the new CA and come with both; the old ones count.
	_, csr := f.request()
	renewed, err := f.credentials("login").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err)
	f.equal("CAs", renewed.GetIssued().GetCaPem(), string(f.ca.Bundle()))
	f.ok(issue(stale))
	again := f.dial(oldIssuer)
	defer again.Close()
	f.ok(issue(again)) // by the old certificate, on a new connection, knowing the old CA alone

	// Who depends on it: all that called, or were given a certificate, by the old.
	f.equal("depend", f.dependents(), "acme admin ci login node-1 node-2 two viewer")
	f.equal("unseen", fmt.Sprint(f.cas().GetUnseen()), "[key]")
	_, err = f.credentials("admin").RetireCA(f.ctx, &pb.RetireCARequest{Reason: "done"})
	f.fails(err, "FailedPrecondition ca_rotation: whoever depends on it could not call any more: acme, admin, ci, login, node-1, node-2, two, viewer; renew or reissue their certificates, disable them, or retire it by force")
	before := f.conn("acme")
	f.reconnect("admin", "viewer", "acme", "node-1")
	for _, name := range []string{"admin", "viewer", "acme", "node-1"} {
		_, csr := f.request()
		_, err := f.credentials(name).RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
		f.ok(err)
	}
	_, csr = f.request() // that a connection of before goes on does not count
	_, err = pb.NewCredentialServiceClient(before).RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err)
	f.equal("depend", f.dependents(), "ci login node-2 two")
	f.equal("metric", f.metric("gatehouse_authority_elder_ca_dependents{}"), 4)
	f.equal("metric", f.metric("gatehouse_authority_elder_ca_certificate_expiry_timestamp_seconds{}"), float64(old.NotAfter.Unix()))
	_, csr = f.request()
	_, err = f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: "ci", CertificateRequest: csr})
	f.ok(err)
	f.equal("depend", f.dependents(), "login node-2 two")

	retired, err := f.credentials("admin").RetireCA(f.ctx, &pb.RetireCARequest{Reason: "key stolen", Force: true})
	f.ok(err)
	f.equal("retired", []any{retired.GetCa().GetCaId(), retired.GetDependents()}, []any{pki.ID(old), 3})
	f.equal("audit line", f.lastLine("RetireCA"), "ca_id="+pki.ID(old)+" caller=admin dependents=3 force=true outcome=ok reason=key stolen")
	f.equal("certified", *recertified, 2)
	f.equal("trusted", len(f.cas().GetCas()), 1)

	// On connections that are open, calls fail and streams end; no new one comes about.
	f.code(issue(stale), codes.Unavailable)
	for err = nil; err == nil; { // it may hear of the change just before
		_, err = told.attach.Recv() // under its first certificate
	}
	f.code(err, codes.Unavailable)
	_, err = untold.attach.Recv()
	f.code(err, codes.Unavailable)
	untrusted := f.metric(`gatehouse_authority_tls_handshakes_failed_total{reason="certificate_untrusted"}`)
	withNewCA := oldIssuer.Clone()
	withNewCA.RootCAs = f.ca.Pool()
	refused := f.dial(withNewCA)
	defer refused.Close()
	f.code(issue(refused), codes.Unavailable)
	for end := time.Now().Add(10 * time.Second); f.metric(`gatehouse_authority_tls_handshakes_failed_total{reason="certificate_untrusted"}`) == untrusted; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a certificate of the retired CA is not refused by TLS")
		}
	}
	knowsOld := f.dial(oldIssuer)
	defer knowsOld.Close()
	if err := issue(knowsOld); !strings.Contains(fmt.Sprint(err), "unknown authority") {
		t.Errorf("who knows the retired CA alone: %v", err)
	}
	f.reconnect("login", "node-2")
	f.ok(issue(f.conn("login")))
}

// TestDependentsOutliveARestart proves that a restart does not forget by which CA
// who called, or makes anyone whom it does not know of look independent.
func TestDependentsOutliveARestart(t *testing.T) {
	f, _ := rotatable(t)
	short := f.dial(f.signedBy(f.ca, "node-2", time.Minute))
	defer short.Close()
	_, csr := f.request()
	_, err := pb.NewCredentialServiceClient(short).RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err)
	_, err = f.credentials("admin").RotateCA(f.ctx, &pb.RotateCARequest{Reason: "yearly"})
	f.ok(err)
	f.reconnect("admin", "viewer", "login")
	for _, name := range []string{"admin", "login"} {
		_, err := f.credentials(name).RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
		f.ok(err)
	}
	f.equal("depend", f.dependents(), "acme node-1 node-2 two")
	f.ok(f.service.KeepShown(f.ctx))
	f.reconnect("two")
	_, csr = f.request()
	_, err = f.credentials("two").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err)
	f.restart() // before that is kept
	f.equal("depend", f.dependents(), "acme node-1 node-2 two")
	stored, err := f.store.Credentials(f.ctx)
	f.ok(err)
	i := slices.IndexFunc(stored, func(c storage.Credential) bool { return c.Name == "login" })
	f.equal("kept", []any{stored[i].SignedBy, stored[i].CertificateEnds.UTC()}, []any{pki.ID(f.ca.Cert()), start.Add(pki.ClientLife)})
	f.equal("the first end", time.Unix(int64(f.metric("gatehouse_authority_client_certificate_expiry_timestamp_seconds{}")), 0).UTC(), start.Add(time.Minute))

	// A certificate that has ended depends on nothing.
	f.clock.advance(time.Hour)
	f.equal("depend", f.dependents(), "acme node-1 two")
}

// TestKeepShownMeetsAReissue proves that what a credential showed before it was
// reissued is not kept of what it is now.
func TestKeepShownMeetsAReissue(t *testing.T) {
	f, _ := rotatable(t)
	_, csr := f.request()
	_, err := f.credentials("login").RenewCertificate(f.ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	f.ok(err)
	no := errors.New("no")
	_, err = f.store.UpdateCredential(f.ctx, "login", func(c *storage.Credential) error { c.Generation = 7; return nil })
	f.ok(err)
	f.ok(f.service.KeepShown(f.ctx))
	_, err = f.store.UpdateCredential(f.ctx, "login", func(c *storage.Credential) error {
		f.equal("kept", c.SignedBy, "")
		return no
	})
	f.equal("looked", errors.Is(err, no), true)
}
