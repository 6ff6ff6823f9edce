// Command bench measures Gatehouse beside bare peers of the same run, and says
// how it compares. README.md tells what each number means.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveCommand {
		os.Exit(serve(os.Args[2], os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// benchmark is one table of the report.
type benchmark struct {
	name  string
	about string
	run   func(ctx context.Context, l *lab) error
	long  bool // runs only where it is named, or with -long
}

var benchmarks = []benchmark{
	{name: "token", about: "parse and tag a token, mint one", run: benchToken},
	{name: "schema", about: "messages against their schemas, beside other validators", run: benchSchema},
	{name: "issue", about: "IssueToken, durable and audited, beside a bare unary call", run: benchIssue},
	{name: "issue-batch", about: "IssueTokens of 64 beside a bare unary call of the same bytes", run: benchIssueBatch},
	{name: "redeem", about: "the Redeem stream beside a bare stream of the same bytes", run: benchRedeem},
	{name: "redeem-node", about: "handshakes redeemed by a node's own client, beside bare unary calls", run: benchRedeemNode},
	{name: "group", about: "how many calls one commit takes on one processor", run: benchGroup},
	{name: "revoke", about: "Revoke until the receipt is complete, with 1 to 500 nodes, idle and while tokens are issued", run: benchRevoke},
	{name: "revoke-many", about: "the same with 1,000 nodes (long)", run: benchRevokeMany, long: true},
	{name: "restart", about: "100,000 handshakes wait for an authority that starts again", run: benchRestart},
	{name: "expiry", about: "1,000,000 tokens expire in the same second (long)", run: benchExpiry, long: true},
	{name: "large", about: "10,000,000 live tokens: start, size, and what redeeming costs then (long)", run: benchLarge, long: true},
	{name: "attach", about: "a node attaches to a log of 1,000,000 revocations (long)", run: benchAttach, long: true},
	{name: "ws", about: "echo and opening handshake beside other WebSocket servers", run: benchWS},
	{name: "wss", about: "the same and idle sockets over TLS", run: benchWSS},
	{name: "ws-many", about: "echo and idle sockets, from 100 to 17,000 connections (long)", run: benchWSMany, long: true},
	{name: "ws-broadcast", about: "one message to 10,000 sockets (long)", run: benchBroadcast, long: true},
	{name: "hostile", about: "8,000 clients that are slow or do not read, beside honest ones (long)", run: benchHostile, long: true},
	{name: "million", about: "1,000,000 idle authenticated sockets of several nodes, or -sockets; a revocation and an echo among them (long)", run: benchMillion, long: true},
}

// lab is one run: how it measures and what it found.
type lab struct {
	rounds   int
	interval time.Duration // of one measurement
	warmup   time.Duration
	settle   time.Duration // after the load, so that what it left to do is counted
	sockets  int           // of million
	dir      string        // folder for state
	profile  string        // folder for CPU profiles, or empty
	profiled int           // profiles written
	current  string        // names the measurement under way
	cores    cores
	patience int // tries at a round beyond the first, while others disturb it
	keysMade bool
	children []*child
	ended    time.Duration // CPU time of those that have ended
	saying   sync.Mutex    // guards progress
	progress io.Writer
	report   *Report
}

// leastSockets has some of each kind of million's.
const leastSockets = 100

// errNoRoom says that this machine has no room for what a benchmark would open.
var errNoRoom = errors.New("no room")

func (l *lab) say(format string, args ...any) {
	l.saying.Lock()
	defer l.saying.Unlock()
	fmt.Fprintf(l.progress, "bench: "+format+"\n", args...)
}

// part is so much of a size that makes sense where a measurement takes two
// seconds or more: shorter ones are glances.
func (l *lab) part(whole, least int) int {
	return max(min(int(float64(whole)*l.interval.Seconds()/2), whole), least)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	var (
		only     = f.String("run", "", "comma separated names of the benchmarks to run; where empty, all that are not long")
		long     = f.Bool("long", false, "run the long benchmarks too: they need minutes, 10 GB of disk and 8 GB of memory; million 15 GB")
		list     = f.Bool("list", false, "list the benchmarks")
		rounds   = f.Int("rounds", 5, "measurements of each case, taken in turns; their median counts")
		interval = f.Duration("time", 2*time.Second, "length of one measurement")
		sockets  = f.Int("sockets", 1_000_000, "how many sockets million opens")
		patience = f.Int("patience", 3, "how often to repeat a round that other programs disturb (Linux, pinned)")
		dir      = f.String("dir", os.TempDir(), "where to put the store and the audit trail; choose a real disk")
		profile  = f.String("profile", "", "folder for CPU profiles of the servers; their figures are then not for quoting")
		pin      = f.Bool("pin", true, "pin servers to one core and the load to another (Linux)")
		asJSON   = f.Bool("json", false, "print JSON")
		markdown = f.Bool("markdown", false, "print Markdown, as README.md holds it")
	)
	if err := f.Parse(args); err != nil {
		return 2
	}
	if *list {
		for _, b := range benchmarks {
			fmt.Fprintf(stdout, "%-12s %s\n", b.name, b.about)
		}
		return 0
	}
	chosen, err := choose(*only, *long)
	if err == nil && (*rounds < 1 || *interval < time.Millisecond || *sockets < leastSockets) {
		err = fmt.Errorf("-rounds must be at least 1, -time at least 1ms and -sockets at least %d", leastSockets)
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench: error:", err)
		return 2
	}
	l := &lab{
		rounds: *rounds, patience: *patience, interval: *interval, sockets: *sockets, warmup: *interval / 4, settle: min(200*time.Millisecond, *interval),
		profile: *profile, progress: stderr,
	}
	failed := l.measureAll(ctx, *dir, *pin, chosen)
	switch {
	case l.report == nil: // there is nothing to tell
	case *asJSON:
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		err = out.Encode(l.report)
	case *markdown:
		err = l.report.writeMarkdown(stdout)
	default:
		err = l.report.writeText(stdout)
	}
	if err := errors.Join(failed, err); err != nil { // what was found before it is told all the same
		fmt.Fprintln(stderr, "bench: error:", err)
		return 1
	}
	return 0
}

func choose(names string, long bool) ([]benchmark, error) {
	var out []benchmark
	if names == "" {
		for _, b := range benchmarks {
			if long || !b.long {
				out = append(out, b)
			}
		}
		return out, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(benchmarks, func(b benchmark) bool { return b.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no benchmark is called %q; -list names them", name)
		}
		out = append(out, benchmarks[i])
	}
	return out, nil
}

func (l *lab) measureAll(ctx context.Context, dir string, pin bool, chosen []benchmark) (err error) {
	if l.dir, err = os.MkdirTemp(dir, "gatehouse-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(l.dir)) }()
	if l.profile != "" {
		if err := os.MkdirAll(l.profile, 0o755); err != nil {
			return err
		}
	}
	if pin {
		if l.cores, err = pinLoad(); err != nil {
			return err
		}
	}
	l.report = &Report{Machine: describeMachine(l.dir, l.cores)}
	l.report.Rounds, l.report.Interval = l.rounds, l.interval.String()
	for _, b := range chosen {
		l.say("%s: %s", b.name, b.about)
		err := b.run(ctx, l)
		if errors.Is(err, errNoRoom) && len(chosen) > 1 {
			l.say("%s: left out: %v", b.name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	l.report.disturbance()
	return nil
}
