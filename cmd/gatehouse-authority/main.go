// Command gatehouse-authority issues, redeems and revokes handshake tokens over
// gRPC.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/callerr"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/daemon"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/shell"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &daemon.Program[authorityd.Config]{
		Name:     "gatehouse-authority",
		Short:    "Issue, redeem and revoke handshake tokens over gRPC",
		Defaults: authorityd.DefaultConfig(),
		Path:     "/etc/gatehouse/authority.yaml",
		Environ:  environ,
		Validate: func(c *authorityd.Config) error { return c.Validate() },
		Check:    authorityd.Check,
		Warn:     authorityd.Warn,
		Run: func(ctx context.Context, c authorityd.Config) error {
			return advise(c, authorityd.Run(ctx, c, c.Log.Logger(stderr)))
		},
		Example: `  gatehouse-authority init --state /var/lib/gatehouse/authority
  gatehouse-authority enroll node node-1 --out ./node-1
  gatehouse-authority --config /etc/gatehouse/authority.yaml`,
	}
	root := p.Command(stdout, stderr)
	root.AddCommand(initCommand(p, stdout, stderr), enrollCommand(p, stdout, stderr), caCommand(p, stdout, stderr),
		backupCommand(p, stdout, stderr), restoreCommand(p, stdout, stderr), compactCommand(p, stdout, stderr))
	return p.Execute(ctx, root, args, stderr)
}

// advise adds to an error of the state folder what to do about it.
func advise(cfg authorityd.Config, err error) error {
	state := shell.Word(cfg.State)
	var hint string
	switch {
	case errors.Is(err, authorityd.ErrNotInitialised):
		hint = "name the folder of an authority with --state, or make one with gatehouse-authority init --state " + state
	case errors.Is(err, authorityd.ErrLeftBehind):
		hint = "stop the authority, remove " + shell.Word(cfg.CredentialDir(authorityd.FirstAdmin)) + ", and gatehouse-authority init --state " + state + " makes another"
	case errors.Is(err, authorityd.ErrStoreMissing):
		hint = "gatehouse-authority restore puts a backup in its place; or gatehouse-authority init --begin-anew --state " + state +
			" makes an empty store and a new CA, and every caller must be enrolled again"
	default:
		return err
	}
	return &daemon.Failure{Exit: daemon.ExitFailure, Err: err, Hint: hint}
}

func initCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	var anew bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the CA, the server certificate, the store and a first admin credential",
		Long: `Make what an authority needs to start, in its state folder: the CA, the server
certificate, the store, and the credential of a first admin. What is there
already is kept, so init may be run again.

A store that is missing beside its CA was lost, with every token, credential,
revocation and lock: init makes another in its place only with --begin-anew. The
CA is set aside then, and its certificates are worth nothing any more.`,
		Example: "  gatehouse-authority init --state ./state",
		Args:    daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			if anew {
				old, err := authorityd.SetAside(cfg)
				if err != nil {
					return err
				}
				fmt.Fprintf(stderr, "begun anew: tokens, credentials, revocations and locks of before are forgotten. The old CA is in %s.\n"+
					"Enroll every caller again; nodes close the sockets they have when their session fence is over, or at a restart.\n", old)
			}
			made, err := authorityd.Init(cmd.Context(), cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return advise(cfg, err)
			}
			dir := cfg.CredentialDir(authorityd.FirstAdmin)
			if !made {
				fmt.Fprintf(stdout, "nothing to do: %s is initialised\n", cfg.State)
				return nil
			}
			fmt.Fprintf(stdout, `state:            %s
admin credential: %s

Start it:   gatehouse-authority%[4]s
Enroll:     gatehouse-authority enroll node node-1%[4]s
Use it:     gatehouse --address %[3]s --ca-file %[2]s/ca.crt --cert-file %[2]s/tls.crt --key-file %[2]s/tls.key node list
`, shell.Word(cfg.State), shell.Word(dir), shell.Word(cfg.Reach()), given(cmd))
			return nil
		},
	}
	cmd.Flags().BoolVar(&anew, "begin-anew", false, "set the CA of a lost store aside, and make both anew")
	return cmd
}

// given are the settings that this command line gives, which the next one needs
// too.
func given(cmd *cobra.Command) string {
	var line strings.Builder
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			line.WriteString(" --" + f.Name + "=" + shell.Word(f.Value.String()))
		}
	})
	return line.String()
}

const enrollHint = "gatehouse-authority enroll --help has examples"

// explain tells what an error of enroll means to who typed the command.
func explain(cfg authorityd.Config, err error) error {
	var called interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, authorityd.ErrFolder):
		return daemon.Usage("name another folder with --out, or say --replace to have the files of this credential replaced", "%w", err)
	case !errors.As(err, &called):
		return advise(cfg, err)
	}
	dir := cfg.CredentialDir(authorityd.FirstAdmin)
	call := callerr.Call{
		Address: cfg.Local(), Shown: "the first admin's certificate in " + dir, CAFile: filepath.Join(dir, "ca.crt"),
		Another: "--cert-file and --key-file of gatehouse credential create",
		Silent:  "an authority runs on " + cfg.State + ": name where it listens with --listen, or its file with --config",
	}
	e := call.Explain(err)
	if called.GRPCStatus().Code() == codes.AlreadyExists {
		e.Hint = "--replace issues it anew; what it calls with then stops working"
	}
	return &daemon.Failure{Exit: e.Exit, Hint: e.Hint, Err: e.Err}
}

func enrollCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	e := authorityd.Enrolment{Credential: &pb.Credential{}}
	var maxTTL time.Duration
	cmd := &cobra.Command{
		Use:   "enroll (node|issuer|admin|viewer) NAME",
		Short: "Make a credential: a certificate or an API key",
		Long: `Make the credential of a node, an issuer, an admin or a viewer, with the first
admin's credential from the state folder: through the authority if it runs, else
by starting one on the state folder for as long as it takes.

The certificate, its key and the CA's certificate are written to a folder. Copy
it to where the caller runs, and nowhere else.

Exit codes are those of gatehouse: see gatehouse help exit-codes.`,
		Example: `  gatehouse-authority enroll node node-1 --out ./node-1
  gatehouse-authority enroll issuer login --tenant acme --audience chat --max-ttl 2m
  gatehouse-authority enroll issuer ci --api-key
  gatehouse-authority enroll admin alice
  gatehouse-authority enroll node node-1 --replace`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return daemon.Usage(enrollHint, "gatehouse-authority enroll takes a role and a name, but got %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"node", "issuer", "admin", "viewer"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			role, ok := map[string]pb.Role{
				"node": pb.Role_ROLE_NODE, "issuer": pb.Role_ROLE_ISSUER, "admin": pb.Role_ROLE_ADMIN, "viewer": pb.Role_ROLE_VIEWER,
			}[args[0]]
			if !ok {
				return daemon.Usage(enrollHint, "role %q is none of node, issuer, admin and viewer", args[0])
			}
			if e.APIKey && e.Out != "" {
				return daemon.Usage(enrollHint, "--out is for certificates, and --api-key prints a key: give one of them")
			}
			e.Credential.Role, e.Credential.Name = role, args[1]
			if cmd.Flags().Changed("max-ttl") {
				if maxTTL <= 0 {
					return daemon.Usage("leave it out for the authority's own ceiling", "--max-ttl: %v is not above 0", maxTTL)
				}
				e.Credential.MaxTtl = durationpb.New(maxTTL)
			}
			done, err := authorityd.Enroll(cmd.Context(), cfg, e, commandLog(cfg, stderr))
			if err != nil {
				return explain(cfg, err)
			}
			if done.APIKey != "" {
				fmt.Fprintln(stderr, "API key of", done.Credential.GetName()+"; it is shown once:")
				fmt.Fprintln(stdout, done.APIKey)
				return nil
			}
			fmt.Fprintf(stdout, "%s %s: %s (until %s)\n", args[0], done.Credential.GetName(), done.Dir, done.ExpiresAt.Format(time.DateOnly))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.Out, "out", "", "the folder to write; credentials/NAME in the state folder by default")
	f.BoolVar(&e.APIKey, "api-key", false, "make an API key instead of a certificate")
	f.BoolVar(&e.Replace, "replace", false, "issue an existing credential anew; what it called with stops working")
	f.StringSliceVar(&e.Credential.Tenants, "tenant", nil, "a tenant the issuer may act in; repeat for more; none is every one")
	f.StringSliceVar(&e.Credential.Audiences, "audience", nil, "an audience the issuer may issue for, or the node redeem for; repeat for more; none is every one")
	f.DurationVar(&maxTTL, "max-ttl", 0, "the longest ttl the issuer may give a token")
	f.Uint32Var(&e.Credential.TokensPerSecond, "tokens-per-second", 0, "tokens a second that the issuer may issue; 0 is without bound")
	return cmd
}
