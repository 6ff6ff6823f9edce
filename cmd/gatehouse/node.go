package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) nodeCommand() *cobra.Command {
	cmd := verbs("node", "See the nodes, and stop one")
	cmd.AddCommand(c.nodeDisableCommand(), c.nodeForgetCommand(), &cobra.Command{
		Use: "list", Short: "List the registered node instances",
		Long: `List the node instances that are registered: those that a receipt waits for, and
how they stand:

  attached  it keeps up with the authority
  behind N  it is attached, but lacks N entries of the log, the first of them
            for longer than a heartbeat interval; at its admission fence it
            admits nobody any more
  silent    nothing was heard of it for longer than the admission fence, which
            gatehouse_authority_nodes_silent counts: it admits nobody, and its
            sockets close themselves at its session fence
  detached  it is not attached, but was heard of just now`,
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

// nodeDisableCommand is credential disable of nodes alone, and the help for a
// stolen one.
func (c *cli) nodeDisableCommand() *cobra.Command {
	cmd := c.credentialSwitch("disable", "Stop a node: its calls and streams end, and its sockets at its fence",
		"  gatehouse node disable node-7 --reason stolen",
		func(cmd *cobra.Command, cl *client, name, reason string) (*pb.Credential, error) {
			resp, err := cl.credentials.DisableCredential(cmd.Context(), &pb.DisableCredentialRequest{Name: name, Reason: reason, Role: pb.Role_ROLE_NODE})
			return resp.GetCredential(), err
		})
	cmd.Long = cmd.Short + `.

A stolen node knows the edge keys and its own certificate. The certificate is of
no use from then on; gatehouse key rotate --now makes the keys useless too.`
	disable := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := disable(cmd, args)
		if err == nil {
			c.note("if it was stolen, so were the edge keys: gatehouse key rotate --now makes them useless")
		}
		return err
	}
	return cmd
}

// nodeForgetCommand gives up an instance that nothing else ends the wait for.
func (c *cli) nodeForgetCommand() *cobra.Command {
	req := &pb.ForgetNodeRequest{}
	var yes bool
	cmd := &cobra.Command{
		Use: "forget INSTANCE --reason WHY", Short: "Give up a node instance that is lost for good",
		Long: `Give up a node instance that is lost for good, as with its machine. Receipts
wait for every instance that is registered. One that is silent is released by
itself once its sockets have surely ended: at its session fence or, where that
is 0, when the longest session that it may have is over. Who knows that it has
no sockets any more need not wait for that: its sessions are over at once, and
receipts say "forgotten by" and whose word it was.

It is refused while the instance is attached, may admit sockets still, or has a
session fence to end by. One that comes back all the same ends what it had.`,
		Example: `  gatehouse node forget 8f14e45fceea167a5a36dedd4bea2543 --reason "machine burnt"
  gatehouse node forget 8f14e45fceea167a5a36dedd4bea2543 --reason "machine burnt" --dry-run
  gatehouse node list -o json | jq -r '.nodes[] | select(.attached | not) | .instance_id'`,
		Args: oneArg("an instance's id"), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.GetReason() == "" {
				return usage(cmd.CommandPath()+" --help has examples", "--reason is required")
			}
			if !isID(args[0]) {
				return usage("gatehouse node list shows ids", "%q is not an instance's id: want 32 hexadecimal digits", args[0])
			}
			req.InstanceId = args[0]
			return c.forgetNode(cmd.Context(), req, yes)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&req.Reason, "reason", "", "why, for the audit trail (required)")
	f.BoolVar(&req.DryRun, "dry-run", false, "only tell whether it may be forgotten, and what it is")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *cli) forgetNode(ctx context.Context, req *pb.ForgetNodeRequest, yes bool) error {
	if !req.GetDryRun() && !yes && !c.terminal {
		return usage("add --yes", "if the node lives, receipts will say that it has no sockets though it has, and there is no terminal to ask at")
	}
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	if !req.GetDryRun() && !yes {
		would := proto.CloneOf(req)
		would.DryRun = true
		resp, err := cl.sessions.ForgetNode(ctx, would)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("gatehouse: instance %s of %s at %s, last heard of %s: receipts will take your word that it has no sockets.",
			req.GetInstanceId(), resp.GetNode().GetName(), resp.GetNode().GetAddress(), c.relative(resp.GetNode().GetLastHeartbeatAt()))
		if err := c.confirm(ctx, what, resp.GetNode().GetName()); err != nil {
			return err
		}
	}
	resp, err := cl.sessions.ForgetNode(ctx, req)
	switch {
	case err != nil:
		return err
	case c.format == formatJSON:
		return c.printMessage(resp)
	}
	done := "forgotten"
	if req.GetDryRun() {
		done = "would be forgotten"
	}
	return c.printf("%s: %s %s\n", done, plain(resp.GetNode().GetName()), plain(resp.GetNode().GetInstanceId()))
}

func (c *cli) nodeRow(n *pb.Node) []string {
	applied := ""
	if n.GetApplied() != nil {
		applied = revisionText(n.GetApplied())
	}
	return []string{
		n.GetName(), n.GetInstanceId(), nodeState(n), fmt.Sprint(n.GetSessions()), applied,
		c.relative(n.GetLastHeartbeatAt()), n.GetVersion(), n.GetAddress(),
	}
}

func nodeState(n *pb.Node) string {
	state := n.GetState()
	switch {
	case state == pb.NodeState_NODE_STATE_BEHIND:
		return fmt.Sprintf("behind %d", n.GetBehind())
	case state == pb.NodeState_NODE_STATE_UNSPECIFIED && n.GetAttached(): // of an older authority
		state = pb.NodeState_NODE_STATE_ATTACHED
	case state == pb.NodeState_NODE_STATE_UNSPECIFIED:
		state = pb.NodeState_NODE_STATE_DETACHED
	}
	return label(state)
}
