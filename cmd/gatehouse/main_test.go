package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema/lint"
)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

// Only gatehouse dev wires the system together; every other command goes
// through the same door as everyone.
func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	const module = "github.com/gatehouse-ws/gatehouse/"
	allowed := []string{"proto/gatehouse/authority/v1", "auditlog", "token", "wsnode/schema", "wsnode/schema/lint", "cmd/gatehouse/twin", "tlsfile", "cmd/internal/settings", "cmd/internal/callerr", "cmd/internal/shell", "cmd/internal/backupfile"}
	checked := 0
	for _, file := range files {
		if strings.HasPrefix(file, "dev") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range parsed.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			own, ok := strings.CutPrefix(path, module)
			if ok && strings.HasSuffix(file, "_test.go") && own == "wsnode/wstest" {
				continue // what tests make certificates with
			}
			if ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s; only dev*.go may", file, path)
			} else if ok {
				checked++
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d imports of this module were seen", checked)
	}
}

// commands are all commands and topics but those that cobra and dev.go make.
func commands(root *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if name := cmd.Name(); name == "completion" || name == "dev" {
			return
		}
		all = append(all, cmd)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return all
}

// callsIn are the calls of gatehouse in an example, without what a shell does with
// them.
func callsIn(example string) (calls [][]string) {
	call := regexp.MustCompile(`(?m)(?:^|[|(;&] *)gatehouse ([^|<>;&)\n]*)`)
	word := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	for _, m := range call.FindAllStringSubmatch(regexp.MustCompile(`(?m)^ +`).ReplaceAllString(example, ""), -1) {
		args := word.FindAllString(m[1], -1)
		for i := range args {
			args[i] = strings.Trim(args[i], `"'`)
		}
		calls = append(calls, args)
	}
	return calls
}

// Examples name commands and flags that there are, with as many arguments as they
// take.
func TestExamples(t *testing.T) {
	read := 0
	for _, cmd := range commands((&cli{format: formatTable}).rootCommand()) {
		for _, args := range callsIn(cmd.Example) {
			read++
			root := (&cli{format: formatTable}).rootCommand()
			found, rest, err := root.Find(args)
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err == nil && found.HasSubCommands() {
				err = errors.New("it has no verb")
			}
			if err != nil {
				t.Errorf("%s: gatehouse %s: %v", cmd.CommandPath(), strings.Join(args, " "), err)
			}
		}
	}
	if read < 60 {
		t.Errorf("only %d examples were read", read)
	}
}

func TestHelp(t *testing.T) {
	c := &caller{t: t}
	root := (&cli{format: formatTable}).rootCommand()
	root.InitDefaultHelpCmd()
	var all bytes.Buffer
	for _, cmd := range commands(root) {
		args := strings.Fields(cmd.CommandPath())[1:]
		got := c.run("", append([]string{"help"}, args...)...)
		if got.code != exitOK || got.stderr != "" {
			t.Errorf("help %v: %+v", args, got)
		}
		all.WriteString("$ gatehouse help " + strings.Join(args, " ") + "\n" + got.stdout + "\n")
		if got.stdout != c.run("", append(args, "--help")...).stdout && !cmd.IsAdditionalHelpTopicCommand() {
			t.Errorf("%v --help is not help %[1]v", args)
		}
		if cmd.Runnable() && !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") || cmd.Short == "" {
			t.Errorf("%s: %q", cmd.CommandPath(), cmd.Short)
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 81 {
				t.Errorf("%s: this line is too long for a terminal: %s", cmd.CommandPath(), line)
			}
		}
	}
	golden := filepath.Join("testdata", "help.golden")
	if *update {
		if err := os.WriteFile(golden, all.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(all.Bytes(), want) {
		t.Errorf("help differs from %s; go test -update rewrites it:\n%s", golden, firstDifference(all.String(), string(want)))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "line " + strconv.Itoa(i+1) + "\n got " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is longer"
}

// Examples must at least parse: a flag that is gone must not live on in help.
func TestExamplesParse(t *testing.T) {
	seen := 0
	for _, cmd := range commands((&cli{format: formatTable}).rootCommand()) {
		for line := range strings.Lines(cmd.Example) {
			args := exampleArgs(t, line)
			if args == nil {
				t.Errorf("%s: no command in %q", cmd.CommandPath(), line)
				continue
			}
			seen++
			root := (&cli{format: formatTable}).rootCommand()
			root.InitDefaultHelpCmd()
			target, rest, err := root.Find(args)
			if err == nil && target.HasSubCommands() && target != root {
				err = errors.New("names no verb")
			}
			if err == nil {
				err = target.ParseFlags(rest)
			}
			if err == nil && target.Args != nil {
				err = target.ValidateArgs(target.Flags().Args())
			}
			if err != nil {
				t.Errorf("%q: %v", strings.TrimSpace(line), err)
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d examples", seen)
	}
}

// exampleArgs are the arguments of the gatehouse call in a line of shell.
func exampleArgs(t *testing.T, line string) []string {
	t.Helper()
	_, call, ok := strings.Cut(line, "gatehouse ")
	if !ok {
		return nil
	}
	var args []string
	var word strings.Builder
	var quoted byte
	started := false
	for _, ch := range []byte(call + "\n") {
		switch {
		case quoted != 0 && ch == quoted:
			quoted = 0
		case quoted != 0:
			word.WriteByte(ch)
		case ch == '"' || ch == '\'':
			quoted, started = ch, true
		case ch == ' ' || ch == '\n' || ch == ')':
			if started {
				args = append(args, word.String())
			}
			word.Reset()
			started = false
		case ch == '|' || ch == '<' || ch == '>':
			return args
		default:
			word.WriteByte(ch)
			started = true
		}
	}
	return args
}

func TestUsageOfTheCommandLine(t *testing.T) {
	c := &caller{t: t}
	for _, tc := range []struct {
		args       []string
		want, hint string
	}{
		{[]string{"tokne"}, `gatehouse has no command "tokne"`, "did you mean gatehouse token?"},
		{[]string{"frobnicate"}, `gatehouse has no command "frobnicate"`, "gatehouse --help lists the commands"},
		{[]string{"token"}, "gatehouse token needs a verb: introspect, issue, list, show", "gatehouse token --help tells more"},
		{[]string{"token", "isue"}, `gatehouse token has no command "isue"`, "did you mean gatehouse token issue?"},
		{[]string{"completion", "nope"}, `gatehouse completion has no command "nope"`, "gatehouse completion --help lists the commands"},
		{[]string{"completion"}, "gatehouse completion needs a verb: bash, fish, powershell, zsh", "gatehouse completion --help tells more"},
		{[]string{"token", "list", "extra"}, `gatehouse token list takes no argument, but got "extra"`, "gatehouse token list --help shows how"},
		{[]string{"token", "list", "--frob"}, "unknown flag: --frob", "gatehouse token list --help lists the flags"},
		{[]string{"token", "list", "-o", "yaml"}, `invalid argument "yaml" for "-o, --output" flag: want table or json`, "gatehouse token list --help lists the flags"},
		{[]string{"help", "nonsense"}, `no command or topic is called "nonsense"`, "gatehouse --help lists commands and topics"},
	} {
		c.check(c.run("", tc.args...), exitUsage, "", "gatehouse: error: "+tc.want+"\ngatehouse: hint: "+tc.hint+"\n")
		for _, flag := range [][]string{{"-o", "json"}, {"-ojson"}, {"--output=json"}, {"--output", "json"}} {
			if slices.Contains(tc.args, "-o") {
				continue
			}
			got := c.run("", append(slices.Clone(tc.args), flag...)...)
			var e struct {
				Error struct {
					Code, Message, Hint string
					ExitCode            int `json:"exit_code"`
				}
			}
			if err := json.Unmarshal([]byte(got.stderr), &e); err != nil || got.code != exitUsage || e.Error.Message != tc.want || e.Error.Hint != tc.hint || e.Error.Code != "usage" || e.Error.ExitCode != 2 {
				t.Errorf("%v: %v: %+v", tc.args, err, got)
			}
		}
	}
	if got := c.run(""); got.code != exitOK || !strings.HasPrefix(got.stdout, "Issue handshake tokens") || got.stderr != "" {
		t.Errorf("alone: %+v", got)
	}
}

func TestVersion(t *testing.T) {
	c := &caller{t: t}
	for _, arg := range []string{"version", "--version"} {
		c.check(c.run("", arg), exitOK, versionLine()+"\n", "")
	}
	got := c.run("", "version", "-o", "json")
	var v struct{ Version, Go, OS, Arch string }
	if err := json.Unmarshal([]byte(got.stdout), &v); err != nil || v.Version == "" || v.Go == "" || v.OS == "" || v.Arch == "" {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestCompletion(t *testing.T) {
	c := &caller{t: t}
	var rules strings.Builder
	for _, r := range lint.Rules() {
		rules.WriteString(r.Name + "\n")
	}
	for args, want := range map[string]string{
		"token list --state ":               "active\nnot_yet_active\nused\nexpired\nrevoked\nlocked\n:4\n",
		"token issue --ip-binding ":         "off\nlog\nprefix\nstrict\n:4\n",
		"token issue --user-agent-binding ": "off\nlog\nclass\nstrict\n:4\n",
		"credential create x --role ":       "issuer\nnode\nadmin\nviewer\n:4\n",
		"node list -o ":                     "table\njson\n:4\n",
		"node list ":                        ":4\n", // no files
		"schema lint ":                      ":0\n", // files
		"schema check --schemas ":           ":16\n",
		"schema build --out ":               ":16\n",
		"schema lint --except ":             rules.String() + ":4\n",
		"revoke ":                           ":4\n",
		"session close ":                    ":4\n",
		"dev ":                              ":4\n",
	} {
		if got := c.run("", append([]string{"__complete"}, strings.Split(args, " ")...)...); got.stdout != want {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := c.run("", "completion", "bash"); got.code != exitOK || !strings.Contains(got.stdout, "gatehouse") {
		t.Errorf("%+v", got)
	}
}

// fullDisk takes some bytes and then no more.
type fullDisk struct{ left int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.left -= len(b); d.left < 0 {
		return 0, errors.New("no space left on device")
	}
	return len(b), nil
}

// A token whose text went nowhere was not issued well.
func TestOutputThatCannotBeWritten(t *testing.T) {
	c := newCaller(t)
	id, _ := testToken(1)
	for _, args := range [][]string{
		{"token", "issue", "--subject=u", "--audience=a"}, {"token", "issue", "--subject=u", "--audience=a", "-ojson"},
		{"token", "issue", "--subject=u", "--audience=a", "-n9"}, {"token", "issue", "--subject=u", "--audience=a", "-n9", "-ojson"},
		{"revoke", "--token", id.String()}, {"revoke", "--token-stdin"}, {"node", "list", "-ojson"}, {"version"}, {"config", "print"},
		{"credential", "create", "x", "--role=admin", "--api-key"}, {"--help"},
	} {
		var stderr bytes.Buffer
		cli := &cli{
			stdin: strings.NewReader(id.String()), stdout: &fullDisk{3}, stderr: &stderr, environ: c.environ,
			now: time.Now, zone: testZone, random: strings.NewReader(strings.Repeat("x", 1<<10)),
		}
		if code := cli.run(context.Background(), args); code != exitFailure || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%v: exit %d, %s", args, code, stderr.String())
		}
	}
}
