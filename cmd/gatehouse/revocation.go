package main

import (
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) revocationCommand() *cobra.Command {
	cmd := verbs("revocation", "See revocations and their receipts")
	cmd.AddCommand(c.revocationListCommand(), c.revocationShowCommand())
	return cmd
}

func (c *cli) revocationListCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List the revocations that can still hit something, oldest first",
		Example: "  gatehouse revocation list\n  gatehouse revocation list -o json | jq '.revocations[] | select(.actor == \"alice\")'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(limit); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			out := c.newList("revocations", "REVISION", "COMMITTED", "GRACE ENDS", "HITS", "BY", "REASON")
			more, err := pages(limit, func(size int32, from string) (int, string, error) {
				resp, err := cl.revocations.ListRevocations(cmd.Context(), &pb.ListRevocationsRequest{PageSize: size, PageToken: from})
				if err != nil {
					return 0, "", err
				}
				for _, r := range resp.GetRevocations() {
					out.add(r, func() []string {
						return []string{revisionText(r.GetRevision()), c.relative(r.GetCommittedAt()), c.relative(r.GetGraceUntil()), selectorOf(r.GetSelector()).String(), r.GetActor(), r.GetReason()}
					})
				}
				return len(resp.GetRevocations()), resp.GetNextPageToken(), out.flush()
			})
			if err != nil {
				return err
			}
			return out.end(more)
		},
	}
	limitFlag(cmd.Flags(), &limit, "revocations")
	return cmd
}

func (c *cli) revocationShowCommand() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "show REVISION", Short: "Show who has enforced a revocation or a lock",
		Long: `Show the receipt of a revocation or a lock: which nodes have enforced it by now.
The exit code is 6 while any has not. A node "in grace" waits for sockets to
renew, and closes those that have not when that ends.

A revision is EPOCH.SEQUENCE. SEQUENCE alone, as audit trails have it, is one of
the authority's present epoch, which only a restore from a backup ends.`,
		Example: "  gatehouse revocation show 8410234.42\n  gatehouse revocation show 42 --wait --timeout 1h",
		Args:    oneArg("a revision"),
		RunE: func(cmd *cobra.Command, args []string) error {
			rev, err := parseRevision(args[0])
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return usagef("--timeout: %v is not above 0", timeout)
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			resp, err := cl.revocations.GetReceipt(cmd.Context(), &pb.GetReceiptRequest{Revision: rev})
			if err != nil {
				return err
			}
			r := resp.GetReceipt()
			if wait && !r.GetComplete() {
				if r, err = c.waitReceipt(cmd.Context(), cl, r.GetRevision(), timeout); err != nil {
					return err
				}
			}
			return c.printReceipt(r)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&wait, "wait", false, "wait until every node has enforced it")
	f.DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	return cmd
}

func (c *cli) printReceipt(r *pb.Receipt) error {
	if c.format == formatJSON {
		if err := c.printMessage(r); err != nil {
			return err
		}
	} else if err := c.printf("revision %s, committed %s: %s\n", revisionText(r.GetRevision()), c.when(r.GetCommittedAt()), receiptText(r)); err != nil {
		return err
	} else if err := c.printRows(r); err != nil {
		return err
	}
	if !r.GetComplete() {
		return c.unconfirmed(r)
	}
	return nil
}
