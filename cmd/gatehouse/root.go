package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const rootHelp = `Issue handshake tokens, see who is connected, and revoke with a receipt.

gatehouse calls an authority over gRPC with a certificate or an API key. Without
settings it finds a gatehouse dev that runs on this machine.

Results go to standard output, all else to standard error; -o json makes both
JSON. The exit code tells how it went: see gatehouse help exit-codes.`

const rootExample = `  gatehouse token issue --subject u42 --audience chat
  gatehouse token list --subject u42
  gatehouse session list --tenant acme
  gatehouse revoke --subject u42 --reason "laptop stolen"
  gatehouse revoke --token-stdin < leaked.txt
  gatehouse schema lint messages.json`

func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "gatehouse", Short: "Issue, see and revoke handshake tokens", Long: rootHelp, Example: rootExample,
		SilenceErrors: true, SilenceUsage: true, DisableAutoGenTag: true, Version: pb.Version,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetUsageTemplate(settings.UsageTemplate("-o json and --address"))
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(cmd.CommandPath()+" --help lists the flags", "%w", err)
	})
	root.SetHelpCommand(helpCommand())

	flags := root.PersistentFlags()
	flags.SortFlags, root.Flags().SortFlags = false, false
	flags.VarP(&c.format, "output", "o", "how results are written")
	c.source = settings.Source{Environ: c.environ, Flags: flags, Ignore: serverVariables}
	c.source.BindFlags(defaultConfig())
	c.source.Path = defaultConfigFile() // after BindFlags, so that help is the same for everyone
	completeWith(root, "output", string(formatTable), string(formatJSON))

	root.AddCommand(
		c.devCommand(),
		c.connectCommand(), c.tokenCommand(), c.revokeCommand(), c.revocationCommand(),
		c.lockCommand(), c.unlockCommand(), c.locksCommand(),
		c.sessionCommand(), c.nodeCommand(), c.credentialCommand(), c.keyCommand(),
		c.auditCommand(), c.backupCommand(), c.compactCommand(), c.schemaCommand(),
		c.configCommand(), c.versionCommand(),
	)
	for _, noun := range root.Commands() {
		exampleOfEach(noun)
	}
	for _, t := range topics {
		root.AddCommand(&cobra.Command{Use: t.name, Short: t.short, Long: t.text})
	}
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			needVerb(cmd)
		}
	}
	completeNoFiles(root)
	return root
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

// completeWith lets the shell complete the values of a flag.
func completeWith(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag's name is mistyped above
	}
}

// exampleOfEach gives a noun the first example of each of its verbs.
func exampleOfEach(noun *cobra.Command) {
	var first []string
	for _, verb := range noun.Commands() {
		line, _, _ := strings.Cut(verb.Example, "\n")
		first = append(first, line)
	}
	if len(first) > 0 {
		noun.Example = strings.Join(first, "\n")
	}
}

// verbs is a noun, which needs a verb.
func verbs(noun, short string) *cobra.Command {
	cmd := &cobra.Command{Use: noun, Short: short}
	needVerb(cmd)
	return cmd
}

// needVerb makes a command that does nothing by itself refuse to do nothing.
func needVerb(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownVerb(cmd, args[0])
		}
		var names []string
		for _, v := range cmd.Commands() {
			names = append(names, v.Name())
		}
		return usage(cmd.CommandPath()+" --help tells more", "%s needs a verb: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
}

func unknownVerb(cmd *cobra.Command, word string) error {
	hint := cmd.CommandPath() + " --help lists the commands"
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean " + cmd.CommandPath() + " " + strings.Join(near, ", or "+cmd.CommandPath()+" ") + "?"
	}
	return usage(hint, "%s has no command %q", cmd.CommandPath(), word)
}

// noArgs refuses positional arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(cmd.CommandPath()+" --help shows how", "%s takes no argument, but got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// oneArg wants exactly one, which what names.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage(cmd.CommandPath()+" --help shows how", "%s takes one argument, %s, but got %d", cmd.CommandPath(), what, len(args))
		}
		if args[0] == "" {
			return usage(cmd.CommandPath()+" --help shows how", "%s takes one argument, %s, which is empty", cmd.CommandPath(), what)
		}
		return nil
	}
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [command or topic]", Short: "Help about a command or topic",
		Example: "  gatehouse help revoke\n  gatehouse help exit-codes",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usage("gatehouse --help lists commands and topics", "no command or topic is called %q", strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// topics are the pages of gatehouse help that are about no single command.
var topics = []struct{ name, short, text string }{
	{"exit-codes", "What each exit code means", exitCodesHelp},
	{"output", "What -o json writes", outputHelp},
	{"connection", "How the authority is found and called", connectionHelp()},
}

const exitCodesHelp = `Exit codes of gatehouse:

    0  ok; with --no-wait also while nodes have not confirmed a revocation
    1  failure: anything that is not below; schema check refused a message, or
       schema lint found something
    2  usage: the command line, the settings or a field of the request is wrong
    3  not found: the authority knows nothing of this name or id
    4  denied: the credential is missing, unknown, disabled or may not do this,
       or a node let nobody in with the token (connect)
    6  partial or unconfirmed: a node has not confirmed a revocation yet, or not
       all of a batch was done, or one of its lines was malformed
    7  unavailable: the authority, or the node of connect, can't be reached, is
       stopping, or did not answer in time
  130  interrupted by Ctrl-C or SIGTERM

A revocation that ends with 6 is committed: nodes enforce it as they come back,
or close their sockets at the deadline that is shown.`

const outputHelp = `With -o json a command writes one JSON object to standard output. Errors are one
JSON object on standard error:

  {"error": {"code": "not_found", "exit_code": 3, "reason": "not_found",
   "message": "...", "hint": "..."}}

code names the exit code, and reason is the authority's, from its closed list;
it is empty if the authority did not answer.

Lists are written as they come, one element a line:

  {"tokens": [
  {"token_id": "01JD8Z0Q4M3T5V7X9ZABCDEFGH", "state": "active", ...},
  {"token_id": "01JD8Z0Q4M3T5V7X9ZABCDEFGJ", "state": "used", ...}
  ], "more": false}

A list that broke off is not closed, so no parser takes it for whole; more says
that --limit ended it.

Names and meanings of fields are those of the gRPC API, gatehouse.authority.v1.
Every field is there, in this form:

  times       RFC 3339 in UTC, "2026-11-23T12:00:00Z", or null
  durations   seconds, "0.012s", or null
  revisions   "EPOCH.SEQUENCE", or null
  enums       lower case without the type's name, "not_yet_active"
  counts      numbers
  bytes       text; what is not UTF-8 is replaced
  selectors   an object with the one field that is set, {"tenant": "acme"}

revoke, lock and session close write revision, tokens and sessions (what was hit
when it was counted just before; null if that took too long), receipt (null if
nobody waited or it could not be read) and for a lock its lock_id; a dry run
writes tokens and sessions. revoke --token-stdin writes how many lines were
read, and tokens were revoked (counted, on a dry run), unknown, out_of_reach and
repeated; malformed_lines has the first 100 numbers; closed counts sockets over
all receipts, and is a lower bound if closed_at_least is true; receipt is that
of the last revocation. audit verify writes the first batch, the head, held
(through where the trail is proved; sequence 0 for nothing of it), lines,
unsealed lines, how many checkpoints matched and how many were earlier than the
files, and up to 100 problems with file, sequence, lines and text.

schema check writes refused messages as a list, each with line, type, error,
offset, pointer, keyword and want, then how many messages there were and passed,
and by what how many were refused. schema lint writes findings with rule, file,
pointer, why and fix; complete is false if not all could be looked at. schema
bench writes nanoseconds, allocations and the ratio of checking to reading, and
schema build the files it made, the types, and how many differences it allowed.

New fields may be added; none is renamed or removed within a major version.`

func connectionHelp() string {
	var rows strings.Builder
	for _, s := range []struct{ key, help string }{
		{"address", "host:port of the authority"},
		{"ca_file", "its CA; no other is trusted"},
		{"cert_file", "the certificate to call with"},
		{"key_file", "its private key"},
		{"api_key_file", "or the API key to call with"},
		{"server_name", "the name in its certificate"},
		{"call_timeout", "how long a call may take"},
	} {
		fmt.Fprintf(&rows, "  --%-12s  GATEHOUSE_%-12s  %s\n", strings.ReplaceAll(s.key, "_", "-"), strings.ToUpper(s.key), s.help)
	}
	return `gatehouse calls one authority, over TLS 1.3, with one credential. Settings:

` + rows.String() + `
Flags win over the environment, the environment over the file. The file is named
by --config or GATEHOUSE_CONFIG; else it is gatehouse/cli.yaml in the user's
configuration folder ($XDG_CONFIG_HOME or ~/.config on Linux):

  address: authority.internal:8440
  ca_file: alice/ca.crt
  cert_file: alice/tls.crt
  key_file: alice/tls.key

Files named in it are relative to its folder. If nothing names an authority or a
credential, the settings of a gatehouse dev on this machine are used:
gatehouse/dev/cli.yaml in the user's folder for state ($XDG_STATE_HOME or
~/.local/state on Linux).

gatehouse config print shows what is in force and where it was set.`
}
