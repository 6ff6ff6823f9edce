package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

func (c *cli) credentialCommand() *cobra.Command {
	cmd := verbs("credential", "Decide who may call the authority")
	cmd.AddCommand(
		c.credentialListCommand(), c.credentialCreateCommand(), c.credentialReissueCommand(), c.credentialRenewCommand(),
		c.credentialDisableCommand(), c.credentialEnableCommand(),
	)
	return cmd
}

func (c *cli) credentialListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all credentials",
		Example: "  gatehouse credential list\n  gatehouse credential list -o json | jq -r '.credentials[] | select(.disabled) | .name'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			out := c.newList("credentials", "NAME", "ROLE", "CALLS WITH", "STATE", "TENANTS", "AUDIENCES", "MAX TTL", "TOKENS/S", "CREATED")
			_, err = pages(0, func(size int32, from string) (int, string, error) {
				resp, err := cl.credentials.ListCredentials(cmd.Context(), &pb.ListCredentialsRequest{PageSize: size, PageToken: from})
				if err != nil {
					return 0, "", err
				}
				for _, cred := range resp.GetCredentials() {
					out.add(cred, func() []string { return c.credentialRow(cred) })
				}
				return len(resp.GetCredentials()), resp.GetNextPageToken(), out.flush()
			})
			if err != nil {
				return err
			}
			return out.end(false)
		},
	}
}

func (c *cli) credentialRow(cred *pb.Credential) []string {
	with, state, rate := "certificate", "enabled", ""
	if cred.GetApiKey() {
		with = "API key"
	}
	if cred.GetDisabled() {
		state = "disabled"
	}
	if n := cred.GetTokensPerSecond(); n > 0 {
		rate = fmt.Sprint(n)
	}
	return []string{
		cred.GetName(), label(cred.GetRole()), with, state, anyOf(cred.GetTenants()), anyOf(cred.GetAudiences()),
		spanOf(cred.GetMaxTtl()), rate, c.relative(cred.GetCreatedAt()),
	}
}

func anyOf(names []string) string {
	if len(names) == 0 {
		return "any"
	}
	return strings.Join(names, ",")
}

const credentialFilesHelp = `
The key is made here and never leaves this machine; the authority certifies it.
tls.key (mode 0600), tls.crt and ca.crt are written to the folder --out. With
--api-key an API key goes to standard output instead, once and never again: keep
it in a file, and name that with --api-key-file. Nodes call with certificates
only.`

func (c *cli) credentialCreateCommand() *cobra.Command {
	req := &pb.CreateCredentialRequest{Credential: &pb.Credential{}}
	cred := req.Credential
	var to delivery
	var maxTTL time.Duration
	cmd := &cobra.Command{
		Use: "create NAME --role ROLE (--out DIR | --api-key)", Short: "Make a credential: a certificate or an API key",
		Long: "Make a credential. Names are never used again for someone else.\n" + credentialFilesHelp,
		Example: `  gatehouse credential create alice --role admin --out ./alice
  gatehouse credential create login --role issuer --tenant acme --audience chat --max-ttl 2m --out ./login
  gatehouse credential create ci --role issuer --api-key > ci.key
  gatehouse credential create node-2 --role node --audience chat --out ./node-2`,
		Args: oneArg("a name"), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cred.GetRole() == pb.Role_ROLE_UNSPECIFIED {
				return usage(cmd.CommandPath()+" --help has examples", "--role is required")
			}
			if cmd.Flags().Changed("max-ttl") {
				if maxTTL <= 0 {
					return usage("leave it out for the authority's own ceiling", "--max-ttl: %v is not above 0", maxTTL)
				}
				cred.MaxTtl = durationpb.New(maxTTL)
			}
			cred.Name = args[0]
			return c.deliver(to, cred.Name, func(cl *client, csr []byte) (*pb.Credential, *pb.IssuedCredential, error) {
				req.CertificateRequest = csr
				resp, err := cl.credentials.CreateCredential(cmd.Context(), req)
				return resp.GetCredential(), resp.GetIssued(), err
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	role := enumFlag[pb.Role]{&cred.Role}
	f.Var(role, "role", "what it is for (required)")
	to.flags(f)
	f.StringArrayVar(&cred.Tenants, "tenant", nil, "a tenant the issuer may act in; repeat for more; none is every one")
	f.StringArrayVar(&cred.Audiences, "audience", nil, "an audience the issuer may issue for, or the node redeem for; repeat for more; none is every one")
	f.DurationVar(&maxTTL, "max-ttl", 0, "the longest ttl the issuer may give a token (the authority's ceiling)")
	f.Uint32Var(&cred.TokensPerSecond, "tokens-per-second", 0, "tokens a second that the issuer may issue; 0 is without bound")
	completeWith(cmd, "role", role.labels()...)
	return cmd
}

func (c *cli) credentialReissueCommand() *cobra.Command {
	var to delivery
	cmd := &cobra.Command{
		Use: "reissue NAME (--out DIR | --api-key)", Short: "Give a credential a new certificate or API key",
		Long: "Give a credential a new certificate or API key. What it called with until now\nstops working at once.\n" + credentialFilesHelp,
		Example: `  gatehouse credential reissue node-2 --out ./node-2 --replace
  gatehouse credential reissue ci --api-key > ci.key`,
		Args: oneArg("a name"), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.deliver(to, args[0], func(cl *client, csr []byte) (*pb.Credential, *pb.IssuedCredential, error) {
				resp, err := cl.credentials.ReissueCredential(cmd.Context(), &pb.ReissueCredentialRequest{Name: args[0], CertificateRequest: csr})
				return resp.GetCredential(), resp.GetIssued(), err
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	to.flags(f)
	f.BoolVar(&to.replace, "replace", false, "replace the files in --out")
	return cmd
}

func (c *cli) credentialRenewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "renew", Short: "Renew the certificate that this program calls with, in its files",
		Long: `Renew the certificate that this program calls with: the one in --cert-file,
for the key in --key-file, which stays. The CAs of the authority, of which there
are two while it rotates them, are written to --ca-file. One call with the new
files shows that they work, and the authority that nobody needs the old
certificate; that stays good until its end. Programs that call with
tlsfile.Credentials take up the new files without a restart. Run it once a
month, as by cron.`,
		Example: `  gatehouse credential renew
  gatehouse credential renew --ca-file login/ca.crt --cert-file login/tls.crt --key-file login/tls.key`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			l := cl.settings
			if cl.certificate == nil {
				return usage("gatehouse credential reissue makes another API key, or a certificate", "calls show an API key, which does not end")
			}
			var issued *pb.IssuedCredential
			err = tlsfile.Renew(l.CertFile, l.KeyFile, func(csr []byte) ([]byte, error) {
				resp, err := cl.credentials.RenewCertificate(cmd.Context(), &pb.RenewCertificateRequest{CertificateRequest: csr})
				if err != nil {
					return nil, err
				}
				// The CAs come first: who shows the new certificate knows them.
				issued = resp.GetIssued()
				return []byte(issued.GetCertificatePem()), replaceCAs(l.CAFile, []byte(issued.GetCaPem()))
			})
			if err != nil {
				return err
			}
			if err := c.show(cmd.Context()); err != nil {
				return partly(err, 0, "the certificate is renewed, but a call with it failed")
			}
			if c.format == formatJSON {
				return c.printMessage(issued)
			}
			return c.printf("%s: until %s\n", plain(l.CertFile), issued.GetExpiresAt().AsTime().In(c.zone).Format(time.DateOnly))
		},
	}
}

// show calls once with what the files hold now, so that the authority knows who
// no longer depends on a CA that is to be retired.
func (c *cli) show(ctx context.Context) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	_, err = healthpb.NewHealthClient(cl.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// replaceCAs writes the CAs where they are not what the file has already.
func replaceCAs(path string, ca []byte) error {
	old, err := os.ReadFile(path)
	if err != nil || bytes.Equal(old, ca) {
		return err
	}
	if _, err := tlsfile.Pool(ca); err != nil {
		return fmt.Errorf("what the authority tells of its CAs %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return tlsfile.Write(path, ca, info.Mode().Perm())
}

// deliver has a credential made, and hands it out as asked. The files are
// staged before the call: once it has succeeded, nothing that can be foreseen
// keeps the key from its certificate.
func (c *cli) deliver(to delivery, name string, request func(cl *client, csr []byte) (*pb.Credential, *pb.IssuedCredential, error)) error {
	if err := to.check(); err != nil {
		return err
	}
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	var folder *keyFolder
	var csr []byte
	if !to.apiKey {
		if folder, err = newKeyFolder(to.out, to.replace); err != nil {
			return err
		}
		defer folder.discard()
		if csr, err = folder.stageKey(name, c.random); err != nil {
			return err
		}
	}
	cred, issued, err := request(cl, csr)
	if err != nil {
		return err
	}
	if folder != nil {
		if err := folder.complete(issued); err != nil {
			return failed(exitFailure, "gatehouse credential reissue "+name+" makes its certificate anew", "the credential is made, but its files are not: %w", err)
		}
	}
	if c.format == formatJSON {
		return c.printValue(struct {
			Credential json.RawMessage `json:"credential"`
			Issued     json.RawMessage `json:"issued"`
			Out        string          `json:"out"`
		}{rawMessage(cred), rawMessage(issued), to.out})
	}
	if to.apiKey {
		c.note("API key of %s %s, shown once; its caller also needs the CA, %s", label(cred.GetRole()), cred.GetName(), cl.settings.CAFile)
		return c.printf("%s\n", issued.GetApiKey())
	}
	return c.printf("%s %s: %s, until %s\n", label(cred.GetRole()), plain(cred.GetName()), plain(to.out), issued.GetExpiresAt().AsTime().In(c.zone).Format(time.DateOnly))
}

func (c *cli) credentialDisableCommand() *cobra.Command {
	return c.credentialSwitch("disable", "Stop a credential: its calls and streams end",
		"  gatehouse credential disable login --reason \"key leaked\"",
		func(cmd *cobra.Command, cl *client, name, reason string) (*pb.Credential, error) {
			resp, err := cl.credentials.DisableCredential(cmd.Context(), &pb.DisableCredentialRequest{Name: name, Reason: reason})
			return resp.GetCredential(), err
		})
}

func (c *cli) credentialEnableCommand() *cobra.Command {
	return c.credentialSwitch("enable", "Let a disabled credential call again",
		"  gatehouse credential enable login --reason \"false alarm\"",
		func(cmd *cobra.Command, cl *client, name, reason string) (*pb.Credential, error) {
			resp, err := cl.credentials.EnableCredential(cmd.Context(), &pb.EnableCredentialRequest{Name: name, Reason: reason})
			return resp.GetCredential(), err
		})
}

func (c *cli) credentialSwitch(verb, short, example string, call func(cmd *cobra.Command, cl *client, name, reason string) (*pb.Credential, error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " NAME --reason WHY", Short: short, Example: example,
		Args: oneArg("a name"), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage(cmd.CommandPath()+" --help has examples", "--reason is required")
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			cred, err := call(cmd, cl, args[0], reason)
			switch {
			case err != nil:
				return err
			case c.format == formatJSON:
				return c.printMessage(cred)
			}
			return c.printf("%sd: %s %s\n", verb, label(cred.GetRole()), plain(cred.GetName()))
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit trail (required)")
	return cmd
}
