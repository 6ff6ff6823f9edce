package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

const schemaBenchHelp = `Measure what it costs a node to hold messages against a schema: time and
allocations for each message, and how many times as long as reading the message
alone takes. Reading includes the guards. MESSAGES is a file with one message a
line, or - for standard input.

Messages that are refused are measured too, and counted. All of them are read
into memory first: at most 64 MiB. The slowest is looked for among the first
1,000.

A node refuses a message that costs more than guards.effort times its reading.
That is counted in steps, not in time, and a ratio here is far below it where
nothing is wrong.`

const maxBenchBytes = 64 << 20

func (c *cli) schemaBenchCommand() *cobra.Command {
	var a schemaArgs
	var span time.Duration
	cmd := &cobra.Command{
		Use: "bench FILE MESSAGES", Short: "Measure what messages cost to hold against a schema", Long: schemaBenchHelp,
		Example: `  gatehouse schema bench messages.json messages.jsonl
  gatehouse schema bench 'messages.json#/$defs/chat' chat.jsonl --time 5s
  zcat messages.jsonl.gz | gatehouse schema bench messages.json - -o json | jq .ratio`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(cmd.CommandPath()+" --help shows how", "%s takes two arguments, a schema file and a file of messages, but got %d", cmd.CommandPath(), len(args))
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if span < 10*time.Millisecond || span > 10*time.Minute {
				return usagef("--time: %v is not between 10ms and 10m", span)
			}
			set, err := a.compile(args[:1])
			if err != nil {
				return err
			}
			in, done, err := c.openMessages(args[1])
			if err != nil {
				return err
			}
			defer done()
			messages, at, err := readMessages(until(cmd.Context(), in))
			if ended := cmd.Context().Err(); ended != nil {
				return ended
			}
			if err != nil {
				return err
			}
			return c.benchMessages(cmd.Context(), set, messages, at, span)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.DurationVar(&span, "time", time.Second, "how long to measure")
	a.flags(cmd, true)
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

// perMessage is what is kept of a message beside its bytes.
const perMessage = 32

// readMessages returns the messages, and the lines on which they stand.
func readMessages(r io.Reader) (messages [][]byte, at []int, err error) {
	lines := newMessageLines(r, maxBenchBytes)
	for left := maxBenchBytes; ; {
		message, tooBig, err := lines.next()
		switch {
		case errors.Is(err, io.EOF) && len(messages) == 0:
			return nil, nil, usage("give one message a line: gatehouse schema bench FILE MESSAGES", "messages: there are none")
		case errors.Is(err, io.EOF):
			return messages, at, nil
		case err != nil:
			return nil, nil, failed(exitFailure, "", "messages: %w", err)
		}
		if left -= perMessage + len(message); tooBig || left < 0 {
			return nil, nil, usage("a part of them will do", "messages: they have more than %d bytes, %d counted for each beside its own", maxBenchBytes, perMessage)
		}
		messages, at = append(messages, slices.Clone(message)), append(at, lines.line)
	}
}

// benched is what was measured: of each message on average.
type benched struct {
	Messages    int     `json:"messages"`
	Refused     int     `json:"refused"`
	Bytes       float64 `json:"bytes"`
	ParseNanos  float64 `json:"parse_ns"`
	CheckNanos  float64 `json:"check_ns"`
	Ratio       float64 `json:"ratio"`
	Allocations float64 `json:"allocations"`
	// The most expensive message of the first maxSingle, as a ratio.
	Line      int     `json:"slowest_line"`
	LineRatio float64 `json:"slowest_ratio"`
}

// maxSingle is how many messages are measured one by one.
const maxSingle = 1000

// benchRounds is how often reading and checking take turns, so that whatever else
// the machine does meets both.
const benchRounds = 11

func (c *cli) benchMessages(ctx context.Context, set *schema.Set, messages [][]byte, at []int, span time.Duration) error {
	b := benched{Messages: len(messages)}
	for _, m := range messages {
		b.Bytes += float64(len(m)) / float64(len(messages))
		if _, err := set.Check(m); err != nil {
			b.Refused++
		}
	}
	parse := func(m []byte) { _ = set.Parse(m) } // refused messages are measured as well
	check := func(m []byte) { _, _ = set.Check(m) }
	var parses, checks, ratios []float64
	for range benchRounds {
		p := each(messages, span/(2*benchRounds), parse)
		k := each(messages, span/(2*benchRounds), check)
		if err := ctx.Err(); err != nil {
			return err
		}
		parses, checks, ratios = append(parses, p), append(checks, k), append(ratios, k/p)
	}
	b.ParseNanos, b.CheckNanos, b.Ratio = median(parses), median(checks), median(ratios)
	b.Allocations = allocations(messages, check)
	for i := range messages[:min(len(messages), maxSingle)] {
		var ratios []float64
		for range 5 {
			ratios = append(ratios, each(messages[i:i+1], 20*time.Microsecond, check)/each(messages[i:i+1], 20*time.Microsecond, parse))
		}
		if r := median(ratios); r > b.LineRatio {
			b.Line, b.LineRatio = at[i], r
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if c.format == formatJSON {
		return c.printValue(b)
	}
	tab := c.newTable()
	tab.row("messages", fmt.Sprintf("%d, of %.0f bytes", b.Messages, b.Bytes))
	tab.row("refused", fmt.Sprint(b.Refused))
	tab.row("reading", fmt.Sprintf("%.0f ns", b.ParseNanos))
	tab.row("checking", fmt.Sprintf("%.0f ns, %.2f times reading", b.CheckNanos, b.Ratio))
	tab.row("allocations", fmt.Sprintf("%.2f", b.Allocations))
	tab.row("slowest", fmt.Sprintf("line %d, %.2f times reading", b.Line, b.LineRatio))
	return tab.Flush()
}

// each returns how long op takes for a message, by doing it with all of them again
// and again for about span.
func each(messages [][]byte, span time.Duration, op func([]byte)) float64 {
	began, n := time.Now(), 0
	for {
		for i, m := range messages {
			op(m)
			if i&1023 == 1023 && time.Since(began) > 10*span {
				return float64(time.Since(began).Nanoseconds()) / float64(n+i+1)
			}
		}
		n += len(messages)
		if took := time.Since(began); took >= span {
			return float64(took.Nanoseconds()) / float64(n)
		}
	}
}

// allocations returns how many op makes for a message.
func allocations(messages [][]byte, op func([]byte)) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	runtime.GC()
	for _, m := range messages { // what is made once
		op(m)
	}
	runtime.ReadMemStats(&before)
	for _, m := range messages {
		op(m)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(len(messages))
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
