package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

const (
	// leakWorkers is how many calls are under way at once.
	leakWorkers = 64
	// leakRetries is how often a call is repeated while the authority can't be
	// reached, after pauses that double from leakPause: six seconds in all.
	leakRetries = 5
	leakPause   = 200 * time.Millisecond
	// receiptLag is how many revocations wait before the receipt of the oldest is
	// read: by then nodes have most likely enforced it. The authority keeps
	// sockets' counts for the last 10,000.
	receiptLag = 4096
	// receiptPause is the time between two looks at a receipt that is not complete.
	receiptPause = 20 * time.Millisecond
	// namedLines is how many line numbers a summary names.
	namedLines = 100
	// recentIDs is how many ids are remembered to skip repetitions, in a table of
	// fixed size that forgets.
	recentIDs = 1 << 16
)

// leakTally counts what became of leaked tokens.
type leakTally struct {
	Lines          int   `json:"lines"`
	Revoked        int   `json:"revoked"`
	Counted        int   `json:"counted"`      // on a dry run
	Unknown        int   `json:"unknown"`      // of those, to the authority
	OutOfReach     int   `json:"out_of_reach"` // not revoked: an issuer's credential doesn't see them
	Repeated       int   `json:"repeated"`
	Malformed      int   `json:"malformed"`       // lines
	MalformedLines []int `json:"malformed_lines"` // the first namedLines of them
	Tokens         int   `json:"tokens"`          // on a dry run
	Sessions       int   `json:"sessions"`        // on a dry run
}

// did is what was done so far.
func (t *leakTally) did() string {
	if t.Counted > 0 {
		return fmt.Sprintf("%d counted", t.Counted)
	}
	return fmt.Sprintf("%d revoked", t.Revoked)
}

// leakRun revokes leaked tokens, many at a time.
type leakRun struct {
	// Set at construction.
	revoke   func(ctx context.Context, id token.ID) (*pb.RevokeResponse, error)
	receipt  func(ctx context.Context, rev *pb.Revision) (*pb.Receipt, error) // nil: receipts are not wanted
	dryRun   bool
	from     int           // the first line that counts
	patience time.Duration // how long nodes may keep the receipts waiting
	update   func(text string)

	mu       sync.Mutex // guards what follows
	tally    leakTally
	inFlight map[int]int    // line -> calls; what stays after a failure was not done
	recent   []token.ID     // by the low bits of the id
	lagging  []*pb.Revision // whose receipts are yet to be read, oldest first
	head     *pb.Revision   // the newest
	closed   uint64         // sockets, of receipts that were read
	after    time.Duration  // the longest that a node took
	partial  bool           // a receipt was read before it was complete
	stalled  time.Time      // since when no receipt was complete; zero if the last was
}

// leak is a token id and the line it stands in.
type leak struct {
	id   token.ID
	line int
}

// revokeLeaked revokes what standard input holds from a line on.
func (c *cli) revokeLeaked(ctx context.Context, e ending, from int) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	if c.terminal {
		c.note("paste tokens, one or more a line; Ctrl-D ends")
	}
	progress := c.startProgress()
	run := &leakRun{
		dryRun: e.dryRun, from: from, patience: e.timeout, update: progress.set,
		tally: leakTally{MalformedLines: []int{}}, inFlight: map[int]int{}, recent: make([]token.ID, recentIDs),
		revoke: func(ctx context.Context, id token.ID) (*pb.RevokeResponse, error) { return c.revokeOne(ctx, cl, e, id) },
	}
	if e.wait && !e.dryRun {
		run.receipt = func(ctx context.Context, rev *pb.Revision) (*pb.Receipt, error) {
			return withRetries(ctx, func() (*pb.Receipt, error) {
				resp, err := cl.revocations.GetReceipt(ctx, &pb.GetReceiptRequest{Revision: rev})
				return resp.GetReceipt(), err
			})
		}
	}
	stopped := run.all(ctx, c.stdin)
	progress.end()
	var r *pb.Receipt
	var waitErr error
	if run.receipt != nil && run.head != nil && stopped == nil {
		if r, waitErr = c.waitReceipt(ctx, cl, run.head, e.timeout); waitErr == nil {
			waitErr = run.readReceipts(ctx)
		}
	}
	if err := c.printLeaked(run, r); err != nil {
		return err
	}
	return run.outcome(c, r, stopped, waitErr)
}

// revokeOne revokes one token; its request id makes repetitions of the call
// count once.
func (c *cli) revokeOne(ctx context.Context, cl *client, e ending, id token.ID) (*pb.RevokeResponse, error) {
	requestID, err := c.newRequestID()
	if err != nil {
		return nil, err
	}
	req := &pb.RevokeRequest{
		RequestId: requestID, Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: id.String()}},
		Reason: e.reason, DryRun: e.dryRun,
	}
	return withRetries(ctx, func() (*pb.RevokeResponse, error) { return cl.revocations.Revoke(ctx, req) })
}

// withRetries repeats a call while the authority can't be reached: it restarts,
// perhaps.
func withRetries[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for try, pause := 0, leakPause; ; try, pause = try+1, 2*pause {
		v, err := call()
		f := &failure{}
		if err == nil || try == leakRetries || !errors.As(err, &f) || f.exit != exitUnavailable {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(pause):
		}
	}
}

// all reads in to its end and revokes what it finds. It stops at the first
// failure that repeating does not mend, and then returns it.
func (r *leakRun) all(parent context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	leaks := make(chan leak)
	read := make(chan error, 1)
	go func() { // ends with its input, or after a failure with the process
		defer close(leaks)
		s := leakScanner{
			found: func(id token.ID, line int) error {
				if line < r.from || r.seen(id, line) {
					return nil
				}
				select {
				case leaks <- leak{id, line}:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			},
			broken: r.broken,
		}
		err := s.scan(in, scanBuffer)
		r.at(s.line - 1)
		if err != nil {
			err = fmt.Errorf("read standard input: %w", err)
		}
		read <- err
	}()
	var workers sync.WaitGroup
	for range leakWorkers {
		workers.Go(func() {
			if err := r.work(ctx, leaks); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	if parent.Err() != nil {
		return errInterrupted
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return <-read
}

// at notes how many lines were read.
func (r *leakRun) at(line int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Lines = line
}

// seen notes that id is about to be revoked, and tells whether it was lately.
func (r *leakRun) seen(id token.ID, line int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.recent[(int(id[14])<<8|int(id[15]))%len(r.recent)]
	if *slot == id {
		r.tally.Repeated++
		return true
	}
	*slot = id
	r.tally.Lines = line
	r.inFlight[line]++
	return false
}

func (r *leakRun) broken(line int) {
	if line < r.from {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Malformed++
	if len(r.tally.MalformedLines) < namedLines {
		r.tally.MalformedLines = append(r.tally.MalformedLines, line)
	}
}

func (r *leakRun) work(ctx context.Context, leaks <-chan leak) error {
	for {
		select {
		case <-ctx.Done():
			return nil // whoever ended it says why
		case l, ok := <-leaks:
			if !ok {
				return nil
			}
			resp, err := r.revoke(ctx, l.id)
			if err != nil && status.Code(err) != codes.NotFound {
				return err
			}
			if oldest := r.done(l, resp); oldest != nil {
				if err := r.readReceipt(ctx, oldest); err != nil {
					return err
				}
			}
		}
	}
}

// done counts an answer; a nil one is that an issuer may not see the token. It
// returns a revision whose receipt is due.
func (r *leakRun) done(l leak, resp *pb.RevokeResponse) (due *pb.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inFlight[l.line]--; r.inFlight[l.line] == 0 {
		delete(r.inFlight, l.line)
	}
	switch {
	case resp == nil:
		r.tally.OutOfReach++
		return nil
	case r.dryRun:
		r.tally.Counted++
		r.tally.Tokens += int(resp.GetTokens())
		r.tally.Sessions += int(resp.GetSessions())
	default:
		r.tally.Revoked++
	}
	if resp.GetTokens() == 0 {
		r.tally.Unknown++
	}
	r.update(fmt.Sprintf("line %d: %s, %d malformed", r.tally.Lines, r.tally.did(), r.tally.Malformed))
	if r.dryRun {
		return nil
	}
	rev := resp.GetRevision()
	if rev.GetSequence() > r.head.GetSequence() {
		r.head = rev
	}
	if r.receipt == nil {
		return nil
	}
	if r.lagging = append(r.lagging, rev); len(r.lagging) > receiptLag {
		due, r.lagging = r.lagging[0], r.lagging[1:]
	}
	return due
}

// readReceipt adds up what nodes closed for one revocation. It waits for the
// nodes, which slows the run down to what they can take, but gives up for good
// once they have kept it waiting for too long.
func (r *leakRun) readReceipt(ctx context.Context, rev *pb.Revision) error {
	for {
		receipt, err := r.receipt(ctx, rev)
		if err != nil {
			return err
		}
		if !r.add(receipt) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(receiptPause):
		}
	}
}

// add counts a receipt, or asks for it to be read again.
func (r *leakRun) add(receipt *pb.Receipt) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case receipt.GetComplete():
		r.stalled = time.Time{}
	case r.partial:
	case r.stalled.IsZero():
		r.stalled = time.Now()
		return true
	case time.Since(r.stalled) < r.patience:
		return true
	default:
		r.partial = true
	}
	closed, after := closedSockets(receipt)
	r.closed += closed
	r.after = max(r.after, after)
	return false
}

// readReceipts reads all receipts that are left.
func (r *leakRun) readReceipts(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for range leakWorkers {
		workers.Go(func() {
			for ctx.Err() == nil {
				r.mu.Lock()
				if len(r.lagging) == 0 {
					r.mu.Unlock()
					return
				}
				rev := r.lagging[0]
				r.lagging = r.lagging[1:]
				r.mu.Unlock()
				if err := r.readReceipt(ctx, rev); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

func (c *cli) printLeaked(run *leakRun, r *pb.Receipt) error {
	t := run.sofar()
	if c.format == formatJSON {
		return c.printValue(struct {
			DryRun bool `json:"dry_run"`
			leakTally
			Closed        uint64          `json:"closed"`
			ClosedAtLeast bool            `json:"closed_at_least"`
			Receipt       json.RawMessage `json:"receipt"`
		}{run.dryRun, t, run.closed, run.partial, rawMessage(r)})
	}
	var text string
	if run.dryRun {
		text = fmt.Sprintf("would revoke: %s and %s", count(t.Tokens, "token"), count(t.Sessions, "live socket"))
		if t.Unknown > 0 {
			text += fmt.Sprintf("; %d of %s unknown to the authority, or revoked already", t.Unknown, count(t.Counted, "token"))
		}
	} else {
		text = fmt.Sprintf("%d revoked, %d of them unknown to the authority", t.Revoked, t.Unknown)
	}
	if t.OutOfReach > 0 {
		text += fmt.Sprintf("; %d not revoked: not of this credential's tenants, or unknown", t.OutOfReach)
	}
	if t.Repeated > 0 {
		text += fmt.Sprintf("; %d repeated", t.Repeated)
	}
	if err := c.printf("%s; %s malformed\n", text, count(t.Malformed, "line")); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	atLeast := ""
	if run.partial {
		atLeast = "at least "
	}
	if err := c.printf("%s%s\n", atLeast, enforcementText(run.closed, run.after, r)); err != nil {
		return err
	}
	return c.printRows(&pb.Receipt{Rows: r.GetRows()})
}

// outcome is the failure to end with: what stopped the run, else what is not
// known of the nodes, else what was not done.
func (r *leakRun) outcome(c *cli, receipt *pb.Receipt, stopped, waitErr error) error {
	t := r.sofar()
	done := t.Revoked
	switch {
	case stopped != nil && r.dryRun:
		return partly(stopped, 0, fmt.Sprintf("stopped after %d tokens were counted; nothing was revoked", t.Counted))
	case stopped != nil:
		return partly(stopped, done, fmt.Sprintf("stopped after %d tokens; lines from %d on may not be done", done, r.firstUndone()))
	case waitErr != nil:
		return unread(waitErr, "revoked", r.head)
	case receipt != nil && !receipt.GetComplete():
		return c.unconfirmed(receipt)
	case t.Malformed > 0 && done+t.Counted+t.OutOfReach+t.Repeated == 0 && r.from <= 1:
		return failed(exitUsage, fmt.Sprintf("a token's text has %d characters, its id %d", token.TextSize, idTextSize),
			"standard input holds no token: %s", malformedText(&t))
	case t.Malformed > 0:
		return failed(exitUnconfirmed, "these lines hold no token, or one that is cut or edited", "%s", malformedText(&t))
	case t.OutOfReach > 0:
		return failed(exitUnconfirmed, "an admin's credential reaches all tenants", "%d tokens were not revoked: not of this credential's tenants, or unknown", t.OutOfReach)
	case done+t.Counted+t.Repeated == 0 && r.from > 1:
		return usagef("standard input holds no token from line %d on; it has %s", r.from, count(t.Lines, "line"))
	case done+t.Counted+t.Repeated == 0:
		return usagef("standard input holds no token")
	}
	return nil
}

// sofar is the tally at this moment: after an interruption, somebody may still
// read.
func (r *leakRun) sofar() leakTally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tally
	t.MalformedLines = slices.Clone(t.MalformedLines)
	return t
}

// firstUndone is the first line of which not every token is known to be
// revoked.
func (r *leakRun) firstUndone() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.inFlight) == 0 {
		return r.tally.Lines + 1
	}
	return slices.Min(slices.Collect(maps.Keys(r.inFlight)))
}

func malformedText(t *leakTally) string {
	var lines []string
	for _, l := range t.MalformedLines {
		lines = append(lines, fmt.Sprint(l))
	}
	text := count(t.Malformed, "malformed line") + ": " + strings.Join(lines, ", ")
	if more := t.Malformed - len(lines); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
