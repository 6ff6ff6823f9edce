package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/backupfile"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/daemon"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/shell"
)

// reporter tells a person who waits how far work has come, now and then.
func reporter(stderr io.Writer, what string) func(done, total uint64) {
	meter, last := backupfile.Meter{Now: time.Now}, time.Now()
	return func(done, total uint64) {
		text := meter.Text(done, total)
		if now := time.Now(); now.Sub(last) >= 2*time.Second {
			last = now
			fmt.Fprintf(stderr, "gatehouse-authority: %s: %s\n", what, text)
		}
	}
}

func signed(report func(done, total uint64)) func(done, total int64) {
	return func(done, total int64) { report(uint64(done), uint64(total)) }
}

func backupCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Save the store to a file, while the authority goes on working",
		Long: `Save all that is committed at this moment to a new file, with the first admin's
credential from the state folder: through the authority if it runs, else by
starting one on the state folder for as long as it takes. From elsewhere,
gatehouse backup does the same.

The file is complete, verified and on disk, or not there at all. The CA is not
in it: copy the folder ca of the state folder too, once.

Exit codes are those of gatehouse: see gatehouse help exit-codes.`,
		Example: `  gatehouse-authority backup --out /backups/gatehouse.backup
  gatehouse-authority backup --out "/backups/$(date +%F).backup" --state ./state`,
		Args: daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			if out == "" {
				return daemon.Usage("--out gatehouse.backup, for example", "say where the backup goes with --out")
			}
			ctx, stop := ops.UntilSignal(cmd.Context())
			defer stop()
			saved, err := authorityd.Backup(ctx, cfg, out, slog.New(slog.DiscardHandler), reporter(stderr, "backup"))
			if err != nil {
				return explainBackup(cfg, err)
			}
			b := saved.Begun
			fmt.Fprintf(stdout, "%s: %s, of revision %d.%d, taken %s\nsystem %s\nsha256 %x\n", shell.Word(saved.Path), backupfile.Size(b.GetBytes()),
				b.GetHead().GetEpoch(), b.GetHead().GetSequence(), b.GetTakenAt().AsTime().Format(time.RFC3339), b.GetSystemId(), saved.SHA256)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not be there yet")
	return cmd
}

func explainBackup(cfg authorityd.Config, err error) error {
	var called interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, backupfile.ErrExists):
		return daemon.Usage("name another file: a backup replaces none", "--out: %w", err)
	case errors.As(err, &called):
		return explain(cfg, err)
	}
	return advise(cfg, err)
}

func restoreCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	var from string
	var foreign, yes bool
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Put a backup in the place of the store, while no authority runs",
		Long: `Put a backup in the place of the store, while no authority runs. The backup is
verified whole before anything is touched, and the store of before stays beside
the new one, as gatehouse.db.before-restore-TIME.

A restore begins a new history. Every token that was issued before it is
revoked, and every session over: a node closes its sockets when it attaches to
the restored authority, or at its session fence. There is no way to keep tokens:
those that were redeemed since the backup would open another socket, and those
that were revoked since would be good again.

Locks, credentials and edge keys are as they were when the backup was taken. What
was locked, disabled or reissued since is not any more: the audit trail tells
what that was. The CA is not in the backup; the folder ca must be there.`,
		Example: `  gatehouse-authority restore --from /backups/gatehouse.backup --yes
  gatehouse-authority restore --from monday.backup --state ./state --yes`,
		Args: daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			switch {
			case from == "":
				return daemon.Usage("--from gatehouse.backup, for example", "name the backup with --from")
			case !yes:
				return daemon.Usage("--yes does it", "this puts %s in the place of the store in %s, and revokes every token that was issued", shell.Word(from), shell.Word(cfg.State))
			}
			done, err := authorityd.Restore(cfg, from, foreign, signed(reporter(stderr, "restore")))
			if err != nil {
				return explainRestore(cfg, err)
			}
			fmt.Fprintf(stdout, "restored the backup of %s, %s\nnew history: %d, at revision %d; every token of before is revoked\n",
				done.Backup.TakenAt.Format(time.RFC3339), backupfile.Size(uint64(done.Backup.Bytes)), done.Head.Epoch, done.Head.Sequence)
			if done.Kept != "" {
				fmt.Fprintf(stdout, "the store of before: %s\n", shell.Word(done.Kept))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the backup")
	f.BoolVar(&foreign, "force-foreign", false, "accept a backup of another system; its credentials are worth nothing unless its CA is here too")
	f.BoolVar(&yes, "yes", false, "do it: every token is revoked, and every session ends")
	return cmd
}

func compactCommand(p *daemon.Program[authorityd.Config], stdout, stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "compact",
		Short: "Give back the room that the store's file no longer uses, while no authority runs",
		Long: `Write the store's file anew without the room that it no longer uses, while no
authority runs; gatehouse compact does it while one runs. What the store holds
stays as it is, and no node notices but by the authority's absence.

It needs room for the new file beside the old one. Killed on the way, it leaves
the old one.`,
		Example: "  gatehouse-authority compact --state ./state",
		Args:    daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			done, err := authorityd.Compact(cfg, signed(reporter(stderr, "compact")))
			if errors.Is(err, authorityd.ErrInUse) {
				return &daemon.Failure{Exit: daemon.ExitFailure, Err: err, Hint: "stop the authority that works on " + shell.Word(cfg.State) + ", or use gatehouse compact, which does it while that runs"}
			}
			if err != nil {
				return explainStopped(cfg, err)
			}
			fmt.Fprintf(stdout, "compacted: %s before, %s now\n", backupfile.Size(uint64(done.Before)), backupfile.Size(uint64(done.After)))
			return nil
		},
	}
}

// explainStopped tells what an error means to who works on a stopped authority.
func explainStopped(cfg authorityd.Config, err error) error {
	if errors.Is(err, authorityd.ErrInUse) {
		return &daemon.Failure{Exit: daemon.ExitFailure, Err: err, Hint: "stop the authority that works on " + shell.Word(cfg.State) + ", and start it again afterwards"}
	}
	return advise(cfg, err)
}

// explainRestore tells what an error means to who restores a backup.
func explainRestore(cfg authorityd.Config, err error) error {
	switch {
	case errors.Is(err, authorityd.ErrForeign):
		return &daemon.Failure{Exit: daemon.ExitFailure, Err: err, Hint: "look for a backup of this system; --force-foreign takes this one, whose credentials are worth nothing unless its CA is here too"}
	case errors.Is(err, authorityd.ErrNotInitialised):
		return &daemon.Failure{Exit: daemon.ExitFailure, Err: err, Hint: "copy the folder ca of that authority to " + shell.Word(cfg.State) + " first: it is not in backups, and without it no credential counts"}
	}
	return explainStopped(cfg, err)
}
