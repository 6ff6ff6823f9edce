package main

import (
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) nodeCommand() *cobra.Command {
	cmd := verbs("node", "See the nodes, and stop one")
	cmd.AddCommand(c.nodeDisableCommand(), &cobra.Command{
		Use: "list", Short: "List the registered node instances",
		Long: `List the node instances that are registered: those that a receipt waits for. One
that is silent is not attached now; its sockets close themselves at its fence.`,
		Example: "  gatehouse node list\n  gatehouse node list -o json | jq '[.nodes[].sessions] | add'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			out := c.newList("nodes", "NODE", "INSTANCE", "STATE", "SESSIONS", "APPLIED", "HEARTBEAT", "VERSION", "ADDRESS")
			_, err = pages(0, func(size int32, from string) (int, string, error) {
				resp, err := cl.sessions.ListNodes(cmd.Context(), &pb.ListNodesRequest{PageSize: size, PageToken: from})
				if err != nil {
					return 0, "", err
				}
				for _, n := range resp.GetNodes() {
					out.add(n, func() []string { return c.nodeRow(n) })
				}
				return len(resp.GetNodes()), resp.GetNextPageToken(), out.flush()
			})
			if err != nil {
				return err
			}
			return out.end(false)
		},
	})
	return cmd
}

// nodeDisableCommand is credential disable, and the help for a stolen node.
func (c *cli) nodeDisableCommand() *cobra.Command {
	cmd := c.credentialDisableCommand()
	cmd.Short = "Stop a node: its calls and streams end, and its sockets at its fence"
	cmd.Long = cmd.Short + `.

A stolen node knows the edge keys and its own certificate. The certificate is of
no use from then on; gatehouse key rotate --now makes the keys useless too.`
	cmd.Example = "  gatehouse node disable node-7 --reason stolen"
	return cmd
}

func (c *cli) nodeRow(n *pb.Node) []string {
	state, applied := "silent", ""
	if n.GetAttached() {
		state = "attached"
	}
	if n.GetApplied() != nil {
		applied = revisionText(n.GetApplied())
	}
	return []string{
		n.GetName(), n.GetInstanceId(), state, fmt.Sprint(n.GetSessions()), applied,
		c.relative(n.GetLastHeartbeatAt()), n.GetVersion(), n.GetAddress(),
	}
}
