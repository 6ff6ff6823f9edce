package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const revokeHelp = `Revoke what a selector hits and was issued before: its tokens open no socket any
more, and its sessions are closed. There is no way back; to deny a user until
further notice, see gatehouse lock.

Exactly one selector is wanted: --token, --session, --subject (with --tenant for
a tenant other than the default), --tenant, --ip-prefix, --issuer, for everyone
--all-subjects, or leaked tokens with --token-stdin. --tenant, --ip-prefix,
--issuer and --all-subjects can hit many users: they need --reason, show what
they would hit, and ask for the selector's value to be typed, unless --yes is
given.

What it hits is counted first, for up to three seconds. The revocation is on
disk before anything is printed. Then the command waits, up to --timeout, until
every node has enforced it, and prints the receipt. If a node has not confirmed
by then, the exit code is 6 and the row says by when the node will have closed
its sockets itself.

With --grace, sockets that are open have so long to renew with a token issued
after the revocation, as when a user's rights have changed: each is told so at
once, and closed if it has not by then. Nobody new gets in meanwhile. A node has
enforced it once each socket has renewed or is gone, so that the exit code is 6
while any may be left; --timeout is longer by the grace unless it is given.

--token-stdin finds tokens and token ids in any text, one or more a line. Lines
that hold none are counted and reported by their number. A run that was stopped
names the first line that may not be done: --from-line goes on there. To revoke
again what is revoked does no harm.`

const revokeExample = `  gatehouse revoke --subject u42
  gatehouse revoke --subject u42 --tenant acme --reason "laptop stolen"
  gatehouse revoke --token 01JD8Z0Q4M3T5V7X9ZABCDEFGH
  gatehouse revoke --subject u42 --grace 30s --reason "role changed"
  gatehouse revoke --tenant acme --reason "contract ended" --dry-run
  gatehouse revoke --ip-prefix 203.0.113.0/24 --reason "abuse" --yes
  gatehouse revoke --all-subjects --reason "database leaked" --dry-run
  gatehouse revoke --token-stdin --reason "pasted in a ticket" < leaked.txt
  gatehouse revoke --token-stdin --reason "pasted in a ticket" --from-line 412007 < leaked.txt`

// countPatience is how long a revocation that nobody asked a question about
// waits for the count of what it hits.
const countPatience = 3 * time.Second

// ending is what revoke and lock have in common: the flags, and the order of
// asking, doing and waiting.
type ending struct {
	verb      string // revoke, lock
	past      string // revoked, locked
	sel       selector
	reason    string
	grace     time.Duration // 0 for none
	requestID string
	dryRun    bool
	yes       bool
	wait      bool
	noWait    bool
	timeout   time.Duration
}

func (e *ending) flags(f *pflag.FlagSet) {
	f.StringVar(&e.reason, "reason", "", "why, for the audit trail")
	f.BoolVar(&e.dryRun, "dry-run", false, "change nothing, and show how many tokens and live sockets would be hit")
	f.BoolVar(&e.yes, "yes", false, "do not ask")
	e.waitFlags(f)
	f.StringVar(&e.requestID, "request-id", "", "16 to 64 characters that make a repetition count once")
}

func (e *ending) waitFlags(f *pflag.FlagSet) {
	f.BoolVar(&e.wait, "wait", true, "wait until every node has enforced it")
	f.BoolVar(&e.noWait, "no-wait", false, "do not wait for the nodes")
	f.DurationVar(&e.timeout, "timeout", 30*time.Second, "how long to wait for the nodes, or for the count of a dry run")
}

func (e *ending) check(f *pflag.FlagSet) error {
	if e.noWait && f.Changed("wait") && e.wait {
		return usagef("--wait and --no-wait contradict each other")
	}
	e.wait = e.wait && !e.noWait
	if e.timeout <= 0 {
		return usage("--no-wait does not wait at all", "--timeout: %v is not above 0", e.timeout)
	}
	if e.grace < 0 || e.grace == 0 && f.Changed("grace") {
		return usage("without --grace sockets are closed at once", "--grace: %v is not above 0", e.grace)
	}
	if !f.Changed("timeout") {
		e.timeout += e.grace
	}
	return nil
}

// ended is the authority's answer to a revocation or a lock.
type ended struct {
	tokens, sessions uint64
	revision         *pb.Revision
	lockID           string
	graceUntil       *timestamppb.Timestamp
}

func (c *cli) revokeCommand() *cobra.Command {
	e := ending{verb: "revoke", past: "revoked"}
	var fromStdin bool
	var fromLine int
	cmd := &cobra.Command{
		Use: "revoke SELECTOR", Short: "Revoke tokens and close their sockets, with a receipt",
		Long: revokeHelp, Example: revokeExample, Args: noArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.check(cmd.Flags()); err != nil {
				return err
			}
			if cmd.Flags().Changed("token-stdin") && !fromStdin {
				return usagef("--token-stdin=false says nothing to hit: leave it out")
			}
			sel, found, err := parseSelector(cmd, "token-stdin")
			switch {
			case err != nil:
				return err
			case found && cmd.Flags().Changed("from-line"):
				return usagef("--from-line is a line of what --token-stdin reads")
			case fromLine < 1:
				return usage("lines are counted from 1", "--from-line: %d is below 1", fromLine)
			}
			if !found {
				if e.grace > 0 {
					return usagef("--grace leaves sockets open, and --token-stdin is for leaked tokens: close theirs at once")
				}
				if e.requestID != "" {
					return usagef("--request-id names one revocation; --token-stdin makes many, each with an id of its own")
				}
				return c.revokeLeaked(cmd.Context(), e, fromLine)
			}
			e.sel = sel
			return c.revoke(cmd.Context(), e)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	selectorFlags(f)
	f.BoolVar(&fromStdin, "token-stdin", false, "leaked tokens, or token ids, from standard input")
	f.IntVar(&fromLine, "from-line", 1, "with --token-stdin: leave out the lines before it")
	f.DurationVar(&e.grace, "grace", 0, "how long open sockets have to renew before they are closed")
	e.flags(f)
	return cmd
}

func (c *cli) revoke(ctx context.Context, e ending) error {
	return c.end(ctx, &e, func(ctx context.Context, cl *client, dryRun bool) (*ended, error) {
		req := &pb.RevokeRequest{RequestId: e.requestID, Selector: e.sel.proto(), Reason: e.reason, DryRun: dryRun}
		if e.grace > 0 {
			req.Grace = durationpb.New(e.grace)
		}
		resp, err := cl.revocations.Revoke(ctx, req)
		return &ended{tokens: resp.GetTokens(), sessions: resp.GetSessions(), revision: resp.GetRevision(), graceUntil: resp.GetGraceUntil()}, err
	})
}

// end asks where it must, then calls and waits for the receipt. call reads the
// request id that end draws from e.
func (c *cli) end(ctx context.Context, e *ending, call func(ctx context.Context, cl *client, dryRun bool) (*ended, error)) error {
	ask := e.sel.wide() && !e.dryRun && !e.yes
	switch {
	case e.reason == "" && e.sel.wide():
		return usagef("--reason is required with --%s, which may hit many users", e.sel.by)
	case ask && !c.terminal:
		return usage("--dry-run shows what would be hit", "--%s may hit many users and nobody is there to ask: --yes is required without a terminal", e.sel.by)
	}
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	hit, err := e.count(ctx, cl, ask || e.dryRun, call)
	switch {
	case err != nil:
		return err
	case e.dryRun:
		return c.printDryRun(e, hit)
	case ask:
		would := fmt.Sprintf("gatehouse: %s at %s: %s and %s", e.sel, cl.settings.Address, count(hit.tokens, "token"), count(hit.sessions, "live socket"))
		if err := c.confirm(ctx, would, e.sel.value); err != nil {
			return err
		}
	case hit == nil:
		c.note("what it hits was not counted within %v; it goes on without", countPatience)
	case e.verb == "close" && hit.sessions == 0:
		return failed(exitNotFound, "gatehouse session list shows the live sessions; gatehouse revoke --session revokes it all the same",
			"nothing was live: session %s has ended, or never was", e.sel.value)
	}
	if e.requestID == "" {
		if e.requestID, err = c.newRequestID(); err != nil {
			return err
		}
	}
	done, err := call(ctx, cl, false)
	if err != nil {
		return err
	}
	return c.finish(ctx, cl, e, hit, done)
}

// count asks what e would hit. Where nobody needs to know before it is done, it
// is not waited for for long, and no count is a nil one: who revokes in a hurry
// is not held up by numbers.
func (e *ending) count(ctx context.Context, cl *client, must bool, call func(ctx context.Context, cl *client, dryRun bool) (*ended, error)) (*ended, error) {
	limit := e.timeout
	if !must {
		limit = min(limit, countPatience)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	hit, err := call(ctx, cl, true)
	if f := (&failure{}); !must && errors.As(err, &f) && f.exit == exitUnavailable {
		return nil, nil
	}
	return hit, err
}

// newRequestID draws a request id.
func (c *cli) newRequestID() (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(c.random, id[:]); err != nil {
		return "", fmt.Errorf("draw request id: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

func (c *cli) printDryRun(e *ending, hit *ended) error {
	if c.format == formatJSON {
		return c.printValue(struct {
			DryRun   bool   `json:"dry_run"`
			Tokens   uint64 `json:"tokens"`
			Sessions uint64 `json:"sessions"`
			Grace    string `json:"grace,omitempty"`
		}{true, hit.tokens, hit.sessions, e.graceText()})
	}
	text := fmt.Sprintf("would %s: %s and %s", e.verb, count(hit.tokens, "token"), count(hit.sessions, "live socket"))
	if e.grace > 0 {
		text += ", with " + span(e.grace) + " to renew"
	}
	return c.printf("%s\n", text)
}

// graceText is the grace as outputHelp has durations; empty for none.
func (e *ending) graceText() string {
	if e.grace == 0 {
		return ""
	}
	return secondsText(e.grace)
}

// finish waits for the receipt of what was committed, and prints it.
func (c *cli) finish(ctx context.Context, cl *client, e *ending, hit, done *ended) error {
	var r *pb.Receipt
	var waitErr error
	if e.wait {
		r, waitErr = c.waitReceipt(ctx, cl, done.revision, e.timeout)
	}
	if err := c.printEnded(e, hit, done, r); err != nil {
		return err
	}
	switch {
	case waitErr != nil:
		return unread(waitErr, e.past, done.revision)
	case r != nil && !r.GetComplete():
		return c.unconfirmed(r)
	}
	if err := e.missing(done, r); err != nil {
		return err
	}
	if closed, _ := closedSockets(r); e.verb == "revoke" && hit != nil && hit.tokens+hit.sessions+closed == 0 {
		c.note("nothing was hit: no token left to revoke and no live socket is of %s; check the spelling%s", e.sel, e.sel.elsewhere())
	}
	return nil
}

// missing says that nothing had the token or session id. The revocation stands
// all the same (RFC 7009 section 2.2), and may have closed sockets of a token
// that was forgotten before them.
func (e *ending) missing(done *ended, r *pb.Receipt) error {
	if closed, _ := closedSockets(r); closed > 0 {
		return nil
	}
	switch {
	case e.sel.by == "token" && done.tokens == 0:
		return failed(exitNotFound, "should such a token turn up, it is revoked",
			"the authority knows no token %s: it never was, or it expired and was forgotten", e.sel.value)
	case e.sel.by == "session" && done.sessions == 0:
		return failed(exitNotFound, "gatehouse session list shows the live sessions",
			"the authority knows no live session %s: it has ended, or never was", e.sel.value)
	}
	return nil
}

// printEnded prints what was committed. hit was counted just before: what came
// in between is closed all the same.
func (c *cli) printEnded(e *ending, hit, done *ended, r *pb.Receipt) error {
	if c.format == formatJSON {
		out := struct {
			LockID   string          `json:"lock_id,omitempty"`
			Revision string          `json:"revision"`
			Tokens   *uint64         `json:"tokens"`
			Sessions *uint64         `json:"sessions"`
			Grace    json.RawMessage `json:"grace_until,omitempty"`
			Receipt  json.RawMessage `json:"receipt"`
		}{LockID: done.lockID, Revision: revisionText(done.revision), Receipt: rawMessage(r)}
		if done.graceUntil != nil {
			out.Grace = appendJSONValue(nil, done.graceUntil.AsTime().Format(time.RFC3339Nano))
		}
		if hit != nil {
			out.Tokens, out.Sessions = &hit.tokens, &hit.sessions
		}
		return c.printValue(out)
	}
	what := e.past
	if done.lockID != "" {
		what += " (lock " + done.lockID + ")"
	}
	what += ": "
	if hit != nil && e.verb != "close" {
		what += count(hit.tokens, "token") + ", " + count(hit.sessions, "live socket") + "; "
	}
	if r == nil {
		if done.graceUntil != nil {
			return c.printf("%srevision %s, sockets have until %s to renew\n", what, revisionText(done.revision), c.when(done.graceUntil))
		}
		return c.printf("%srevision %s, not confirmed by nodes yet\n", what, revisionText(done.revision))
	}
	if err := c.printf("%s%s\n", what, receiptText(r)); err != nil {
		return err
	}
	return c.printRows(r)
}
