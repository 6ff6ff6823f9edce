package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/shell"
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

// lead finds out how the user calls this program so that it calls this dev, and
// which variables here would lead it elsewhere all the same. The settings file
// must be written.
func (d *dev) lead(c *cli) {
	d.program = []string{"gatehouse"}
	if strings.Contains(os.Args[0], "go-build") { // started by go run
		d.program = []string{"go", "run", "./cmd/gatehouse"}
	}
	others := &cli{environ: c.environ, source: c.source}
	others.source.Flags = nil // those of this call
	if l, err := others.load(); err != nil || l.fromDev != d.cliConfig() {
		d.program = append(d.program, "--config", d.cliConfig())
	}
	for _, name := range settings.EnvNames(config{}) {
		if name == "GATEHOUSE_CONFIG" || name == "GATEHOUSE_CALL_TIMEOUT" {
			continue
		}
		if slices.ContainsFunc(c.environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") }) {
			d.astray = append(d.astray, name)
		}
	}
}

// line is a command line to paste; settle has refused what can't be pasted.
func (d *dev) line(args ...string) string {
	line, _ := shell.Line(slices.Concat(d.program, args))
	return line
}

// banner is what a new user reads first.
func (d *dev) banner() string {
	admin := d.cfg.CredentialDir(authorityd.FirstAdmin)
	authority := reach(d.devOptions.authority, d.onAuthority)
	grpcurl, _ := shell.Line([]string{
		"grpcurl", "-cacert", filepath.Join(admin, "ca.crt"), "-cert", filepath.Join(admin, "tls.crt"), "-key", filepath.Join(admin, "tls.key"),
	})
	request, _ := shell.Line([]string{
		"-d", fmt.Sprintf(`{"subject":%q,"audience":%q}`, devSubject, devAudience), authority, "gatehouse.authority.v1.TokenService/IssueToken",
	})
	unset := ""
	if len(d.astray) > 0 {
		unset = "\nVariables that are set here lead gatehouse commands elsewhere. Before the lines above:\n  unset " + strings.Join(d.astray, " ") + "\n"
	}
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
  %s

The same with grpcurl:
  %s \
    %s

Revoke all that %s holds:
  %s
%s
Ctrl-C stops it.
`, pb.Version, d.hosts()[0], reach(d.wss, d.onWSS), devPath, filepath.Join(d.state, "ca", "ca.crt"),
		reach(d.plain, d.onPlain)+devPath, authority, d.state,
		d.line("token", "issue", "--subject", devSubject, "--audience", devAudience), grpcurl, request,
		devSubject, d.line("revoke", "--subject", devSubject), unset)
}
