package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/backupfile"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) compactCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compact", Short: "Give back the room that the store's file no longer uses, while the authority goes on",
		Long: `Write the file of the authority's store anew, in order, without the room that
it no longer uses, and put that in its place in one step. What the store holds
stays as it is: no token, session or revocation changes.

Meanwhile the authority keeps its nodes and answers what only reads. What must
write waits, about as long as the disk needs to write what is left: handshakes
that wait for too long are told to come back, and a revocation has no effect
before the end. It needs room for the new file beside the old one. Interrupted,
or on a full disk, it leaves the old one.

On a stopped authority, gatehouse-authority compact does the same.`,
		Example: "  gatehouse compact\n  gatehouse compact -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			done, err := c.compact(cmd.Context(), cl)
			if err != nil {
				return cl.explain(cmd.Context(), err)
			}
			if done == nil {
				return failed(exitFailure, "look at the size of its file, and run it again", "the authority did not say how it ended")
			}
			if c.format == formatJSON {
				return c.printValue(struct {
					Before uint64 `json:"before"`
					After  uint64 `json:"after"`
				}{done.GetBefore(), done.GetAfter()})
			}
			return c.printf("compacted: %s before, %s now\n", backupfile.Size(done.GetBefore()), backupfile.Size(done.GetAfter()))
		},
	}
}

// compact is nil without an error where the authority has not said that it ended.
func (c *cli) compact(ctx context.Context, cl *client) (done *pb.CompactEnded, err error) {
	progress := c.startProgress()
	defer progress.end()
	stream, err := cl.maintenance.Compact(ctx, &pb.CompactRequest{})
	if err != nil {
		return nil, err
	}
	meter := backupfile.Meter{Now: c.now}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return done, nil
		case err != nil:
			return nil, err
		}
		if p := m.GetProgress(); p != nil {
			progress.set(meter.Text(p.GetWritten(), p.GetAtMost()))
		}
		done = m.GetEnded()
	}
}
