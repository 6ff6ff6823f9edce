package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/auditlog"
)

const auditExportHelp = `Write the records of a trail's files to standard output, oldest first: as JSON
lines, just as they stand there, or as CSV. Seals are left out, so an export
can't be verified: verify the files first, and keep them.

Filters that are given must all match. Files are named as for verify.

In CSV a cell that a spreadsheet would take for a formula begins with '. What
has no column of its own is in the last one, as JSON.`

func (c *cli) auditExportCommand() *cobra.Command {
	var a auditFilter
	var state, as string
	cmd := &cobra.Command{
		Use: "export [FILE...]", Short: "Write records of a trail's files as JSON lines or CSV", Long: auditExportHelp,
		Example: `  gatehouse audit export --state /var/lib/gatehouse/authority --since 2026-11-01 --until 2026-12-01 > november.jsonl
  gatehouse audit export --format csv --action Revoke audit.jsonl.1 audit.jsonl > revocations.csv`,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.parseAuditFilter(cmd, &a); err != nil {
				return err
			}
			if as != "jsonl" && as != "csv" {
				return usagef("--format: %q is neither jsonl nor csv", as)
			}
			files, err := c.openAudit(args, state, false)
			if err != nil {
				return err
			}
			defer files.close()
			return c.exportAudit(cmd.Context(), files, a.local(), as == "csv")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	a.flags(f)
	completeAuditWords(cmd)
	f.StringVar(&as, "format", "jsonl", "jsonl or csv")
	stateFlag(f, &state)
	completeWith(cmd, "format", "jsonl", "csv")
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

// csvColumns are what most records have; the rest is in the column after them.
var csvColumns = []string{"time", "action", "outcome", "caller", "peer", "tenant", "subject", "token_id", "session_id", "revision", "reason"}

func (c *cli) exportAudit(ctx context.Context, files auditFiles, filter *auditlog.Filter, asCSV bool) error {
	out := bufio.NewWriter(c.stdout)
	table := csv.NewWriter(out)
	if asCSV {
		_ = table.Write(append(csvColumns[:len(csvColumns):len(csvColumns)], "more")) // Error tells
	}
	unread, seen := 0, 0
	take := func(line []byte, _ int64) bool {
		if seen++; (seen%1000 == 0 || len(line) == 0) && ctx.Err() != nil {
			return false
		}
		if len(line) == 0 || !filter.Takes(line) { // of none there is a piece of one too long
			return true
		}
		r, err := auditlog.ParseRecord(line)
		switch {
		case err != nil:
			unread++
		case asCSV:
			return table.Write(csvRow(&r)) == nil
		default:
			out.Write(line)
			return out.WriteByte('\n') == nil
		}
		return true
	}
	for _, f := range files {
		if err := cmp.Or(auditlog.Scan(f, take), ctx.Err()); err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
	}
	table.Flush()
	if err := cmp.Or(table.Error(), out.Flush()); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	if unread > 0 {
		return failed(exitUnconfirmed, "gatehouse audit verify tells whether a kill tore them", "%s could not be read and are not in the export", count(unread, "line"))
	}
	return nil
}

func csvRow(r *auditlog.Record) []string {
	row := make([]string, len(csvColumns)+1)
	known := []auditlog.Field{
		{Key: "time", Value: r.Time.Format(auditlog.TimeLayout)}, {Key: "action", Value: r.Action}, {Key: "outcome", Value: r.Outcome},
		{Key: "caller", Value: r.Caller}, {Key: "peer", Value: r.Peer},
	}
	more := map[string]string{}
	for _, f := range append(known, r.Fields...) {
		more[f.Key] = f.Value
	}
	for i, name := range csvColumns {
		row[i] = cell(more[name])
		delete(more, name)
	}
	if len(more) > 0 {
		row[len(csvColumns)] = string(bytes.TrimSpace(appendJSONValue(nil, more)))
	}
	return row
}

// cell keeps a spreadsheet from taking what a client sent for a formula.
func cell(v string) string {
	if v != "" && strings.ContainsRune("=+-@\t\r", rune(v[0])) {
		return "'" + v
	}
	return v
}
