package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// revokedIDs are the tokens that were revoked, each once and in order.
func revokedIDs(t *testing.T, f *fakeAuthority) []string {
	t.Helper()
	var ids []string
	requests := map[string]bool{}
	for _, r := range requestsOf[*pb.RevokeRequest](f) {
		if !requests[r.GetRequestId()] {
			ids = append(ids, r.GetSelector().GetTokenId())
		}
		requests[r.GetRequestId()] = true
	}
	slices.Sort(ids)
	if n := len(slices.Compact(slices.Clone(ids))); n != len(ids) {
		t.Errorf("%d revocations of %d tokens", len(ids), n)
	}
	return ids
}

func TestRevokeLeaked(t *testing.T) {
	c := newCaller(t)
	var texts, ids []string
	for i := range 4 {
		id, text := testToken(i)
		texts, ids = append(texts, text), append(ids, id.String())
	}
	slices.Sort(ids)
	unknown, _ := testToken(2)
	c.authority.unknown[unknown.String()] = true
	in := strings.Join([]string{
		"", "token=" + texts[0], `"` + texts[1] + `", "` + texts[2] + `"`, "a line of prose", unknown.String(), texts[3][:80], ids[3], texts[0],
	}, "\r\n")
	c.check(c.run(in, "revoke", "--token-stdin", "--reason", "pasted in a ticket"), exitUnconfirmed,
		"4 revoked, 1 of them unknown to the authority; 2 repeated; 2 lines malformed\n"+
			"12 sockets closed on 2 of 2 nodes in 12 ms\n"+completeRows,
		"gatehouse: error: 2 malformed lines: 4, 6\ngatehouse: hint: these lines hold no token, or one that is cut or edited\n")
	if got := revokedIDs(t, c.authority); !reflect.DeepEqual(got, ids) {
		t.Errorf("revoked %v, want %v", got, ids)
	}
	for _, r := range requestsOf[*pb.RevokeRequest](c.authority) {
		if r.GetReason() != "pasted in a ticket" || r.GetDryRun() || len(r.GetRequestId()) != 32 {
			t.Errorf("sent %v", r)
		}
	}
	c.check(c.run(texts[0]+"\n", "revoke", "--token-stdin", "--no-wait"), exitOK, "1 revoked, 0 of them unknown to the authority; 0 lines malformed\n", "")
	c.check(c.run(texts[0]+"\n"+texts[1]+"\n", "revoke", "--token-stdin", "--dry-run"), exitOK, "would revoke: 2 tokens and 6 live sockets; 0 lines malformed\n", "")
}

func TestRevokeLeakedDryRun(t *testing.T) {
	c := newCaller(t)
	known, _ := testToken(1)
	unknown, _ := testToken(2)
	c.authority.unknown[unknown.String()] = true
	c.check(c.run(known.String()+"\n"+unknown.String()+"\n", "revoke", "--token-stdin", "--dry-run"), exitOK,
		"would revoke: 1 token and 3 live sockets; 1 of 2 tokens unknown to the authority, or revoked already; 0 lines malformed\n", "")
	c.check(c.run(unknown.String()+"\nodd\n", "revoke", "--token-stdin", "--dry-run"), exitUnconfirmed,
		"would revoke: 0 tokens and 0 live sockets; 1 of 1 token unknown to the authority, or revoked already; 1 line malformed\n",
		"gatehouse: error: 1 malformed line: 2\ngatehouse: hint: these lines hold no token, or one that is cut or edited\n")
	c.check(c.run("", "revoke", "--token-stdin", "--dry-run"), exitUsage, "would revoke: 0 tokens and 0 live sockets; 0 lines malformed\n",
		"gatehouse: error: standard input holds no token\n")

	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, known.String()+"\n") }()
	c.check(c.interrupt("1 counted", r, "revoke", "--token-stdin", "--dry-run"), exitInterrupted, "would revoke: 1 token and 3 live sockets; 0 lines malformed\n",
		"gatehouse: error: stopped after 1 tokens were counted; nothing was revoked: interrupted\n")
	for _, r := range requestsOf[*pb.RevokeRequest](c.authority) {
		if !r.GetDryRun() {
			t.Error("a dry run revoked")
		}
	}

	var shown string
	run := testRun()
	run.dryRun, run.update = true, func(text string) { shown = text }
	if err := run.all(context.Background(), strings.NewReader(known.String()+"\n")); err != nil || shown != "line 1: 1 counted, 0 malformed" {
		t.Errorf("progress %q, %v", shown, err)
	}
}

func TestRevokeLeakedJSON(t *testing.T) {
	c := newCaller(t)
	_, text := testToken(1)
	c.check(c.run(text+"\nodd\n", "revoke", "--token-stdin", "-ojson", "--no-wait"), exitUnconfirmed, `{
  "dry_run": false,
  "lines": 2,
  "revoked": 1,
  "counted": 0,
  "unknown": 0,
  "out_of_reach": 0,
  "repeated": 0,
  "malformed": 1,
  "malformed_lines": [
    2
  ],
  "tokens": 0,
  "sessions": 0,
  "closed": 0,
  "closed_at_least": false,
  "receipt": null
}
`, `{"error":{"code":"unconfirmed","exit_code":6,"reason":"","message":"1 malformed line: 2","hint":"these lines hold no token, or one that is cut or edited"}}`+"\n")
}

func TestRevokeLeakedOfNothing(t *testing.T) {
	c := newCaller(t)
	for _, in := range []string{"", "\n\n"} {
		c.check(c.run(in, "revoke", "--token-stdin"), exitUsage, "0 revoked, 0 of them unknown to the authority; 0 lines malformed\n",
			"gatehouse: error: standard input holds no token\n")
	}
	c.check(c.run(strings.Repeat("odd\n", 150), "revoke", "--token-stdin"), exitUsage,
		"0 revoked, 0 of them unknown to the authority; 150 lines malformed\n",
		"gatehouse: error: standard input holds no token: 150 malformed lines: "+numbers(1, 100)+" and 50 more\n"+
			"gatehouse: hint: a token's text has 84 characters, its id 26\n")
}

func numbers(from, to int) string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return strings.Join(all, ", ")
}

func TestRevokeLeakedFailures(t *testing.T) {
	_, one := testToken(1)
	stopping := withReason(codes.Unavailable, pb.Reason_REASON_STOPPING, "authority is stopping")
	t.Run("a restart of the authority is waited for", func(t *testing.T) {
		c := newCaller(t)
		c.authority.errs["Revoke"], c.authority.fails["Revoke"] = stopping, 2
		c.check(c.run(one, "revoke", "--token-stdin", "--no-wait"), exitOK, "1 revoked, 0 of them unknown to the authority; 0 lines malformed\n", "")
		if sent := requestsOf[*pb.RevokeRequest](c.authority); len(sent) != 3 || sent[0].GetRequestId() != sent[2].GetRequestId() {
			t.Errorf("%d requests; a repetition must have the request id of the first", len(sent))
		}
	})
	t.Run("a refusal stops", func(t *testing.T) {
		c := newCaller(t)
		c.authority.errs["Revoke"] = withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "viewer alice may not call it")
		got := c.run("\n\n"+one+"\n", "revoke", "--token-stdin")
		if got.code != exitDenied || !strings.HasPrefix(got.stderr, "gatehouse: error: stopped after 0 tokens; lines from 3 on may not be done: viewer alice may not call it\n") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("an issuer sees only its tenants' tokens", func(t *testing.T) {
		c := newCaller(t)
		c.authority.errs["Revoke"] = withReason(codes.NotFound, pb.Reason_REASON_NOT_FOUND, "no token has this id")
		c.check(c.run(one, "revoke", "--token-stdin"), exitUnconfirmed,
			"0 revoked, 0 of them unknown to the authority; 1 not revoked: not of this credential's tenants, or unknown; 0 lines malformed\n",
			"gatehouse: error: 1 tokens were not revoked: not of this credential's tenants, or unknown\n"+
				"gatehouse: hint: an admin's credential reaches all tenants\n")
	})
	t.Run("a silent node", func(t *testing.T) {
		c := newCaller(t)
		c.authority.silence()
		c.check(c.run(one, "revoke", "--token-stdin", "--timeout=500ms"), exitUnconfirmed,
			"1 revoked, 0 of them unknown to the authority; 0 lines malformed\nat least 2 sockets closed on 1 of 2 nodes in 12 ms\n"+silentRows,
			"gatehouse: error: not confirmed by 1 of 2 nodes: node-2 (instance "+instance(2)+", by 2026-11-23 14:00:00 CET (in 60 min))\n"+
				"gatehouse: hint: ask again with gatehouse revocation show 7.1\n")
	})
	t.Run("the input breaks off", func(t *testing.T) {
		c := newCaller(t)
		got := c.runCtx(context.Background(), io.MultiReader(strings.NewReader(one+"\n"), brokenReader{}), "revoke", "--token-stdin", "--no-wait")
		c.check(got, exitUnconfirmed, "1 revoked, 0 of them unknown to the authority; 0 lines malformed\n",
			"gatehouse: error: stopped after 1 tokens; lines from 2 on may not be done: read standard input: broken\n")
	})
	t.Run("an interruption while more may come", func(t *testing.T) {
		c := newCaller(t)
		r, w := io.Pipe()
		defer w.Close()
		go func() { _, _ = io.WriteString(w, one+"\n") }()
		c.check(c.interrupt("1 revoked", r, "revoke", "--token-stdin"), exitInterrupted, "1 revoked, 0 of them unknown to the authority; 0 lines malformed\n",
			"gatehouse: error: stopped after 1 tokens; lines from 2 on may not be done: interrupted\n")
	})
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

// manyIDs writes n ids, one a line, each once.
type manyIDs struct {
	n, at int
	rest  []byte
}

func (m *manyIDs) Read(b []byte) (int, error) {
	if len(m.rest) == 0 {
		if m.at == m.n {
			return 0, io.EOF
		}
		m.at++
		m.rest = []byte(nthID(m.at).String() + "\n")
	}
	n := copy(b, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

func nthID(n int) (id token.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

// testRun is a run whose authority is a stub.
func testRun() *leakRun {
	var sequence atomic.Uint64
	return &leakRun{
		update: func(string) {}, inFlight: map[int]int{}, recent: make([]token.ID, recentIDs), patience: time.Minute,
		revoke: func(context.Context, token.ID) (*pb.RevokeResponse, error) {
			return &pb.RevokeResponse{Tokens: 1, Revision: &pb.Revision{Epoch: testEpoch, Sequence: sequence.Add(1)}}, nil
		},
		receipt: func(_ context.Context, rev *pb.Revision) (*pb.Receipt, error) { return testReceipt(rev, true), nil },
	}
}

// What a run holds does not grow with its input.
func TestLeakRunIsBounded(t *testing.T) {
	const n = 20_000
	run := testRun()
	var inFlight, most atomic.Int64
	revoke := run.revoke
	run.revoke = func(ctx context.Context, id token.ID) (*pb.RevokeResponse, error) {
		if now := inFlight.Add(1); now > most.Load() {
			most.Store(now)
		}
		defer inFlight.Add(-1)
		run.mu.Lock()
		lines, lagging := len(run.inFlight), len(run.lagging)
		run.mu.Unlock()
		if lines > leakWorkers+1 || lagging > receiptLag {
			t.Errorf("%d lines are in flight, %d receipts wait", lines, lagging)
		}
		return revoke(ctx, id)
	}
	if err := run.all(context.Background(), &manyIDs{n: n}); err != nil {
		t.Fatal(err)
	}
	if err := run.readReceipts(context.Background()); err != nil {
		t.Fatal(err)
	}
	if run.tally.Revoked != n || run.tally.Lines != n || run.closed != 3*n || run.partial || run.head.GetSequence() != n || len(run.inFlight) != 0 {
		t.Errorf("%+v, %d closed, head %v", run.tally, run.closed, run.head)
	}
	if most.Load() > leakWorkers {
		t.Errorf("%d calls at once", most.Load())
	}
}

// After a failure the summary names the first line that may not be done.
func TestLeakRunNamesTheFirstLineNotDone(t *testing.T) {
	for _, bad := range []int{1, 1000, 20_000} {
		run := testRun()
		revoke := run.revoke
		var mu sync.Mutex
		var done []int
		run.revoke = func(ctx context.Context, id token.ID) (*pb.RevokeResponse, error) {
			n := int(binary.BigEndian.Uint64(id[8:]))
			if n == bad {
				return nil, errors.New("broken")
			}
			mu.Lock()
			done = append(done, n)
			mu.Unlock()
			return revoke(ctx, id)
		}
		if err := run.all(context.Background(), &manyIDs{n: 30_000}); err == nil || err.Error() != "broken" {
			t.Errorf("ended in %v", err)
		}
		slices.Sort(done)
		if first := run.firstUndone(); first > bad || first > 1 && !slices.Equal(done[:first-1], seq(first-1)) {
			t.Errorf("line %d failed; lines from %d on are said to be not done", bad, first)
		}
	}
}

// A run that was stopped goes on from the line that it named: nothing is left out,
// and hardly more than what was under way is done twice. All calls take as long as
// one another, whatever else the machine does.
func TestLeakRunGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20_000
		var mu sync.Mutex
		done := make([]int, n+1) // how often each line was
		from, runs := 1, 1
		for ; ; runs++ {
			run := testRun()
			run.from = from
			revoke := run.revoke
			var calls atomic.Int64
			run.revoke = func(ctx context.Context, id token.ID) (*pb.RevokeResponse, error) {
				time.Sleep(time.Millisecond)
				if calls.Add(1) > n/4 {
					return nil, errors.New("broken")
				}
				mu.Lock()
				done[binary.BigEndian.Uint64(id[8:])]++
				mu.Unlock()
				return revoke(ctx, id)
			}
			if err := run.all(context.Background(), &manyIDs{n: n}); err == nil {
				break
			}
			if next := run.firstUndone(); next <= from {
				t.Fatalf("run %d began at line %d and is to be gone on with at %d", runs, from, next)
			} else {
				from = next
			}
		}
		twice := 0
		for line, times := range done[1:] {
			if times == 0 {
				t.Fatalf("line %d was left out", line+1)
			}
			twice += times - 1
		}
		if most := runs * leakWorkers; twice > most {
			t.Errorf("%d lines were done again in %d runs, want at most %d", twice, runs, most)
		}
	})
}

func TestRevokeLeakedFromLine(t *testing.T) {
	c := newCaller(t)
	_, one := testToken(1)
	id, two := testToken(2)
	in := one + "\nodd\n" + two + "\nodd\n"
	c.check(c.run(in, "revoke", "--token-stdin", "--no-wait", "--from-line", "3"), exitUnconfirmed, "1 revoked, 0 of them unknown to the authority; 1 line malformed\n",
		"gatehouse: error: 1 malformed line: 4\ngatehouse: hint: these lines hold no token, or one that is cut or edited\n")
	if got := revokedIDs(t, c.authority); !reflect.DeepEqual(got, []string{id.String()}) {
		t.Errorf("revoked %v, want %v", got, id)
	}
	c.check(c.run(in, "revoke", "--token-stdin", "--from-line", "5"), exitUsage, "0 revoked, 0 of them unknown to the authority; 0 lines malformed\n",
		"gatehouse: error: standard input holds no token from line 5 on; it has 4 lines\n")
	c.check(c.run(in, "revoke", "--token-stdin", "--from-line", "0"), exitUsage, "", "gatehouse: error: --from-line: 0 is below 1\ngatehouse: hint: lines are counted from 1\n")
	c.check(c.run("", "revoke", "--subject", "u42", "--from-line", "2"), exitUsage, "", "gatehouse: error: --from-line is a line of what --token-stdin reads\n")
}

func seq(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i + 1
	}
	return out
}

func TestLeakRunSkipsRepetitions(t *testing.T) {
	run := testRun()
	same := strings.Repeat(nthID(7).String()+"\n", 10_000)
	if err := run.all(context.Background(), strings.NewReader(same)); err != nil {
		t.Fatal(err)
	}
	if run.tally.Revoked != 1 || run.tally.Repeated != 9999 {
		t.Errorf("%+v", run.tally)
	}
}

// Counts wait for nodes that lag, but not for ever for one that is silent.
func TestLeakRunWaitsForLaggingNodes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		lag     time.Duration
		partial bool
	}{{"nodes lag", time.Second, false}, {"a node is silent", time.Hour, true}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = receiptLag + 1000
				run := testRun()
				run.patience = 10 * time.Second
				start := time.Now()
				run.receipt = func(_ context.Context, rev *pb.Revision) (*pb.Receipt, error) {
					return testReceipt(rev, time.Since(start) > tc.lag), nil
				}
				if err := run.all(context.Background(), &manyIDs{n: n}); err != nil {
					t.Fatal(err)
				}
				if err := run.readReceipts(context.Background()); err != nil {
					t.Fatal(err)
				}
				if run.tally.Revoked != n || run.partial != tc.partial || !tc.partial && run.closed != 3*n {
					t.Errorf("%+v, %d closed, partial %v", run.tally, run.closed, run.partial)
				}
				if took := time.Since(start); tc.partial && (took < run.patience || took > 2*run.patience) {
					t.Errorf("waited for %v", took)
				}
			})
		})
	}
}

// FuzzLeakReport proves that no output repeats what was pasted.
func FuzzLeakReport(f *testing.F) {
	_, one := testToken(1)
	for _, seed := range []string{"", one, one[:83], "gh1_" + one, "line\n" + one + "\nghk1_0123456789", "\x1b[31m" + one, strings.ToUpper(one)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for _, out := range []format{formatTable, formatJSON} {
			var all bytes.Buffer
			c := &cli{stdout: &all, stderr: scrubbingWriter{&all}, format: out, now: time.Now, zone: testZone}
			run := testRun()
			s := leakScanner{broken: run.broken, found: func(id token.ID, line int) error {
				if !run.seen(id, line) {
					resp, _ := run.revoke(context.Background(), id)
					run.done(leak{id, line}, resp)
				}
				return nil
			}}
			if err := s.scan(strings.NewReader(in), scanBuffer); err != nil {
				t.Fatal(err)
			}
			r := testReceipt(run.head, true)
			if err := c.printLeaked(run, r); err != nil {
				t.Fatal(err)
			}
			if err := run.outcome(c, r, nil, nil); err != nil {
				c.report(context.Background(), err)
			}
			for _, word := range strings.FieldsFunc(in, func(r rune) bool { return r >= 0x80 || !isWord(byte(r)) }) {
				if len(word) >= 20 && strings.Contains(all.String(), word) {
					t.Fatalf("%q is repeated in %s", word, all.String())
				}
			}
		}
	})
}
