// Package daemon is the command line that the daemons share: run, config check,
// config print and version.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// Program is a daemon with a configuration of type T.
type Program[T any] struct {
	Name, Short, Example string
	Defaults             T
	Path                 string   // of the configuration file where nobody names one
	Environ              []string // as os.Environ gives it
	Validate             func(*T) error
	Run                  func(context.Context, T) error

	source settings.Source
}

// usageError is what the one who typed the command can mend.
type usageError struct{ error }

// Usage makes such an error.
func Usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Command is the root command, which runs the daemon.
func (p *Program[T]) Command(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: p.Name, Short: p.Short, Example: p.Example, Args: cobra.NoArgs,
		Long: p.Short + `.

Settings come from the configuration file, the environment and flags; flags win
over the environment, the environment over the file, the file over defaults.
SIGTERM or SIGINT ends it gracefully; a second one ends it at once.`,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Load(cmd)
			if err != nil {
				return err
			}
			ctx, stop := ops.UntilSignal(cmd.Context())
			defer stop()
			return p.Run(ctx, cfg)
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	p.source = settings.Source{Path: p.Path, Environ: p.Environ, Flags: root.PersistentFlags(), Ignore: []string{"GATEHOUSE_TEST_*"}}
	p.source.BindFlags(p.Defaults)
	root.AddCommand(p.configCommand(stdout), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			fmt.Fprintf(stdout, "%s %s (%s %s/%s)\n", p.Name, pb.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	})
	return root
}

func (p *Program[T]) configCommand(stdout io.Writer) *cobra.Command {
	config := &cobra.Command{Use: "config", Short: "Check or print the configuration", Args: cobra.NoArgs}
	config.AddCommand(&cobra.Command{
		Use: "check", Short: "Load the configuration as a start does and report every problem",
		Example: "  " + p.Name + " config check --config ./" + strings.TrimPrefix(p.Name, "gatehouse-") + ".yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := p.Load(cmd); err != nil {
				return err
			}
			path, _ := p.source.File()
			fmt.Fprintf(stdout, "%s: ok\n", path)
			return nil
		},
	}, &cobra.Command{
		Use: "print", Short: "Print the configuration in force, and where each value was set",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, origins, err := settings.Load(p.Defaults, p.source)
			if err != nil {
				return usageError{err}
			}
			return settings.Print(stdout, cfg, settings.PrintOptions{Origins: origins})
		},
	}, &cobra.Command{
		Use: "reference", Short: "Print every setting with its default, variable, flag and meaning, as Markdown",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(stdout, "# Settings of %s\n\nWritten by `%[1]s config reference`. Flags win over the environment, the environment over the file, the file over defaults.\n\n", p.Name)
			return settings.Reference(stdout, p.Defaults)
		},
	})
	return config
}

// Load reads and checks the configuration.
func (p *Program[T]) Load(*cobra.Command) (T, error) {
	cfg, origins, err := settings.Load(p.Defaults, p.source)
	if err == nil {
		err = origins.Locate(p.Validate(&cfg))
	}
	if err != nil {
		return cfg, usageError{err}
	}
	return cfg, nil
}

// Execute runs the command line and returns the exit code.
func (p *Program[T]) Execute(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(stderr, "%s: error: %s\n", p.Name, line)
	}
	if errors.As(err, new(usageError)) || strings.HasPrefix(err.Error(), "unknown command") || strings.Contains(err.Error(), "arg(s)") {
		fmt.Fprintf(stderr, "%s: hint: run %[1]s --help\n", p.Name)
		return exitUsage
	}
	return exitFailure
}
