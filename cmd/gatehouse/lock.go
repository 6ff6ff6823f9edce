package main

import (
	"context"

	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const lockHelp = `Deny a user, a tenant, addresses or an issuer every token and every socket until
gatehouse unlock lifts the lock, and close the sockets that are open. Unlike a
revocation, a lock also denies what is issued after it.

--reason is required. --tenant, --ip-prefix and --issuer can hit many users:
they show what they would hit, and ask for the selector's value to be typed,
unless --yes is given. The command waits for the nodes as gatehouse revoke does.`

func (c *cli) lockCommand() *cobra.Command {
	e := ending{verb: "lock", past: "locked"}
	cmd := &cobra.Command{
		Use: "lock SELECTOR --reason WHY", Short: "Deny a user, tenant, address or issuer until unlocked", Long: lockHelp,
		Example: `  gatehouse lock --subject u42 --reason "account under investigation"
  gatehouse lock --ip-prefix 203.0.113.0/24 --reason "credential stuffing" --dry-run
  gatehouse lock --issuer login-eu --reason "key leaked" --yes -o json | jq -r .lock_id`,
		Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.check(cmd.Flags()); err != nil {
				return err
			}
			var err error
			if e.sel, _, err = parseSelector(cmd, ""); err != nil {
				return err
			}
			if e.reason == "" {
				return usage("whoever lifts the lock will want to know", "--reason is required")
			}
			return c.lock(cmd.Context(), e)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	selectorFlags(f, "token", "session", allSubjects)
	e.flags(f)
	return cmd
}

func (c *cli) lock(ctx context.Context, e ending) error {
	return c.end(ctx, &e, func(ctx context.Context, cl *client, dryRun bool) (*ended, error) {
		resp, err := cl.revocations.Lock(ctx, &pb.LockRequest{
			RequestId: e.requestID, Selector: e.sel.lockProto(), Reason: e.reason, DryRun: dryRun,
		})
		return &ended{tokens: resp.GetTokens(), sessions: resp.GetSessions(), revision: resp.GetRevision(), lockID: resp.GetLockId()}, err
	})
}

func (c *cli) unlockCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "unlock LOCK_ID --reason WHY", Short: "Lift a lock",
		Long:    "Lift a lock. What it closed stays closed: users get a new token and connect\nagain.",
		Example: "  gatehouse unlock 3f9a6c0d2b7e4815a1c45d90f2b86e37 --reason \"cleared by support\"",
		Args:    oneArg("a lock id"), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage(cmd.CommandPath()+" --help has examples", "--reason is required")
			}
			if !isID(args[0]) {
				return usage("gatehouse locks lists ids", "%q is not a lock id: want 32 hexadecimal digits", args[0])
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			id, err := c.newRequestID() // what is sent again by the transport counts once
			if err != nil {
				return err
			}
			resp, err := cl.revocations.Unlock(cmd.Context(), &pb.UnlockRequest{LockId: args[0], Reason: reason, RequestId: id})
			switch {
			case err != nil:
				return err
			case c.format == formatJSON:
				return c.printMessage(resp)
			}
			return c.printf("unlocked: %s\n", plain(args[0]))
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit trail (required)")
	return cmd
}

func (c *cli) locksCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "locks", Short: "List the standing locks",
		Example: "  gatehouse locks\n  gatehouse locks -o json | jq -r '.locks[].lock_id'",
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
			out := c.newList("locks", "LOCK", "DENIES", "SINCE", "BY", "REASON")
			more, err := pages(limit, func(size int32, from string) (int, string, error) {
				resp, err := cl.revocations.ListLocks(cmd.Context(), &pb.ListLocksRequest{PageSize: size, PageToken: from})
				if err != nil {
					return 0, "", err
				}
				for _, l := range resp.GetLocks() {
					out.add(l, func() []string {
						return []string{l.GetLockId(), lockSelectorOf(l.GetSelector()).String(), c.relative(l.GetCommittedAt()), l.GetActor(), l.GetReason()}
					})
				}
				return len(resp.GetLocks()), resp.GetNextPageToken(), out.flush()
			})
			if err != nil {
				return err
			}
			return out.end(more)
		},
	}
	limitFlag(cmd.Flags(), &limit, "locks")
	return cmd
}
