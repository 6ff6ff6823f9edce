package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (f *fakeAuthority) ListAudit(_ context.Context, req *pb.ListAuditRequest) (*pb.ListAuditResponse, error) {
	if req.GetPageToken() == "" {
		return &pb.ListAuditResponse{NextPageToken: "more"}, nil
	}
	return &pb.ListAuditResponse{Records: []*pb.AuditRecord{
		{Time: ago(time.Minute), Action: "Revoke", Outcome: "ok", Caller: "admin", Peer: "10.0.0.1:1234", Fields: map[string]string{"reason": "lost laptop", "subject": "u42"}},
		{Time: ago(time.Hour), Action: "IssueToken", Outcome: "unauthenticated", Peer: "10.0.0.2:1"},
	}}, nil
}

func (f *fakeAuthority) GetCheckpoint(context.Context, *pb.GetCheckpointRequest) (*pb.GetCheckpointResponse, error) {
	if f.unknown["checkpoint"] {
		return &pb.GetCheckpointResponse{}, nil
	}
	return &pb.GetCheckpointResponse{Sequence: 3, Hash: strings.Repeat("ab", 32), Time: ago(time.Minute), Lines: 12}, nil
}

// writeTrail writes two files of a trail, with seals after the second, the
// fourth and the last of these lines, and returns their names and the
// checkpoints.
func writeTrail(t *testing.T, dir string) (files []string, heads []auditlog.Checkpoint) {
	t.Helper()
	var chain auditlog.Chain
	line := func(minutes int, action, outcome string, attrs ...slog.Attr) []byte {
		b := auditlog.AppendLine(nil, testNow.Add(time.Duration(minutes-60)*time.Minute), action, outcome, attrs)
		chain.Add(b)
		return b
	}
	seal := func(b []byte, minutes int) []byte {
		b = chain.AppendSeal(b, testNow.Add(time.Duration(minutes-60)*time.Minute))
		heads = append(heads, chain.Head())
		return b
	}
	caller, peer := slog.String("caller", "login"), slog.String("peer", "10.0.0.1:1234")
	first := line(0, "AuditOpened", "ok", slog.Int("format", 1), slog.String("caller", "authority"))
	first = append(first, line(1, "IssueToken", "ok", slog.String("tenant", "acme"), slog.String("subject", "u42"), caller, peer)...)
	first = seal(first, 2)
	second := line(3, "Redeem", "token_used", slog.String("subject", "=u42"), slog.String("user_agent", "odd \"\x1b[2J"), slog.String("caller", "node-1"))
	second = append(second, line(4, "Redeem", "ok", slog.String("tenant", "acme"), slog.String("subject", "u42"), slog.String("caller", "node-1"))...)
	second = seal(second, 5)
	second = append(second, line(6, "Revoke", "ok", slog.String("tenant", "acme"), slog.String("reason", "lost, laptop"), slog.Uint64("revision", 7), slog.String("caller", "admin"), peer)...)
	second = seal(second, 7)
	for i, text := range [][]byte{first, second} {
		files = append(files, filepath.Join(dir, []string{"audit.jsonl.1", "audit.jsonl"}[i]))
		if err := os.WriteFile(files[i], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files, heads
}

func writeCheckpoints(t *testing.T, path string, cs ...auditlog.Checkpoint) {
	t.Helper()
	var b bytes.Buffer
	for _, c := range cs {
		text, err := json.MarshalIndent(c, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(text, '\n'))
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAuditList(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "audit", "list"), exitOK, `TIME                     ACTION      OUTCOME          CALLER  DETAILS
2026-11-23 12:59:00 CET  Revoke      ok               admin   reason="lost laptop" subject=u42 peer=10.0.0.1:1234
2026-11-23 12:00:00 CET  IssueToken  unauthenticated  -       peer=10.0.0.2:1
`, "")
	c.check(c.run("", "audit", "list", "--limit=5", "-ojson"), exitOK, `{"records": [
{"time": "2026-11-23T11:59:00Z", "action": "Revoke", "outcome": "ok", "caller": "admin", "peer": "10.0.0.1:1234", "fields": {"reason": "lost laptop", "subject": "u42"}},
{"time": "2026-11-23T11:00:00Z", "action": "IssueToken", "outcome": "unauthenticated", "caller": "", "peer": "10.0.0.2:1", "fields": {}}
], "more": false}
`, "")
	id, _ := testToken(1)
	c.run("", "audit", "list", "--action=Redeem", "--outcome=token_used", "--caller=c", "--tenant=t", "--subject=s", "--token="+id.String(), "--session="+testSession,
		"--since=2h", "--until=2026-11-23T12:30:00+01:00", "--oldest-first", "--limit=3")
	want := &pb.ListAuditRequest{
		PageSize: 3, PageToken: "more", Action: "Redeem", Outcome: "token_used", Caller: "c", Tenant: "t", Subject: "s", TokenId: id.String(), SessionId: testSession,
		OldestFirst: true, Since: ago(2 * time.Hour), Until: ago(30 * time.Minute),
	}
	sent := requestsOf[*pb.ListAuditRequest](c.authority)
	if got := sent[len(sent)-1]; !proto.Equal(got, want) {
		t.Errorf("sent %v", got)
	}
	c.check(c.run("", "audit", "list", "--subject="), exitUsage, "", "gatehouse: error: --subject is empty: leave it out to list all\ngatehouse: hint: an unset shell variable, perhaps\n")
	c.check(c.run("", "audit", "list", "--since=noon"), exitUsage, "", "gatehouse: error: --since: \"noon\" is not a time\n"+
		"gatehouse: hint: such as 2026-11-23T12:00:00Z, 2026-11-23, '2026-11-23 12:00' in local time, or 2h for two hours ago\n")
	for _, args := range [][]string{{"list"}, {"list", "--state=DIR"}, {"export"}} {
		got := c.run("", append([]string{"audit", "--outcome=nope"}, args...)...)
		if got.code != exitUsage || !strings.HasPrefix(got.stderr, `gatehouse: error: --outcome: no record can have "nope": want one of ok, canceled, `) {
			t.Errorf("%v: %+v", args, got)
		}
		got = c.run("", append([]string{"audit", "--action=redeem"}, args...)...)
		if got.code != exitUsage || !strings.Contains(got.stderr, "Redeem, ") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	c.authority.errs["ListAudit"] = withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "no")
	if got := c.run("", "audit", "list"); got.code != exitDenied {
		t.Errorf("%+v", got)
	}
}

func TestAuditWords(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, actions, _ := strings.Cut(string(page), "\n## Actions\n")
	actions, _, _ = strings.Cut(actions, "\n## ")
	var told []string
	for line := range strings.Lines(actions) {
		if names, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(names, "`") {
			told = append(told, strings.Split(strings.ReplaceAll(names, "`", ""), ", ")...)
		}
	}
	known := auditActions()
	for _, a := range told {
		if !slices.Contains(known, a) {
			t.Errorf("docs/audit.md has the action %s, which is refused", a)
		}
	}
	for _, a := range []string{"Enforced", "Skipped", "AuditOpened"} {
		if !slices.Contains(told, a) {
			t.Errorf("%s was not found in docs/audit.md: %q", a, told)
		}
	}
	for _, a := range []string{"IssueToken", "Redeem", "Revoke", "WatchReceiptStream", "AttachStream", "BackupStream", "ServerReflectionInfoStream"} {
		if !slices.Contains(known, a) {
			t.Errorf("the action %s is refused", a)
		}
	}
	for _, o := range []string{"ok", "token_used", "permission_denied", "renewed", "unspecified", "damaged", "canceled"} {
		if !slices.Contains(auditOutcomes(), o) {
			t.Errorf("the outcome %s is refused", o)
		}
	}
	if len(slices.Compact(known)) != len(auditActions()) {
		t.Errorf("an action twice: %q", auditActions())
	}
}

func TestPointInTime(t *testing.T) {
	c := &cli{now: func() time.Time { return testNow }, zone: testZone}
	for text, want := range map[string]time.Time{
		"2026-11-23T12:00:00Z": testNow, "2026-11-23T12:00:00.5Z": testNow.Add(time.Second / 2), "2026-11-23T13:00:00+01:00": testNow,
		"2026-11-23": testNow.Add(-13 * time.Hour), "2026-11-23 13:00": testNow, "2026-11-23 13:00:00": testNow, "90m": testNow.Add(-90 * time.Minute), "0s": testNow,
	} {
		if got, err := c.pointInTime("--since", text); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-2h", "23.11.2026", "2026-13-01", "2026-11-23T12:00:00"} {
		if got, err := c.pointInTime("--since", text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestAuditListFiles(t *testing.T) {
	c := &caller{t: t, dir: t.TempDir()}
	files, _ := writeTrail(t, c.dir)
	args := func(more ...string) []string { return slices.Concat([]string{"audit", "list"}, more, files) }
	const head = "TIME                     ACTION       OUTCOME     CALLER     DETAILS\n"
	rows := []string{
		"2026-11-23 12:00:00 CET  AuditOpened  ok          authority  format=1\n",
		"2026-11-23 12:01:00 CET  IssueToken   ok          login      subject=u42 tenant=acme peer=10.0.0.1:1234\n",
		"2026-11-23 12:03:00 CET  Redeem       token_used  node-1     subject=\"=u42\" user_agent=\"odd \\\"\\x1b[2J\"\n",
		"2026-11-23 12:04:00 CET  Redeem       ok          node-1     subject=u42 tenant=acme\n",
		"2026-11-23 12:06:00 CET  Revoke       ok          admin      reason=\"lost, laptop\" revision=7 tenant=acme peer=10.0.0.1:1234\n",
	}
	c.check(c.run("", args("--oldest-first")...), exitOK, head+strings.Join(rows, ""), "")
	slices.Reverse(rows)
	c.check(c.run("", args()...), exitOK, head+strings.Join(rows, ""), "")
	c.check(c.run("", args("--limit=2", "--action=Redeem", "-ojson")...), exitOK, `{"records": [
{"time": "2026-11-23T11:04:00Z", "action": "Redeem", "outcome": "ok", "caller": "node-1", "peer": "", "fields": {"subject": "u42", "tenant": "acme"}},
{"time": "2026-11-23T11:03:00Z", "action": "Redeem", "outcome": "token_used", "caller": "node-1", "peer": "", "fields": {"subject": "=u42", "user_agent": "odd \"\u001b[2J"}}
], "more": false}
`, "")
	if got := c.run("", args("--limit=1", "--since=2026-11-23 12:03", "--until=2026-11-23 12:06", "-ojson")...); got.code != exitOK || !strings.Contains(got.stdout, "11:04") || !strings.HasSuffix(got.stdout, "\"more\": true}\n") {
		t.Errorf("%+v", got)
	}
	if got := c.run("", "audit", "list", "--state", c.dir, "-ojson"); got.code != exitOK || strings.Count(got.stdout, "\n{") != 3 {
		t.Errorf("%+v", got)
	}
	if got := c.run("torn\n{}\n", "audit", "list", "--oldest-first", "-"); got.code != exitOK || !strings.Contains(got.stderr, "2 lines could not be read") {
		t.Errorf("%+v", got)
	}
	for _, bad := range [][]string{{"-"}, {"--state=x", "y"}, {filepath.Join(c.dir, "none")}, {"--limit=-1"}} {
		if got := c.run("", append([]string{"audit", "list"}, bad...)...); got.code != exitUsage || got.stdout != "" {
			t.Errorf("%v: %+v", bad, got)
		}
	}
}

func TestAuditVerify(t *testing.T) {
	c := &caller{t: t, dir: t.TempDir()}
	files, heads := writeTrail(t, c.dir)
	verify := func(more ...string) result {
		got := c.run("", slices.Concat([]string{"audit", "verify"}, more)...)
		got.stdout, got.stderr = strings.ReplaceAll(got.stdout, c.dir, "DIR"), strings.ReplaceAll(got.stderr, c.dir, "DIR")
		return got
	}
	const until = "2026-11-23 12:07:00 CET (53 min ago)"
	c.check(verify(files...), exitOK, "ok: 5 lines in batches 1 to 3, until "+until+"; no checkpoint was given, so a trail that was cut off would look the same\n", "")
	kept := filepath.Join(c.dir, "kept.json")
	writeCheckpoints(t, kept, heads[0], heads[2])
	c.check(verify(append(files, "--checkpoint", kept)...), exitOK, "ok: 5 lines in batches 1 to 3, until "+until+"; 2 checkpoints matched\n", "")
	c.check(verify("--first=2", "--checkpoint", kept, files[1]), exitOK, "ok: 3 lines in batches 2 to 3, until "+until+"; 2 checkpoints matched\n", "")
	wrong := func(n string) string {
		return "gatehouse: error: the audit trail is not whole: " + n + "\ngatehouse: hint: docs/audit.md says what each can mean; keep the files as they are\n"
	}
	c.check(verify(files[1]), exitFailure, "DIR/audit.jsonl, lines 1 to 3: batch 2: the trail begins with batch 2, not with batch 1: what came before is missing\nnothing of it is proved\n", wrong("1 problem"))
	c.check(verify(files[0], "--checkpoint", kept), exitFailure,
		"the trail is cut off: it ends with batch 1, and the checkpoint knows batch 3 of 2026-11-23T11:07:00Z, with 5 lines\n"+
			"it holds through batch 1: 2 lines of the trail, until 2026-11-23 12:02:00 CET (58 min ago)\n", wrong("1 problem"))
	text, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(c.dir, "changed")
	if err := os.WriteFile(changed, bytes.Replace(text, []byte("token_used"), []byte("token_uzed"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	c.check(verify(files[0], changed), exitFailure, "DIR/changed, lines 1 to 3: batch 2: its lines or its seal are not what was sealed\n"+
		"it holds through batch 1: 2 lines of the trail, until 2026-11-23 12:02:00 CET (58 min ago)\n", wrong("1 problem"))
	c.check(verify(files[0], changed, "-ojson"), exitFailure, `{
  "first": 1,
  "head": {
    "sequence": 3,
    "hash": "`+heads[2].Hash.String()+`",
    "time": "2026-11-23T11:07:00Z",
    "lines": 5
  },
  "held": {
    "sequence": 1,
    "hash": "`+heads[0].Hash.String()+`",
    "time": "2026-11-23T11:02:00Z",
    "lines": 2
  },
  "lines": 5,
  "unsealed": 0,
  "matched": 0,
  "earlier": 0,
  "problems": [
    {
      "file": "DIR/changed",
      "sequence": 2,
      "first_line": 1,
      "last_line": 3,
      "problem": "batch 2: its lines or its seal are not what was sealed"
    }
  ],
  "more_problems": 0
}
`, `{"error":{"code":"failure","exit_code":1,"reason":"","message":"the audit trail is not whole: 1 problem","hint":"docs/audit.md says what each can mean; keep the files as they are"}}`+"\n")
	packed := c.run(string(text), "audit", "verify", files[0], "-")
	c.check(packed, exitOK, "ok: 5 lines in batches 1 to 3, until "+until+"; no checkpoint was given, so a trail that was cut off would look the same\n", "")
	if got := c.run("", "audit", "verify", "--state", c.dir, "--first=2"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	for name, text := range map[string]string{"it is empty": "", "has no sequence": "{}", "invalid character": "x", "are not the 64 of a hash": `{"sequence":1,"hash":"ab"}`} {
		if err := os.WriteFile(kept, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := verify("--checkpoint", kept, files[0]); got.code != exitUsage || !strings.Contains(got.stderr, name) {
			t.Errorf("%s: %+v", text, got)
		}
	}
	if got := verify("--checkpoint", "", files[0]); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
	for _, verb := range []string{"list", "verify", "export", "checkpoint"} {
		c.check(c.run("", "audit", verb, "--state="), exitUsage, "", "gatehouse: error: --state is empty: name a folder\ngatehouse: hint: an unset shell variable, perhaps\n")
	}
}

// A batch that is being written while it is verified is waited for.
func TestAuditVerifyWhileItIsWritten(t *testing.T) {
	c := &caller{t: t, dir: t.TempDir()}
	files, _ := writeTrail(t, c.dir)
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], text[:len(text)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	time.AfterFunc(150*time.Millisecond, func() {
		f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.Write(text[len(text)-100:])
			err = errors.Join(err, f.Close())
		}
		done <- err
	})
	got := c.run("", "audit", "verify", files[0])
	if err := <-done; err != nil || got.code != exitOK {
		t.Errorf("%v: %+v", err, got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := c.runCtx(ctx, strings.NewReader(""), "audit", "verify", files[0]); got.code != exitInterrupted {
		t.Errorf("%+v", got)
	}
}

func TestAuditCheckpoint(t *testing.T) {
	c := newCaller(t)
	files, heads := writeTrail(t, c.dir)
	c.check(c.run("", "audit", "checkpoint"), exitOK, "sequence  3\nhash      "+strings.Repeat("ab", 32)+"\ntime      2026-11-23 12:59:00 CET (60 s ago)\nlines     12\n", "")
	kept := filepath.Join(c.dir, "kept.json")
	for _, args := range [][]string{{"audit", "checkpoint", "-ojson", files[0]}, append([]string{"audit", "checkpoint", "-ojson"}, files...)} {
		got := c.run("", args...)
		f, err := os.OpenFile(kept, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(got.stdout)
			err = errors.Join(err, f.Close())
		}
		if err != nil || got.code != exitOK {
			t.Fatalf("%v: %+v", err, got)
		}
	}
	cs, err := readCheckpoints(kept)
	if err != nil || !slices.Equal(cs, []auditlog.Checkpoint{heads[0], heads[2]}) {
		t.Errorf("%+v %v", cs, err)
	}
	if got := c.run("", "audit", "checkpoint", files[1]); got.code != exitFailure || got.stdout != "" {
		t.Errorf("of a trail without its beginning: %+v", got)
	}
	c.authority.unknown["checkpoint"] = true
	c.check(c.run("", "audit", "checkpoint"), exitNotFound, "", "gatehouse: error: the trail has no seal yet\ngatehouse: hint: it is written within a second of the first call\n")
}

func TestAuditExport(t *testing.T) {
	c := &caller{t: t, dir: t.TempDir()}
	files, _ := writeTrail(t, c.dir)
	export := func(more ...string) result {
		return c.run("", slices.Concat([]string{"audit", "export"}, more, files)...)
	}
	c.check(export("--action=Redeem", "--outcome=ok"), exitOK, `{"time":"2026-11-23T11:04:00.000000Z","action":"Redeem","tenant":"acme","subject":"u42","caller":"node-1","outcome":"ok"}`+"\n", "")
	got := export("--format=csv", "--since=2026-11-23 12:03")
	c.check(got, exitOK, `time,action,outcome,caller,peer,tenant,subject,token_id,session_id,revision,reason,more
2026-11-23T11:03:00.000000Z,Redeem,token_used,node-1,,,'=u42,,,,,"{""user_agent"":""odd \""\u001b[2J""}"
2026-11-23T11:04:00.000000Z,Redeem,ok,node-1,,acme,u42,,,,,
2026-11-23T11:06:00.000000Z,Revoke,ok,admin,10.0.0.1:1234,acme,,,,7,"lost, laptop",
`, "")
	if rows, err := csv.NewReader(strings.NewReader(got.stdout)).ReadAll(); err != nil || len(rows) != 4 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if got := c.run("{torn\n", "audit", "export", "-"); got.code != exitUnconfirmed || got.stdout != "" {
		t.Errorf("%+v", got)
	}
	if got := export("--format=xml"); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
}

// Long files are read in bounded memory.
func TestAuditVerifyIsBounded(t *testing.T) {
	dir := t.TempDir()
	var chain auditlog.Chain
	batch := bytes.Repeat(auditlog.AppendLine(nil, testNow, "Test", "ok", []slog.Attr{slog.String("rest", strings.Repeat("x", 200))}), 200)
	path := filepath.Join(dir, "audit.jsonl")
	f, err := os.Create(path)
	for range 1000 {
		chain.Add(batch)
		if err == nil {
			_, err = f.Write(chain.AppendSeal(bytes.Clone(batch), testNow))
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	c := &caller{t: t, dir: dir}
	allocated := testing.AllocsPerRun(1, func() {
		if got := c.run("", "audit", "verify", path); got.code != exitOK {
			t.Fatalf("%+v", got)
		}
	})
	if per := allocated / 200_000; per > 0.2 {
		t.Errorf("%v allocations a line", per)
	}
	if got := c.run("", "audit", "list", "--limit=1", path); got.code != exitOK || !strings.Contains(fmt.Sprint(got), "there may be more records") {
		t.Errorf("%+v", got)
	}
}

// FuzzCheckpoints proves that any file is an error or holds checkpoints that can
// be written and read again.
func FuzzCheckpoints(f *testing.F) {
	for _, text := range []string{"", "{}", `{"sequence":1,"hash":"` + strings.Repeat("ab", 32) + `","time":"2026-11-23T12:00:00Z","lines":2} {"sequence":2}`, `[{"sequence":1}]`, `{"sequence":-1}`, `{"sequence":1e3}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cs, err := parseCheckpoints(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, c := range cs {
			again, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			back, err := parseCheckpoints(bytes.NewReader(again))
			if err != nil || len(back) != 1 || back[0].Sequence != c.Sequence || back[0].Hash != c.Hash {
				t.Fatalf("%+v became %+v, %v", c, back, err)
			}
		}
	})
}

// FuzzPointInTime proves that whatever is taken for a time can be sent.
func FuzzPointInTime(f *testing.F) {
	for _, text := range []string{"", "2h", "-1s", "2026-11-23", "2026-11-23 12:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2562047h47m16s"} {
		f.Add(text)
	}
	c := &cli{now: func() time.Time { return testNow }, zone: testZone}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := c.pointInTime("--since", text)
		if err == nil && timestamppb.New(at).CheckValid() != nil {
			t.Fatalf("%q is %v", text, at)
		}
	})
}
