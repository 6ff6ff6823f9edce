package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

const schemaCheckHelp = `Hold messages against a schema with the node's own program, guards included: one
message a line, on standard input. For each that a node would refuse it is told
in which line, at which place, and by which keyword of which file. What the
message says is not shown, and neither are names of its own: *.

A file whose own schema is there for its $defs alone is taken for a route's
types of message: all of its definitions with a const of their own in the
property "type". FILE#/POINTER names one schema, which all messages are held
against.

The guards are those of a route that sets none. A line longer than
--message-bytes is refused as a node refuses it. Empty lines are passed over.

The exit code is 1 if any message is refused.`

// defaultMessageBytes is what a node's sockets.message_bytes is by default.
const defaultMessageBytes = 65536

func (c *cli) schemaCheckCommand() *cobra.Command {
	var a schemaArgs
	var messageBytes, limit int
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Hold messages against a schema, a line of standard input each", Long: schemaCheckHelp,
		Example: `  gatehouse schema check messages.json < messages.jsonl
  gatehouse schema check 'messages.json#/$defs/chat' --shared common.json < chat.jsonl
  gatehouse schema check messages.json -o json < messages.jsonl | jq '.refused[].line'`,
		Args: oneArg("a schema file"), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if messageBytes < 1 || messageBytes > maxMessageBytes {
				return usagef("--message-bytes: %d is not between 1 and %d", messageBytes, maxMessageBytes)
			}
			if err := checkLimit(limit); err != nil {
				return err
			}
			set, err := a.compile(args)
			if err != nil {
				return err
			}
			return c.checkMessages(cmd.Context(), set, messageBytes, limit)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	a.flags(cmd, true)
	f.IntVar(&messageBytes, "message-bytes", defaultMessageBytes, "bytes of one message, as the node's sockets.message_bytes")
	limitFlag(f, &limit, "refused messages are listed")
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

const maxMessageBytes = 64 << 20

// compile reads the one schema of the arguments.
func (a *schemaArgs) compile(args []string) (*schema.Set, error) {
	s, err := a.open(args)
	if err != nil {
		return nil, err
	}
	return s.compile(a)
}

// messageLines reads one message a line, and no more of a line than may be.
type messageLines struct {
	r    *bufio.Reader
	most int
	line int // the number of the last one
	buf  []byte
}

func newMessageLines(r io.Reader, most int) *messageLines {
	return &messageLines{r: bufio.NewReaderSize(r, 64<<10), most: most}
}

// next returns the next line that is not empty, borrowed until the one after it.
// tooBig says that it is longer than may be, and is left out. The error is io.EOF
// after the last line.
func (m *messageLines) next() (message []byte, tooBig bool, err error) {
	for {
		m.buf, tooBig = m.buf[:0], false
		m.line++
		for {
			part, err := m.r.ReadSlice('\n')
			ended := err == nil
			if ended {
				part = part[:len(part)-1]
			}
			if tooBig = tooBig || len(part) > m.most-len(m.buf); !tooBig {
				m.buf = append(m.buf, part...)
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				if errors.Is(err, io.EOF) && (len(m.buf) > 0 || tooBig) {
					break // the last line, without an end
				}
				return nil, false, err
			}
			if ended {
				break
			}
		}
		if tooBig || len(bytes.TrimSpace(m.buf)) > 0 {
			return m.buf, tooBig, nil
		}
	}
}

// until is r until ctx ends, whatever a read of it waits for. What reads r then ends
// with it, or with the process.
func until(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	return out
}

// refusedMessage is a message that a node would refuse. It has nothing of what the
// message says.
type refusedMessage struct {
	Line    int    `json:"line"`
	Type    string `json:"type"`  // empty if that is not known
	Error   string `json:"error"` // of a fixed list
	Offset  *int   `json:"offset"`
	Pointer string `json:"pointer"`
	Keyword string `json:"keyword"`
	Want    string `json:"want"`
}

// errMessageTooBig is what a node closes with that is not about JSON.
var errMessageTooBig = errors.New("message too big")

func refusal(line int, typ string, err error) refusedMessage {
	m := refusedMessage{Line: line, Type: typ, Error: err.Error()}
	if why := (*schema.Error)(nil); errors.As(err, &why) {
		m.Error, m.Pointer, m.Keyword, m.Want = why.Err.Error(), why.Pointer, why.Keyword, why.Want
		if why.Offset >= 0 {
			m.Offset = &why.Offset
		}
	}
	return m
}

// refusedBy is how many messages are refused for the same reason.
type refusedBy struct {
	Messages int    `json:"messages"`
	Error    string `json:"error"`
	Keyword  string `json:"keyword"`
}

func (c *cli) checkMessages(ctx context.Context, set *schema.Set, most, limit int) error {
	out := bufio.NewWriter(c.stdout)
	if c.format == formatJSON {
		out.WriteString(`{"refused": [`)
	}
	lines := newMessageLines(until(ctx, c.stdin), most)
	passed, refused := 0, 0
	by := map[refusedBy]int{}
	for {
		message, tooBig, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			return failed(exitFailure, "", "standard input: %w", err)
		}
		typ := ""
		if err = errMessageTooBig; !tooBig {
			typ, err = set.Check(message)
		}
		if err == nil {
			passed++
			continue
		}
		m := refusal(lines.line, typ, err)
		by[refusedBy{Error: m.Error, Keyword: m.Keyword}]++
		if refused++; limit > 0 && refused > limit {
			continue
		}
		c.writeRefused(out, refused, &m, err)
	}
	if passed+refused == 0 {
		return usage("give one message a line: gatehouse schema check FILE < messages.jsonl", "standard input holds no message")
	}
	var reasons []refusedBy
	for r, n := range by {
		r.Messages = n
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b refusedBy) int {
		return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Keyword, b.Keyword), cmp.Compare(a.Error, b.Error))
	})
	c.writeChecked(out, passed, refused, limit, reasons)
	if err := out.Flush(); err != nil {
		return err
	}
	if refused > 0 {
		hint := "docs/messages.md says what each can mean"
		if by[refusedBy{Error: errMessageTooBig.Error()}] > 0 {
			hint = fmt.Sprintf("messages of more than %d bytes are too big: give --message-bytes as the node has them", most)
		}
		return failed(exitFailure, hint, "%d of %s refused", refused, count(passed+refused, "message"))
	}
	return nil
}

func (c *cli) writeRefused(out *bufio.Writer, n int, m *refusedMessage, err error) {
	if c.format == formatJSON {
		if n > 1 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(appendJSONValue(nil, m))
		return
	}
	typ := ""
	if m.Type != "" {
		typ = " (" + m.Type + ")"
	}
	fmt.Fprintf(out, "line %d%s: %s\n", m.Line, plain(typ), plain(err.Error()))
}

// writeChecked writes the summary.
func (c *cli) writeChecked(out *bufio.Writer, passed, refused, limit int, reasons []refusedBy) {
	more := limit > 0 && refused > limit
	if c.format == formatJSON {
		if refused > 0 {
			out.WriteByte('\n')
		}
		if reasons == nil {
			reasons = []refusedBy{}
		}
		fmt.Fprintf(out, "], \"more\": %t, \"messages\": %d, \"passed\": %d, \"by\": %s}\n", more, passed+refused, passed, appendJSONValue(nil, reasons))
		return
	}
	if more {
		fmt.Fprintf(out, "and %d more\n", refused-limit)
	}
	if len(reasons) > 0 && refused > 1 {
		out.WriteByte('\n')
		_ = out.Flush() // its error comes again
		tab := c.newTable()
		tab.row("REFUSED", "BECAUSE", "BY")
		for _, r := range reasons {
			tab.row(fmt.Sprint(r.Messages), r.Error, r.Keyword)
		}
		_ = tab.Flush() // as above
	}
	if refused == 0 {
		fmt.Fprintf(out, "ok: %s passed\n", count(passed, "message"))
	}
}

// openMessages opens a file of messages; - is standard input.
func (c *cli) openMessages(name string) (io.Reader, func(), error) {
	if name == "-" {
		return c.stdin, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, usagef("messages: %w", err)
	}
	return f, func() { _ = f.Close() }, nil // it was only read
}
