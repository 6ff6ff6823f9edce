package main

import (
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) keyCommand() *cobra.Command {
	cmd := verbs("key", "See and rotate the edge keys, by which nodes throw forgeries away")
	cmd.AddCommand(c.keyListCommand(), c.keyRotateCommand())
	return cmd
}

func (c *cli) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the edge keys, oldest first",
		Example: "  gatehouse key list\n  gatehouse key list -o json | jq '.edge_keys[] | select(.active) | .key_id'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			resp, err := cl.credentials.ListEdgeKeys(cmd.Context(), &pb.ListEdgeKeysRequest{})
			if err != nil {
				return err
			}
			out := c.newList("edge_keys", "KEY", "STATE", "CREATED", "ACTIVE FROM", "RETIRED")
			for _, k := range resp.GetKeys() {
				out.add(k, func() []string {
					state := "overlaps"
					switch {
					case k.GetActive():
						state = "active"
					case k.GetRetiredAt() == nil:
						state = "next"
					}
					return []string{fmt.Sprint(k.GetKeyId()), state, c.relative(k.GetCreatedAt()), c.relative(k.GetActiveFrom()), c.relative(k.GetRetiredAt())}
				})
			}
			return out.end(false)
		},
	}
}

func (c *cli) keyRotateCommand() *cobra.Command {
	var req pb.RotateEdgeKeysRequest
	var yes bool
	cmd := &cobra.Command{
		Use: "rotate --reason WHY", Short: "Make a new edge key ahead of its time",
		Long: `Make a new edge key ahead of its time. Tokens are made with it once every node
knows it, and the key before it is kept until its last token has expired.

With --now tokens are made with it at once and all other keys are forgotten:
tokens that are out open no socket any more, and what a stolen node knows lets
no forgery past the others. Sockets that are open stay open.`,
		Example: `  gatehouse key rotate --reason "yearly"
  gatehouse key rotate --now --yes --reason "node-7 stolen"`,
		Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.GetReason() == "" {
				return usage(cmd.CommandPath()+" --help has examples", "--reason is required")
			}
			if req.GetDropOthers() && !yes {
				if !c.terminal {
					return usage("add --yes", "--now makes every token that is out useless, and there is no terminal to ask at")
				}
				if err := c.confirm(cmd.Context(), "Every token that is out will open no socket any more.", "now"); err != nil {
					return err
				}
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			resp, err := cl.credentials.RotateEdgeKeys(cmd.Context(), &req)
			switch {
			case err != nil:
				return err
			case c.format == formatJSON:
				return c.printMessage(resp)
			}
			from := "from now on"
			if at := resp.GetKey().GetActiveFrom(); at.AsTime().After(c.now()) {
				from = c.relative(at)
			}
			return c.printf("rotated: key %d makes tokens %s; others forgotten: %d\n", resp.GetKey().GetKeyId(), from, resp.GetDropped())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&req.Reason, "reason", "", "why, for the audit trail (required)")
	f.BoolVar(&req.DropOthers, "now", false, "make tokens with it at once, and forget all other keys")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
