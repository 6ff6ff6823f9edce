package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (c *cli) auditCommand() *cobra.Command {
	cmd := verbs("audit", "Read the audit trail, and prove that it is whole")
	cmd.AddCommand(c.auditListCommand(), c.auditVerifyCommand(), c.auditExportCommand(), c.auditCheckpointCommand())
	return cmd
}

// auditFilter is what the flags of list and export take.
type auditFilter struct {
	req          pb.ListAuditRequest
	since, until string
}

func (a *auditFilter) flags(f *pflag.FlagSet) {
	f.StringVar(&a.req.Action, "action", "", "records of this action, such as Redeem, Revoke or Enforced")
	f.StringVar(&a.req.Outcome, "outcome", "", "records with this outcome: ok, or a reason")
	f.StringVar(&a.req.Caller, "caller", "", "records of calls with this credential")
	f.StringVar(&a.req.Tenant, "tenant", "", "records about this tenant")
	f.StringVar(&a.req.Subject, "subject", "", "records about this subject")
	f.StringVar(&a.req.TokenId, "token", "", "records about the token with this id")
	f.StringVar(&a.req.SessionId, "session", "", "records about the session with this id")
	f.StringVar(&a.since, "since", "", "records from this time on: 2026-11-23, 2026-11-23T12:00:00Z, or 2h for two hours ago")
	f.StringVar(&a.until, "until", "", "records before this time")
}

// parseAuditFilter reads the times, and checks that no filter is empty or has a
// word that no record has.
func (c *cli) parseAuditFilter(cmd *cobra.Command, a *auditFilter) error {
	if err := checkState(cmd); err != nil {
		return err
	}
	if err := checkFilters(cmd, ""); err != nil {
		return err
	}
	if err := checkWord("action", a.req.GetAction(), auditActions()); err != nil {
		return err
	}
	if err := checkWord("outcome", a.req.GetOutcome(), auditOutcomes()); err != nil {
		return err
	}
	for _, t := range []struct {
		flag, text string
		to         **timestamppb.Timestamp
	}{{"--since", a.since, &a.req.Since}, {"--until", a.until, &a.req.Until}} {
		if t.text == "" {
			continue
		}
		at, err := c.pointInTime(t.flag, t.text)
		if err != nil {
			return err
		}
		*t.to = timestamppb.New(at)
	}
	return nil
}

// pointInTime reads a time as people give it. A day begins in the zone of
// tables.
func (c *cli) pointInTime(flag, text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return c.now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly, time.DateTime, "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, text, c.zone); err == nil && timestamppb.New(t).CheckValid() == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("such as 2026-11-23T12:00:00Z, 2026-11-23, '2026-11-23 12:00' in local time, or 2h for two hours ago", "%s: %q is not a time", flag, text)
}

// local is the filter for lines of files.
func (a *auditFilter) local() *auditlog.Filter {
	var since, until time.Time
	if t := a.req.GetSince(); t != nil {
		since = t.AsTime()
	}
	if t := a.req.GetUntil(); t != nil {
		until = t.AsTime()
	}
	r := &a.req
	return auditlog.NewFilter(since, until,
		auditlog.Field{Key: "action", Value: r.GetAction()}, auditlog.Field{Key: "outcome", Value: r.GetOutcome()},
		auditlog.Field{Key: "caller", Value: r.GetCaller()}, auditlog.Field{Key: "tenant", Value: r.GetTenant()},
		auditlog.Field{Key: "subject", Value: r.GetSubject()}, auditlog.Field{Key: "token_id", Value: strings.ToUpper(r.GetTokenId())},
		auditlog.Field{Key: "session_id", Value: strings.ToLower(r.GetSessionId())})
}

const auditListHelp = `List the records of the audit trail, the newest first. Filters that are given
must all match. Rows are written as they come.

The authority is asked. With files, or --state, they are read instead, without
an authority: name rotated ones from the oldest to the newest.`

func (c *cli) auditListCommand() *cobra.Command {
	var a auditFilter
	var state string
	var limit int
	cmd := &cobra.Command{
		Use: "list [FILE...]", Short: "List the records of the audit trail, the newest first", Long: auditListHelp,
		Example: `  gatehouse audit list --limit 20
  gatehouse audit list --subject u42 --since 2h
  gatehouse audit list --action Revoke --oldest-first -o json | jq -r '.records[].fields.reason'
  gatehouse audit list --outcome token_used audit.jsonl.1 audit.jsonl`,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkLimit(limit); err != nil {
				return err
			}
			if err := c.parseAuditFilter(cmd, &a); err != nil {
				return err
			}
			if len(args) > 0 || state != "" {
				return c.listAuditFiles(cmd.Context(), args, state, &a, limit)
			}
			return c.listAudit(cmd.Context(), &a, limit)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	a.flags(f)
	completeAuditWords(cmd)
	f.BoolVar(&a.req.OldestFirst, "oldest-first", false, "the oldest record first")
	limitFlag(f, &limit, "records")
	stateFlag(f, &state)
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

func stateFlag(f *pflag.FlagSet, state *string) {
	f.StringVar(state, "state", "", "read audit.jsonl in this state folder of an authority")
}

// checkState keeps a --state from an unset variable from meaning that of dev.
func checkState(cmd *cobra.Command) error {
	if f := cmd.Flags().Lookup("state"); f.Changed && f.Value.String() == "" {
		return usage("an unset shell variable, perhaps", "--state is empty: name a folder")
	}
	return nil
}

func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func (c *cli) newAuditList() *list {
	return c.newList("records", "TIME", "ACTION", "OUTCOME", "CALLER", "DETAILS")
}

func (l *list) addAudit(m *pb.AuditRecord) {
	l.add(m, func() []string {
		var details []string
		for _, k := range slices.Sorted(maps.Keys(m.GetFields())) {
			details = append(details, k+"="+quoted(m.GetFields()[k]))
		}
		if m.GetPeer() != "" {
			details = append(details, "peer="+m.GetPeer())
		}
		return []string{m.GetTime().AsTime().In(l.c.zone).Format(timeLayout), m.GetAction(), m.GetOutcome(), m.GetCaller(), strings.Join(details, " ")}
	})
}

// quoted is a value that reads as one word.
func quoted(v string) string {
	if v == "" || strings.ContainsAny(v, " \"=") {
		return fmt.Sprintf("%q", v)
	}
	return v
}

func (c *cli) listAudit(ctx context.Context, a *auditFilter, limit int) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	out := c.newAuditList()
	more, err := pages(limit, func(size int32, from string) (int, string, error) {
		a.req.PageSize, a.req.PageToken = size, from
		resp, err := cl.audit.ListAudit(ctx, &a.req)
		if err != nil {
			return 0, "", err
		}
		for _, r := range resp.GetRecords() {
			out.addAudit(r)
		}
		return len(resp.GetRecords()), resp.GetNextPageToken(), out.flush()
	})
	if err != nil {
		return err
	}
	return out.end(more)
}

// listAuditFiles lists records of files, which are in their order.
func (c *cli) listAuditFiles(ctx context.Context, args []string, state string, a *auditFilter, limit int) error {
	files, err := c.openAudit(args, state, !a.req.GetOldestFirst())
	if err != nil {
		return err
	}
	defer files.close()
	filter, out := a.local(), c.newAuditList()
	more, unread, seen := false, 0, 0
	take := func(line []byte, _ int64) bool {
		if seen++; (seen%1000 == 0 || len(line) == 0) && ctx.Err() != nil {
			return false
		}
		if len(line) == 0 || !filter.Takes(line) { // of none there is a piece of one too long
			return true
		}
		if limit > 0 && out.count >= limit {
			more = true
			return false
		}
		r, err := auditlog.ParseRecord(line)
		if err != nil {
			unread++
			return true
		}
		out.addAudit(auditRecord(&r))
		return out.count%pageSize != 0 || out.flush() == nil // what can't be written ends the command
	}
	if !a.req.GetOldestFirst() {
		slices.Reverse(files)
	}
	for _, f := range files {
		if a.req.GetOldestFirst() {
			err = auditlog.Scan(f, take)
		} else {
			err = auditlog.ScanBack(f.file, f.size, take)
		}
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
		if more {
			break
		}
	}
	if unread > 0 {
		c.note("%s could not be read, torn by a kill perhaps: gatehouse audit verify tells more", count(unread, "line"))
	}
	return out.end(more)
}

func auditRecord(r *auditlog.Record) *pb.AuditRecord {
	m := &pb.AuditRecord{Time: timestamppb.New(r.Time), Action: r.Action, Outcome: r.Outcome, Caller: r.Caller, Peer: r.Peer, Fields: map[string]string{}}
	for _, f := range r.Fields {
		m.Fields[f.Key] = f.Value
	}
	return m
}

// auditFile is an open file of a trail, or standard input.
type auditFile struct {
	io.Reader
	name string
	file *os.File // nil for standard input
	size int64
}

type auditFiles []auditFile

func (fs auditFiles) close() {
	for _, f := range fs {
		if f.file != nil {
			_ = f.file.Close() // it was only read
		}
	}
}

func (fs auditFiles) size() (n int64) {
	for _, f := range fs {
		n += f.size
	}
	return n
}

// openAudit opens files as arguments name them, that of a state folder, or that
// of gatehouse dev. backward wants files that can be read from their end.
func (c *cli) openAudit(args []string, state string, backward bool) (files auditFiles, err error) {
	switch {
	case len(args) > 0 && state != "":
		return nil, usagef("--state names a trail, and so do the files: give one or the other")
	case state != "":
		args = []string{filepath.Join(state, "audit.jsonl")}
	case len(args) == 0:
		dir, err := defaultStateDir()
		if err != nil {
			return nil, usage("name the trail's files, or the authority's --state", "%w", err)
		}
		args = []string{filepath.Join(dir, "dev", "audit.jsonl")}
	}
	defer func() {
		if err != nil {
			files.close()
		}
	}()
	for _, name := range args {
		if name == "-" {
			if backward {
				return files, usage("say --oldest-first too", "standard input can't be read from its end")
			}
			files = append(files, auditFile{Reader: c.stdin, name: "standard input"})
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return files, usage("name the trail's files, oldest first, or the authority's --state", "audit trail: %w", err)
		}
		files = append(files, auditFile{Reader: f, name: name, file: f})
		info, err := f.Stat()
		if err != nil {
			return files, err
		}
		if !info.Mode().IsRegular() {
			if backward {
				return files, usage("say --oldest-first too", "%s is no regular file and can't be read from its end", name)
			}
			continue
		}
		files[len(files)-1].size = info.Size()
	}
	return files, nil
}
