package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

func lookStrace(t *testing.T) string {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: ", err)
	}
	return strace
}

// What the kernel sees: before a call is answered, all that was written to the
// store since the last answer has been synced, and there was something. The
// same look at a store that does not sync finds that it does not.
func TestSyncedBeforeAnswered(t *testing.T) {
	strace := lookStrace(t)
	for _, c := range []struct {
		option string
		synced bool
	}{{"", true}, {"nosync", false}} {
		dir := t.TempDir()
		trace := filepath.Join(dir, "trace")
		path := filepath.Join(dir, "gatehouse.db")
		out := output(t, child(t, "traced", path, c.option,
			strace, "-f", "-y", "-s", "16", "-o", trace, "-e", "trace=write,pwrite64,pwritev,pwritev2,fdatasync,fsync"))
		if n := strings.Count(out, "answered "); n != tracedCalls {
			t.Fatalf("the child says %q: want %d answers", out, tracedCalls)
		}
		text, err := os.ReadFile(trace)
		must(t, err)
		answers, faults := syncFaults(string(text), path)
		if answers != tracedCalls {
			t.Fatalf("the trace has %d answers, want %d", answers, tracedCalls)
		}
		if c.synced && len(faults) > 0 {
			t.Errorf("%s", strings.Join(faults, "\n"))
		}
		if !c.synced && len(faults) != tracedCalls {
			t.Errorf("of a store that does not sync, %d of %d answers are found to come too early: the test can't fail", len(faults), tracedCalls)
		}
	}
}

var (
	traceCall    = regexp.MustCompile(`^(\d+) +(\w+)\((\d+)<([^>]*)>(.*)$`)
	traceResumed = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>.*= (-?\d+)`)
	traceResult  = regexp.MustCompile(`= (-?\d+)[^=]*$`)
)

// syncFaults reads a trace. It counts the answers that the child has written,
// and tells of those that came before what belongs to them was synced.
func syncFaults(trace, path string) (answers int, faults []string) {
	written := 0                // writes to the store begun so far
	synced := 0                 // how many of them a sync that has returned covers
	atAnswer := 0               // written, at the last answer
	syncing := map[string]int{} // by thread: written, when its sync began
	ended := func(thread, result string) {
		if result == "0" {
			synced = max(synced, syncing[thread])
		}
		delete(syncing, thread)
	}
	for _, line := range strings.Split(trace, "\n") {
		if m := traceResumed.FindStringSubmatch(line); m != nil {
			if m[2] == "fdatasync" || m[2] == "fsync" {
				ended(m[1], m[3])
			}
			continue
		}
		m := traceCall.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		thread, call, file, rest := m[1], m[2], m[4], m[5]
		switch {
		case call == "write" && strings.Contains(rest, `"answered `):
			answers++
			switch {
			case written == atAnswer:
				faults = append(faults, fmt.Sprintf("answer %d: nothing was written", answers))
			case synced < written:
				faults = append(faults, fmt.Sprintf("answer %d: %d writes were not synced", answers, written-synced))
			}
			atAnswer = written
		case file != path:
		case strings.HasPrefix(call, "pwrite"), call == "write":
			written++
		case call == "fdatasync", call == "fsync":
			syncing[thread] = written
			if r := traceResult.FindStringSubmatch(rest); r != nil && !strings.Contains(rest, "unfinished") {
				ended(thread, r[1])
			}
		}
	}
	return answers, faults
}

// When a sync fails, the store stops: it answers nothing more, and the next
// process finds what was answered.
func TestFailedSyncStops(t *testing.T) {
	strace := lookStrace(t)
	for _, when := range []string{"9+", "12+", "15", "18"} { // data and meta pages; for good, or once
		dir := t.TempDir()
		path := filepath.Join(dir, "gatehouse.db")
		must(t, open(t, path, tracedOptions).Close()) // so that each group has two syncs
		out := output(t, child(t, "traced", path, "go on",
			strace, "-f", "-o", filepath.Join(dir, "trace"), "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when="+when))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		answered := 0
		for answered < len(lines) && strings.HasPrefix(lines[answered], "answered ") {
			answered++
		}
		if answered == 0 || answered == tracedCalls {
			t.Fatalf("%d calls were answered: the test tests nothing\n%s", answered, out)
		}
		for _, line := range lines[answered:] {
			if line != "stopped" {
				t.Errorf("sync %s fails: after that the child says %q, want nothing but that it has stopped", when, line)
			}
		}
		s := open(t, path, tracedOptions)
		for n := range answered {
			if err := tracedCheck(t, s, n); err != nil {
				t.Errorf("sync %s fails: call %d was answered, but %v", when, n, err)
			}
		}
		check(t, s)
	}
}

const tracedCalls = 24

var tracedOptions = Options{MapBytes: 16 << 20, AheadBytes: 1}

// tracedCall makes the nth call: a token is stored, redeemed, and revoked in
// turn, and its session ended.
func tracedCall(s *Store, n int) error {
	ctx := context.Background()
	token := n / 4
	switch n % 4 {
	case 0:
		r, err := s.Insert(ctx, []*storage.Token{testToken(token)})
		return errors.Join(err, firstErr(r, func(r storage.Inserted) error { return r.Err }))
	case 1:
		found, err := s.Lookup(ctx, []storage.TokenID{testID(token)})
		if err != nil || found[0] == nil {
			return errors.Join(err, s.Err()) // where storing it has stopped the store
		}
		r, err := s.Redeem(ctx, []storage.Redemption{{Token: found[0], Session: testSession(token)}})
		return errors.Join(err, firstErr(r, func(r storage.Redeemed) error { return r.Err }))
	case 2:
		_, err := s.Append(ctx, storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: testID(token)}, KeepUntil: benchStart.Add(time.Hour)})
		return err
	}
	_, err := s.EndSessions(ctx, []storage.SessionID{testSession(token).ID})
	return err
}

func firstErr[R any](rs []R, err func(R) error) error {
	for _, r := range rs {
		if err := err(r); err != nil {
			return err
		}
	}
	return nil
}

// tracedCheck reports whether what the nth call did holds.
func tracedCheck(t *testing.T, s *Store, n int) error {
	token := n / 4
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(token)})
	must(t, err)
	if found[0] == nil {
		return errors.New("its token is unknown")
	}
	st, err := s.Statuses(t.Context(), found)
	must(t, err)
	switch {
	case n%4 == 1 && st[0].Uses != 1:
		return errors.New("its token is unused")
	case n%4 == 2 && st[0].RevokedBy == storage.Revision{}:
		return errors.New("its token is not revoked")
	case n%4 == 3:
		live, err := s.Sessions(t.Context(), []storage.SessionID{testSession(token).ID})
		must(t, err)
		if live[0] != nil {
			return errors.New("its session is live")
		}
	}
	return nil
}

// childTraced makes calls one after another and says after each that it was
// answered, or that the store has stopped.
func childTraced(path string) error {
	option := os.Getenv(optionEnv)
	opts := tracedOptions
	opts.noSync = option == "nosync"
	s, err := Open(path, opts)
	if err != nil {
		return err
	}
	if err := s.PutInstance(context.Background(), &storage.Instance{ID: testNode, Node: "node-1"}); err != nil {
		return err
	}
	for n := range tracedCalls {
		err := tracedCall(s, n)
		switch {
		case err == nil && s.Err() == nil:
			say("answered %d", n)
		case option == "go on" && errors.Is(err, storage.ErrStopped) && errors.Is(s.Err(), storage.ErrStopped):
			say("stopped")
		default:
			return fmt.Errorf("call %d: %w, the store: %w", n, err, s.Err())
		}
	}
	return s.Close()
}
