// Command gatehouse-node accepts WebSockets, lets in who shows a token that the
// authority redeems, and passes on what they send once it is valid.
package main

import (
	"context"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/daemon"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/noded"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
)

// garbagePercent is how much garbage there may be, of what lives, half of what Go
// lets be: messages leave none, and what collecting it sooner costs a handshake is
// less than a microsecond.
const garbagePercent = 50

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	var p *daemon.Program[noded.Config]
	p = &daemon.Program[noded.Config]{
		Name:     "gatehouse-node",
		Short:    "Accept WebSockets and let in who shows a valid token",
		Defaults: noded.DefaultConfig(),
		Path:     "/etc/gatehouse/node.yaml",
		Environ:  environ,
		Validate: func(c *noded.Config) error { return c.Validate() },
		Check:    noded.Check,
		Warn:     noded.Warn,
		Run: func(ctx context.Context, c noded.Config) error {
			if !slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "GOGC=") }) {
				debug.SetGCPercent(garbagePercent)
			}
			log, queue := c.Log.Queue(stderr)
			defer queue.Close()
			d, err := noded.Open(c, log, queue.Lost)
			if err != nil {
				return err
			}
			defer ops.OnHangup(func() { d.Reload(p.Reload) })()
			return d.Run(ctx)
		},
		Signals: `
SIGHUP makes it read its settings, certificates and schema files anew. Limits,
origins, trusted proxies, certificates and schemas take effect at once, and no
socket is closed; other settings do at the next start. If anything is wrong, all
stay as they were.`,
		Example: `  gatehouse-node --config /etc/gatehouse/node.yaml
  gatehouse-node config check --config ./node.yaml`,
	}
	return p.Execute(ctx, p.Command(stdout, stderr), args, stderr)
}
