package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

type tlsConfig = tls.Config

// cliConfig is where the other commands look for a running dev.
func (d *dev) cliConfig() string { return filepath.Join(d.state, filepath.Base(devSettings)) }

// writeCLIConfig tells the other commands how to call the authority.
func (d *dev) writeCLIConfig() error {
	dir := d.cfg.CredentialDir(authorityd.FirstAdmin)
	text := fmt.Sprintf(devHeader+"address: %q\nca_file: %q\ncert_file: %q\nkey_file: %q\n",
		reach(d.devOptions.authority, d.onAuthority), filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err := os.WriteFile(d.cliConfig(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("tell other commands of this dev: %w", err)
	}
	return nil
}

// program is how the user calls this program, with what lets it find this dev.
func (d *dev) program() []string {
	args := []string{"gatehouse"}
	if strings.Contains(os.Args[0], "go-build") { // started by go run
		args = []string{"go", "run", "./cmd/gatehouse"}
	}
	if dir, err := defaultStateDir(); err != nil || filepath.Join(dir, devSettings) != d.cliConfig() {
		args = append(args, "--config", d.cliConfig())
	}
	return args
}

// banner is what a new user reads first.
func (d *dev) banner() string {
	call := strings.Join(d.program(), " ")
	admin := d.cfg.CredentialDir(authorityd.FirstAdmin)
	authority := reach(d.devOptions.authority, d.onAuthority)
	return fmt.Sprintf(`
Gatehouse dev %s

  try it      http://%s
  wss         wss://%s%s
              CA: %s
  ws          ws://%s
              without TLS, for the page, on loopback only
  authority   %s, gRPC over mTLS
  state       %s

Issue a token:
  %s token issue --subject %s --audience %s

The same with grpcurl:
  grpcurl -cacert %s -cert %s -key %s \
    -d '{"subject":"%[10]s","audience":"%[11]s"}' %[7]s gatehouse.authority.v1.TokenService/IssueToken

Revoke all that %[10]s holds:
  %[9]s revoke --subject %[10]s

Ctrl-C stops it.
`, pb.Version, d.hosts()[0], reach(d.wss, d.onWSS), devPath, filepath.Join(d.state, "ca", "ca.crt"),
		reach(d.plain, d.onPlain)+devPath, authority, d.state, call, devSubject, devAudience,
		filepath.Join(admin, "ca.crt"), filepath.Join(admin, "tls.crt"), filepath.Join(admin, "tls.key"))
}
