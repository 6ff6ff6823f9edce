package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
)

// format is how results are written.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// String, Set and Type implement pflag.Value.
func (f *format) String() string { return string(*f) }

// Set takes table or json.
func (f *format) Set(v string) error {
	if v != string(formatTable) && v != string(formatJSON) {
		return fmt.Errorf("want table or json")
	}
	*f = format(v)
	return nil
}

// Type names what the flag takes.
func (*format) Type() string { return "table|json" }

// note tells the person at the terminal what is not part of the result. It is
// silent with JSON output, which says all itself.
func (c *cli) note(format string, args ...any) {
	if c.format == formatTable {
		fmt.Fprintf(c.stderr, "gatehouse: %s\n", plain(fmt.Sprintf(format, args...)))
	}
}

func (c *cli) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(c.stdout, format, args...)
	return err
}

// printMessage writes m as an indented JSON object.
func (c *cli) printMessage(m proto.Message) error {
	return c.printIndented(appendMessage(nil, m.ProtoReflect()))
}

// printValue writes v, a plain struct or map, as an indented JSON object.
func (c *cli) printValue(v any) error { return c.printIndented(appendJSONValue(nil, v)) }

func (c *cli) printIndented(text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return fmt.Errorf("indent JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := c.stdout.Write(b.Bytes())
	return err
}

// table aligns rows of cells. Its cells are made plain, so that a row stays a
// row whatever peers put into it.
type table struct{ *tabwriter.Writer }

func (c *cli) newTable() table {
	return table{tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)}
}

// row writes one row; errors show at Flush.
func (t table) row(cells ...string) {
	for i, cell := range cells {
		if cell = plain(cell); cell == "" {
			cell = "-"
		}
		end := "\t"
		if i+1 == len(cells) {
			end = "\n"
		}
		fmt.Fprint(t.Writer, cell, end)
	}
}

// list writes many things of a kind as they come: a table aligned page by page,
// or one JSON object with an array that has one element a line.
type list struct {
	c      *cli
	key    string
	count  int
	header []string
	table  table
	json   *bufio.Writer
}

// newList begins a list. key names it in JSON and, with spaces, to people.
func (c *cli) newList(key string, header ...string) *list {
	l := &list{c: c, key: key, header: header}
	if c.format == formatJSON {
		l.json = bufio.NewWriter(c.stdout)
		fmt.Fprintf(l.json, `{"%s": [`, key)
		return l
	}
	l.table = c.newTable()
	return l
}

// add writes one element; cells is called where a table is wanted.
func (l *list) add(m proto.Message, cells func() []string) {
	l.count++
	if l.json != nil {
		if l.count > 1 {
			l.json.WriteByte(',')
		}
		l.json.WriteByte('\n')
		l.json.Write(appendMessage(l.json.AvailableBuffer(), m.ProtoReflect()))
		return
	}
	if l.count == 1 {
		l.table.row(l.header...)
	}
	l.table.row(cells()...)
}

// flush shows what was added.
func (l *list) flush() error {
	if l.json != nil {
		return l.json.Flush()
	}
	return l.table.Flush()
}

// end completes the list. more tells that there are elements beyond the limit
// that was asked for.
func (l *list) end(more bool) error {
	if l.json != nil {
		if l.count > 0 {
			l.json.WriteByte('\n')
		}
		fmt.Fprintf(l.json, "], \"more\": %t}\n", more)
		return l.json.Flush()
	}
	if err := l.table.Flush(); err != nil {
		return err
	}
	name := strings.ReplaceAll(l.key, "_", " ")
	if l.count == 0 {
		l.c.note("no %s", name)
	}
	if more {
		l.c.note("there may be more %s: raise --limit", name)
	}
	return nil
}

// pageSize is how many elements are asked for at once: few enough for the
// first rows to come soon and any page to be within gRPC's usual bounds.
const pageSize = 200

// pages calls fetch for page after page until the last one, or until limit
// elements were seen; 0 is without limit. fetch returns how many elements it
// got and where the next page begins. pages reports whether there may be more.
func pages(limit int, fetch func(size int32, from string) (int, string, error)) (more bool, err error) {
	for from, seen := "", 0; ; {
		size := pageSize
		if limit > 0 {
			size = min(size, limit-seen)
		}
		n, next, err := fetch(int32(size), from)
		if err != nil {
			return false, err
		}
		if next == "" {
			return false, nil
		}
		if seen += n; limit > 0 && seen >= limit {
			return true, nil
		}
		from = next
	}
}

func limitFlag(f *pflag.FlagSet, limit *int, what string) {
	f.IntVar(limit, "limit", 0, "at most this many "+what+"; 0 is all")
}

func checkLimit(limit int) error {
	if limit < 0 {
		return usagef("--limit: %d is below 0", limit)
	}
	return nil
}
