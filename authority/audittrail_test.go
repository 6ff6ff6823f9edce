package authority_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	"github.com/gatehouse-ws/gatehouse/authority"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func verifyTrail(t testing.TB, v *auditlog.Verifier, paths ...string) auditlog.Report {
	t.Helper()
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err == nil {
			err = v.Read(p, bytes.NewReader(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return v.Finish()
}

// TestTrailIsOneChain proves that restarts go on with the chain, in the same
// file or, where that was moved away, in a new one.
func TestTrailIsOneChain(t *testing.T) {
	f := newFixture(t)
	f.issue()
	f.restart()
	f.issue()
	f.stop()
	f.ok(os.Rename(f.auditAt, f.auditAt+".1"))
	f.start()
	f.issue()
	f.trail.Flush()
	checkpoint := f.trail.Checkpoint()
	f.restart()
	f.stop()
	r := verifyTrail(t, &auditlog.Verifier{Checkpoints: []auditlog.Checkpoint{checkpoint}}, f.auditAt+".1", f.auditAt)
	if len(r.Problems) > 0 || r.Matched != 1 || r.First != 1 || r.Head.Lines != r.Lines {
		t.Errorf("%+v", r)
	}
	f.equal("starts", strings.Count(f.audit.String(), `"action":"AuditOpened"`), 2)
	for text := range strings.Lines(f.audit.String()) {
		if !strings.Contains(text, `"action":"AuditOpened"`) {
			t.Errorf("the file begins with %s", text)
		}
		break
	}
	f.equal("line of a start", f.lastStart(), fmt.Sprintf("caller=authority epoch=%d format=1 outcome=ok version=%s", f.epoch(), pb.Version))
}

func (f *fixture) epoch() uint64 {
	head, _ := f.store.Head()
	return head.Epoch
}

func (f *fixture) lastStart() string {
	f.Helper()
	text := f.audit.String()
	at := strings.LastIndex(text, `{"time":`)
	for !strings.HasPrefix(text[at:], `{"time":`) || !strings.Contains(strings.SplitN(text[at:], "\n", 2)[0], "AuditOpened") {
		at = strings.LastIndex(text[:at], `{"time":`)
	}
	r, err := auditlog.ParseRecord([]byte(strings.SplitN(text[at:], "\n", 2)[0]))
	f.ok(err)
	line := map[string]any{"outcome": r.Outcome, "caller": r.Caller}
	for _, field := range r.Fields {
		line[field.Key] = field.Value
	}
	return show(line)
}

// TestTrailOutlivesKills proves that a process that is killed while it writes
// loses at most what it had not sealed, and that what it tore is told of.
func TestTrailOutlivesKills(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	const kills = 8
	var before auditlog.Checkpoint
	for i := range kills {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestTrailWriter$")
		cmd.Env = append(os.Environ(), "GATEHOUSE_TEST_TRAIL="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it writes
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+13*i) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if i%2 == 0 { // as if its last write had been cut off
			info, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, info.Size()-int64(37*(i+1)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		r := verifyTrail(t, &auditlog.Verifier{}, path)
		if r.Held != r.Head || r.Held.Sequence < before.Sequence || len(r.Problems) > 1 || len(r.Problems) == 1 && r.Unsealed == 0 {
			t.Fatalf("after kill %d: %+v", i, r)
		}
		before = r.Held
	}
	a, err := authority.OpenAudit(path)
	if err != nil {
		t.Fatal(err)
	}
	a.Record(start, "Last", "ok")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	r := verifyTrail(t, &auditlog.Verifier{Checkpoints: []auditlog.Checkpoint{before}}, path)
	if len(r.Problems) > 0 || r.Matched != 1 {
		t.Errorf("at the end: %+v", r)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := 0
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(`"outcome":"unsealed"`)) {
			torn++
		}
	}
	if torn < kills/2 {
		t.Errorf("%d lines tell of a torn end, want at least %d", torn, kills/2)
	}
	t.Logf("%d lines in %d batches, %d torn ends", r.Lines, r.Head.Sequence, torn)
}

// TestTrailWriter is not a test: it is the process that is killed.
func TestTrailWriter(t *testing.T) {
	path := os.Getenv("GATEHOUSE_TEST_TRAIL")
	if path == "" {
		t.Skip("only for TestTrailOutlivesKills, in a process of its own")
	}
	a, err := authority.OpenAudit(path)
	if err != nil {
		t.Fatal(err)
	}
	a.Opened(start, 7)
	a.Flush()
	fmt.Println("writing")
	for {
		a.Record(start, "Test", strings.Repeat("x", 200))
	}
}

// TestTrailTellsOfItsEnd pins what a start says of a trail that does not end
// with a seal.
func TestTrailTellsOfItsEnd(t *testing.T) {
	sealed := func() string {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		a, err := authority.OpenAudit(path)
		if err != nil {
			t.Fatal(err)
		}
		a.Record(start, "Test", "ok")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}()
	for _, c := range []struct {
		name, text, want string
		problems         int
	}{
		{"whole", sealed, "caller=authority epoch=%d format=1 outcome=ok version=" + pb.Version, 0},
		{"of an authority that did not seal", `{"time":"x","action":"A"}` + "\n", "caller=authority epoch=%d format=1 outcome=unsealed torn=false unsealed_lines=1 version=" + pb.Version, 0},
		{"torn", sealed + `{"time":"2026-11-`, "caller=authority epoch=%d format=1 outcome=unsealed torn=true unsealed_lines=1 version=" + pb.Version, 0},
		{"changed", strings.Replace(sealed, "Test", "Best", 1), "caller=authority epoch=%d format=1 outcome=damaged version=" + pb.Version, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) { f.ok(os.WriteFile(f.auditAt, []byte(c.text), 0o600)) })
			f.stop()
			f.equal("line", f.lastStart(), fmt.Sprintf(c.want, f.epoch()))
			if got := f.audit.String(); !strings.HasPrefix(got, c.text) {
				t.Errorf("what was there is not kept: %s", got)
			}
			if r := verifyTrail(t, &auditlog.Verifier{}, f.auditAt); len(r.Problems) != c.problems {
				t.Errorf("%+v", r)
			}
			if warned := strings.Contains(f.log.String(), "does not end with a whole batch"); warned != (c.name != "whole") {
				t.Errorf("log: %s", f.log.String())
			}
		})
	}
}

// TestTrailBeginsWithItsOpening proves that nothing comes before the line that says
// who writes the trail, not even the first edge key.
func TestTrailBeginsWithItsOpening(t *testing.T) {
	f := newFixture(t)
	f.equal("the first actions", []any{f.lines()[0]["action"], f.lines()[1]["action"]}, []any{"AuditOpened", "RotateEdgeKey"})
}
