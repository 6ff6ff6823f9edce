// Package daemon is the command line that the daemons share: run, config check,
// config print and version.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Exit codes.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
)

// Program is a daemon with a configuration of type T.
type Program[T any] struct {
	Name, Short, Example string
	Signals              string // what others do; goes at the end of its help
	Defaults             T
	Path                 string   // of the configuration file where nobody names one
	Environ              []string // as os.Environ gives it
	Validate             func(*T) error
	Check                func(T) error    // what else a start finds out before it does anything
	Warn                 func(T) []string // what config check tells beside; may be nil
	Run                  func(context.Context, T) error

	source settings.Source
}

// Failure is an error as the one who typed the command gets it.
type Failure struct {
	Exit int
	Hint string // what to do about it; may be empty
	Err  error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Usage is a mistake in the command line.
func Usage(hint, format string, args ...any) error {
	return &Failure{ExitUsage, hint, fmt.Errorf(format, args...)}
}

// helpOf is the hint at what a command takes.
func helpOf(cmd *cobra.Command) string { return cmd.CommandPath() + " --help shows how" }

// helpCommand is cobra's, but for a name that it does not know.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return Usage(helpOf(cmd.Root()), "no command is called %q", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// completeNoFiles keeps the shell from offering files where commands take none.
func completeNoFiles(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, sub := range cmd.Commands() {
		completeNoFiles(sub)
	}
}

// NoArgs refuses positional arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return Usage(helpOf(cmd), "%s has no command %q", cmd.CommandPath(), args[0])
	}
	return Usage(helpOf(cmd), "%s takes no argument, but got %q", cmd.CommandPath(), args[0])
}

// NeedsVerb makes a command that does nothing by itself refuse to do nothing.
func NeedsVerb(cmd *cobra.Command) {
	cmd.Args = NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return Usage(helpOf(cmd), "%s needs a command", cmd.CommandPath())
	}
}

// Command is the root command, which runs the daemon.
func (p *Program[T]) Command(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: p.Name, Short: p.Short, Example: p.Example, Args: NoArgs,
		Long: p.Short + `.

Settings come from the configuration file, the environment and flags; flags win
over the environment, the environment over the file, the file over defaults.
Relative paths in the file are relative to its folder.
SIGTERM or SIGINT ends it gracefully; a second one ends it at once.` + p.Signals,
		SilenceErrors: true, SilenceUsage: true, Version: pb.Version,
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
	version := fmt.Sprintf("%s %s (%s %s/%s)\n", p.Name, pb.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	root.SetVersionTemplate(version)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return Usage(helpOf(cmd), "%w", err) })
	p.source = settings.Source{Path: p.Path, Environ: p.Environ, Flags: root.PersistentFlags(), Ignore: []string{"GATEHOUSE_TEST_*"}}
	p.source.BindFlags(p.Defaults)
	root.AddCommand(p.configCommand(stdout), &cobra.Command{
		Use: "version", Short: "Print the version", Args: NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(stdout, version)
			return err
		},
	})
	return root
}

func (p *Program[T]) configCommand(stdout io.Writer) *cobra.Command {
	config := &cobra.Command{Use: "config", Short: "Check or print the configuration"}
	NeedsVerb(config)
	config.AddCommand(&cobra.Command{
		Use: "check", Short: "Load the configuration as a start does and report every problem",
		Example: "  " + p.Name + " config check --config ./" + strings.TrimPrefix(p.Name, "gatehouse-") + ".yaml",
		Args:    NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := p.Reload()
			if err != nil {
				return p.misconfigured(err)
			}
			if p.Warn != nil {
				for _, w := range p.Warn(cfg) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: warning: %s\n", p.Name, w)
				}
			}
			path, _ := p.source.File()
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
				path = "no file " + path + ": defaults, environment and flags"
			}
			_, err = fmt.Fprintf(stdout, "%s: ok\n", path)
			return err
		},
	}, &cobra.Command{
		Use: "print", Short: "Print the configuration in force, and where each value was set",
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, origins, err := settings.Load(p.Defaults, p.source)
			if err != nil {
				return p.misconfigured(err)
			}
			return settings.Print(stdout, cfg, settings.PrintOptions{Origins: origins})
		},
	}, &cobra.Command{
		Use: "reference", Short: "Print every setting with its default, variable, flag and meaning, as Markdown",
		Args: NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(stdout, "# Settings of %s\n\nWritten by `%[1]s config reference`. Flags win over the environment, the environment over the file, the file over defaults. "+
				"Relative paths in the file, and those of defaults beside a file, are relative to its folder; in variables and flags they are relative to the working directory.\n\n", p.Name)
			return settings.Reference(stdout, p.Defaults)
		},
	})
	return config
}

// Load reads and checks the configuration.
func (p *Program[T]) Load(*cobra.Command) (T, error) {
	cfg, origins, form := settings.Load(p.Defaults, p.source)
	if err := origins.Beside(form, p.Validate(&cfg)); err != nil {
		return cfg, p.misconfigured(err)
	}
	return cfg, nil
}

// Reload reads the configuration anew, as it was found at the start, and finds out
// what a start would. Errors name where in the file what is wrong was set.
func (p *Program[T]) Reload() (T, error) {
	cfg, origins, form := settings.Load(p.Defaults, p.source)
	invalid := p.Validate(&cfg)
	return cfg, origins.Beside(form, invalid, p.Check(cfg))
}

func (p *Program[T]) misconfigured(err error) error {
	return Usage(p.Name+" config reference lists the settings", "%w", err)
}

// Execute runs the command line and returns the exit code.
func (p *Program[T]) Execute(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.InitDefaultCompletionCmd(args...)
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			NeedsVerb(cmd)
		}
	}
	completeNoFiles(root)
	help := helpCommand()
	root.SetHelpCommand(help)
	usage := settings.UsageTemplate("--config")
	help.SetUsageTemplate(usage)
	for _, cmd := range root.Commands() { // the root keeps cobra's, which has the flags of all settings
		cmd.SetUsageTemplate(usage)
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	f := &Failure{Exit: ExitFailure, Err: err}
	errors.As(err, &f)
	for line := range strings.Lines(f.Error()) {
		fmt.Fprintf(stderr, "%s: error: %s\n", p.Name, strings.TrimSuffix(line, "\n"))
	}
	if f.Hint != "" {
		fmt.Fprintf(stderr, "%s: hint: %s\n", p.Name, f.Hint)
	}
	return f.Exit
}
