package main

import (
	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) sessionCommand() *cobra.Command {
	cmd := verbs("session", "See who is connected, and close sockets")
	cmd.AddCommand(c.sessionListCommand(), c.sessionCloseCommand())
	return cmd
}

func (c *cli) sessionListCommand() *cobra.Command {
	req := &pb.ListSessionsRequest{}
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List live sessions, the first to expire first",
		Long: "List the live sessions, the first to expire first. Filters that are given must\nall match. Rows are written as they come.",
		Example: `  gatehouse session list
  gatehouse session list --subject u42
  gatehouse session list --node node-1 -o json | jq '.sessions | length'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(limit); err != nil {
				return err
			}
			if err := checkFilters(cmd, req.GetIpPrefix()); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			out := c.newList("sessions", "SESSION", "TENANT", "SUBJECT", "AUDIENCE", "NODE", "CLIENT IP", "STARTED", "EXPIRES", "TOKEN")
			more, err := pages(limit, func(size int32, from string) (int, string, error) {
				req.PageSize, req.PageToken = size, from
				resp, err := cl.sessions.ListSessions(cmd.Context(), req)
				if err != nil {
					return 0, "", err
				}
				for _, s := range resp.GetSessions() {
					out.add(s, func() []string {
						return []string{
							s.GetSessionId(), s.GetTenant(), s.GetSubject(), s.GetAudience(), s.GetNode(), s.GetClientIp(),
							c.relative(s.GetStartedAt()), c.relative(s.GetExpiresAt()), s.GetTokenId(),
						}
					})
				}
				return len(resp.GetSessions()), resp.GetNextPageToken(), out.flush()
			})
			if err != nil {
				return err
			}
			return out.end(more)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&req.Tenant, "tenant", "", "sessions of this tenant")
	f.StringVar(&req.Subject, "subject", "", "sessions of this subject")
	f.StringVar(&req.IpPrefix, "ip-prefix", "", "sessions whose token or client address lies in this CIDR prefix")
	f.StringVar(&req.Node, "node", "", "sessions on this node")
	f.StringVar(&req.TokenId, "token", "", "sessions that the token with this id opened")
	f.StringVar(&req.Issuer, "issuer", "", "sessions of tokens that this credential issued")
	limitFlag(f, &limit, "sessions")
	return cmd
}

func (c *cli) sessionCloseCommand() *cobra.Command {
	e := ending{verb: "close", past: "session closed"}
	cmd := &cobra.Command{
		Use: "close SESSION_ID", Short: "Close one session's socket, with a receipt",
		Long: `Close one session's socket: the same as gatehouse revoke --session. The client
gets close code 4501 and must not come back with the same token.`,
		Example: "  gatehouse session close 9b2f61d04c7a4e8fb3d5a06c1e97f248\n" +
			"  gatehouse session close 9b2f61d04c7a4e8fb3d5a06c1e97f248 --reason \"asked by the user\" --no-wait",
		Args: oneArg("a session id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.check(cmd.Flags()); err != nil {
				return err
			}
			e.sel = selector{by: "session", value: args[0]}
			if err := e.sel.check(); err != nil {
				return err
			}
			return c.revoke(cmd.Context(), e)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&e.reason, "reason", "", "why, for the audit trail")
	e.waitFlags(f)
	return cmd
}
