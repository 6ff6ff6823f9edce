// Command gatehouse-node accepts WebSockets, lets in who shows a token that the
// authority redeems, and passes on what they send once it is valid.
package main

import (
	"context"
	"io"
	"os"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/daemon"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/noded"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &daemon.Program[noded.Config]{
		Name:     "gatehouse-node",
		Short:    "Accept WebSockets and let in who shows a valid token",
		Defaults: noded.DefaultConfig(),
		Path:     "/etc/gatehouse/node.yaml",
		Environ:  environ,
		Validate: func(c *noded.Config) error { return c.Validate() },
		Check:    noded.Check,
		Warn:     noded.Warn,
		Run: func(ctx context.Context, c noded.Config) error {
			d, err := noded.Open(c, c.Log.Logger(stderr))
			if err != nil {
				return err
			}
			defer ops.OnHangup(d.ReloadSchemas)()
			return d.Run(ctx)
		},
		Signals: "\nSIGHUP makes it read the schema files anew; if one is wrong, all stay as they were.",
		Example: `  gatehouse-node --config /etc/gatehouse/node.yaml
  gatehouse-node config check --config ./node.yaml`,
	}
	return p.Execute(ctx, p.Command(stdout, stderr), args, stderr)
}
