package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/daemon"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func caCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Rotate the CA: make a new one, see who depends on the old one, retire that",
		Long: `Rotate the CA that signs the certificates of the authority and its callers.

  1. gatehouse-authority ca rotate     a new CA signs from now on, the old one is
                                       trusted still; nodes learn of it and renew
                                       their certificates by themselves
  2. gatehouse-authority ca list       tells who depends on the old one
  3. gatehouse-authority ca retire     ends the trust in it

All go through the authority if it runs, which needs no restart, else by starting
one on the state folder for as long as it takes, with the first admin's credential
from there.

Exit codes are those of gatehouse: see gatehouse help exit-codes.`,
	}
	daemon.NeedsVerb(cmd)
	cmd.AddCommand(caRotateCommand(p, stdout, stderr), caListCommand(p, stdout, stderr), caRetireCommand(p, stdout, stderr))
	return cmd
}

func caRotateCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "rotate --reason WHY",
		Short: "Make a new CA, which signs from now on; the old one stays trusted",
		Long: `Make a new CA. It signs all certificates from now on, the authority's own at
once; the old CA stays trusted until it is retired. Who knows the old one alone
takes the authority's certificate until then, since the old CA vouches for the
new one. Where it may not, having been made by a version that could not rotate,
the authority's own certificate stays of the old CA until that is retired.

Nodes that are attached are told and have their certificates renewed. Copy the
folder ca of the state folder to where its copy is kept.`,
		Example: `  gatehouse-authority ca rotate --reason "ends this year"`,
		Args:    daemon.NoArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			if reason == "" {
				return daemon.Usage("it is for the audit trail", "--reason is required")
			}
			ca, err := authorityd.RotateCA(cmd.Context(), cfg, reason, commandLog(cfg, stderr))
			if err != nil {
				return explain(cfg, err)
			}
			fmt.Fprintf(stdout, "rotated: %s signs from now on, until %s\nthe CA before it is trusted until gatehouse-authority ca retire; gatehouse-authority ca list tells who depends on it\n",
				ca.GetName(), ca.GetExpiresAt().AsTime().Format(time.DateOnly))
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit trail (required)")
	return cmd
}

func caListCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	output := "table"
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the CAs that are trusted, and who depends on the one to be retired",
		Long: `List the CAs that are trusted, and the credentials that depend on the one to be
retired: those whose newest connection showed a certificate of it, or that have
not connected since they were given one. A credential that several machines share
is judged by the newest connection of any of them: look at each.`,
		Example: "  gatehouse-authority ca list\n  gatehouse-authority ca list -o json | jq -r '.dependents[].name'",
		Args:    daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			if output != "table" && output != "json" {
				return daemon.Usage("gatehouse-authority ca list -o json", "--output %q is not table or json", output)
			}
			list, err := authorityd.ListCAs(cmd.Context(), cfg, commandLog(cfg, stderr))
			if err != nil {
				return explain(cfg, err)
			}
			if output == "json" {
				text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(list)
				if err == nil {
					_, err = fmt.Fprintf(stdout, "%s\n", text)
				}
				return err
			}
			return printCAs(stdout, list)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "table or json")
	return cmd
}

func printCAs(stdout io.Writer, list *pb.ListCAsResponse) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CA\tID\tSTATE\tFROM\tUNTIL")
	for _, ca := range list.GetCas() {
		state := "to be retired"
		if ca.GetSigns() {
			state = "signs"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", ca.GetName(), ca.GetCaId(), state,
			ca.GetNotBefore().AsTime().Format(time.DateOnly), ca.GetExpiresAt().AsTime().Format(time.DateOnly))
	}
	if err := w.Flush(); err != nil || len(list.GetCas()) == 1 {
		return err
	}
	if list.GetDependentsTotal() == 0 {
		fmt.Fprint(stdout, "\nno credential depends on the one to be retired\n")
	} else {
		fmt.Fprintf(stdout, "\nwho depends on the one to be retired (%d):\n", list.GetDependentsTotal())
		for _, d := range list.GetDependents() {
			until := "not known"
			if d.GetExpiresAt() != nil {
				until = d.GetExpiresAt().AsTime().Format(time.DateOnly)
			}
			fmt.Fprintf(w, "  %s\t%s\tuntil %s\n", d.GetName(), strings.ToLower(strings.TrimPrefix(d.GetRole().String(), "ROLE_")), until)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if more := list.GetDependentsTotal() - uint32(len(list.GetDependents())); more > 0 {
			fmt.Fprintf(stdout, "  and %d more\n", more)
		}
	}
	if list.GetUnseenTotal() > 0 {
		fmt.Fprintf(stdout, "\nwho calls with an API key (%d), and must have the new ca.crt:\n  %s\n", list.GetUnseenTotal(), strings.Join(list.GetUnseen(), "\n  "))
	}
	return nil
}

func caRetireCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	var reason string
	var force, yes bool
	cmd := &cobra.Command{
		Use:   "retire --reason WHY --yes",
		Short: "End the trust in the CA before the one that signs",
		Long: `End the trust in the CA before the one that signs: its certificates are refused
from now on, and connections that were made with them end; nodes connect again
at once. Callers who know that CA alone no longer take the authority's
certificate.

It is refused while a credential depends on the CA, as gatehouse-authority ca
list tells. --force, as when the CA's key was stolen, retires it all the same:
who depends on it can't call until an admin reissues its credential.`,
		Example: `  gatehouse-authority ca retire --reason "rotated" --yes
  gatehouse-authority ca retire --reason "key stolen" --force --yes`,
		Args: daemon.NoArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			switch {
			case reason == "":
				return daemon.Usage("it is for the audit trail", "--reason is required")
			case !yes:
				return daemon.Usage("--yes does it; gatehouse-authority ca list tells who depends on it", "this ends the trust in the CA before the one that signs, for good")
			}
			done, err := authorityd.RetireCA(cmd.Context(), cfg, reason, force, commandLog(cfg, stderr))
			if err != nil {
				return explain(cfg, err)
			}
			fmt.Fprintf(stdout, "retired: %s is trusted no more\n", done.GetCa().GetName())
			if n := done.GetDependents(); n > 0 {
				fmt.Fprintf(stdout, "%d depended on it and can't call: reissue their credentials\n", n)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why, for the audit trail (required)")
	f.BoolVar(&force, "force", false, "though credentials depend on it")
	f.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// commandLog is for a person who waits for a command.
func commandLog(cfg authorityd.Config, stderr io.Writer) *slog.Logger {
	log := cfg.Log
	log.Format = "text"
	return log.Logger(stderr)
}
