package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/backupfile"
)

func (c *cli) backupCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "backup", Short: "Save the authority's store to a file, while it goes on working",
		Long: `Save all that the authority has committed at this moment to a new file: tokens,
sessions, revocations, locks, credentials and edge keys. What is committed later
is not in it. The file is complete, verified and on disk, or not there at all.

It opens no socket, but whoever has it knows the users' ids and the edge keys:
keep it as the store itself. The CA is not in it: copy the authority's folder ca
too, once.

gatehouse-authority restore puts it back.`,
		Example: "  gatehouse backup --out gatehouse-monday.backup\n  gatehouse backup --out /backups/gatehouse.backup -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usage("--out gatehouse.backup, for example", "say where the backup goes with --out")
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			saved, err := c.saveBackup(cmd.Context(), cl, out)
			if err != nil {
				return err
			}
			return c.printBackup(saved)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not be there yet")
	return cmd
}

func (c *cli) saveBackup(ctx context.Context, cl *client, out string) (*backupfile.Saved, error) {
	progress := c.startProgress()
	defer progress.end()
	meter := backupfile.Meter{Now: c.now}
	saved, err := backupfile.Save(ctx, cl.maintenance, out, func(done, total uint64) { progress.set(meter.Text(done, total)) })
	var called interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, backupfile.ErrExists):
		return nil, usage("name another file: a backup replaces none", "--out: %w", err)
	case errors.As(err, &called):
		return nil, cl.explain(ctx, err)
	case errors.Is(err, backupfile.ErrBroken):
		return nil, failed(exitFailure, "run it again", "%w", err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, failed(exitFailure, "make the folder, or name another", "--out: %w", err)
	case err != nil:
		return nil, failed(exitFailure, "nothing is kept of it", "--out: %w", err)
	}
	return saved, nil
}

func (c *cli) printBackup(saved *backupfile.Saved) error {
	b := saved.Begun
	if c.format == formatJSON {
		return c.printValue(struct {
			Path     string `json:"path"`
			SystemID string `json:"system_id"`
			Revision string `json:"revision"`
			TakenAt  string `json:"taken_at"`
			Bytes    uint64 `json:"bytes"`
			SHA256   string `json:"sha256"`
		}{saved.Path, b.GetSystemId(), revisionText(b.GetHead()), b.GetTakenAt().AsTime().Format(time.RFC3339Nano), b.GetBytes(), hex.EncodeToString(saved.SHA256[:])})
	}
	return c.printf("%s: %s, of revision %s, taken %s\nsystem %s\nsha256 %x\n",
		plain(saved.Path), backupfile.Size(b.GetBytes()), revisionText(b.GetHead()), c.when(b.GetTakenAt()), plain(b.GetSystemId()), saved.SHA256)
}
