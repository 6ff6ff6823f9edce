package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// rewatchAfter is the pause before a receipt's stream that broke is opened
// again.
const rewatchAfter = 250 * time.Millisecond

// waitReceipt follows a receipt until it is complete or timeout has passed, and
// returns it as far as it came. The error is why nothing more was learnt; it is
// nil when the time was up.
func (c *cli) waitReceipt(ctx context.Context, cl *client, rev *pb.Revision, timeout time.Duration) (*pb.Receipt, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	progress := c.startProgress()
	defer progress.end()
	var r *pb.Receipt
	for {
		err := watchReceipt(waiting, cl, rev, func(news *pb.Receipt) {
			r = mergeReceipt(r, news)
			progress.set(c.waitingText(r))
		})
		switch {
		case r.GetComplete():
			return r, nil
		case ctx.Err() != nil:
			return r, errInterrupted
		case !passing(err):
			return r, cl.explain(ctx, err)
		}
		select { // the authority restarts, perhaps
		case <-time.After(rewatchAfter):
		case <-waiting.Done():
			if r != nil {
				return r, nil
			}
			return nil, cl.explain(ctx, err)
		}
	}
}

// namesShown is how many nodes a line of progress names.
const namesShown = 3

// waitingText says on whom a receipt waits.
func (c *cli) waitingText(r *pb.Receipt) string {
	var names []string
	for _, row := range r.GetRows() {
		if !row.GetEnforced() {
			names = append(names, row.GetNode())
		}
	}
	text := fmt.Sprintf("waiting for %d of %s", len(names), count(len(r.GetRows()), "node"))
	if more := len(names) - namesShown; more > 0 {
		text += fmt.Sprintf(": %s and %d more", strings.Join(names[:namesShown], ", "), more)
	} else if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	if n := inGrace(r); n > 0 {
		text += fmt.Sprintf("; sockets on %d of them have until %s to renew", n, c.when(r.GetGraceUntil()))
	}
	return text
}

// passing reports whether a stream that ended with err is worth opening again
// while there is time.
func passing(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || errors.Is(err, io.EOF)
}

// watchReceipt passes on what one stream sends; it ends with io.EOF.
func watchReceipt(ctx context.Context, cl *client, rev *pb.Revision, news func(*pb.Receipt)) error {
	stream, err := cl.revocations.WatchReceipt(ctx, &pb.WatchReceiptRequest{Revision: rev})
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		news(resp.GetReceipt())
	}
}

// mergeReceipt is r with the rows of news in place of its own. A stream's first
// message has all rows, its later ones those that changed.
func mergeReceipt(r, news *pb.Receipt) *pb.Receipt {
	rows := slices.Clone(news.GetRows())
	for _, old := range r.GetRows() {
		if !slices.ContainsFunc(rows, func(n *pb.ReceiptRow) bool {
			return n.GetNode() == old.GetNode() && n.GetInstanceId() == old.GetInstanceId()
		}) {
			rows = append(rows, old)
		}
	}
	slices.SortFunc(rows, func(a, b *pb.ReceiptRow) int {
		return cmp.Or(strings.Compare(a.GetNode(), b.GetNode()), strings.Compare(a.GetInstanceId(), b.GetInstanceId()))
	})
	return &pb.Receipt{
		Revision: news.GetRevision(), CommittedAt: news.GetCommittedAt(), GraceUntil: news.GetGraceUntil(),
		Complete: news.GetComplete(), Rows: rows,
	}
}

// inGrace counts the nodes that wait for sockets to renew.
func inGrace(r *pb.Receipt) int {
	n := 0
	for _, row := range r.GetRows() {
		if row.GetInGrace() {
			n++
		}
	}
	return n
}

func enforcedRows(r *pb.Receipt) int {
	n := 0
	for _, row := range r.GetRows() {
		if row.GetEnforced() {
			n++
		}
	}
	return n
}

// closedSockets sums what nodes closed, and the longest that one took.
func closedSockets(r *pb.Receipt) (closed uint64, after time.Duration) {
	for _, row := range r.GetRows() {
		closed += uint64(row.GetClosed())
		after = max(after, row.GetAfter().AsDuration())
	}
	return closed, after
}

// receiptText is a receipt in a sentence.
func receiptText(r *pb.Receipt) string {
	closed, after := closedSockets(r)
	return enforcementText(closed, after, r)
}

// enforcementText tells who enforced r, with counts that may be of more
// revocations than r's.
func enforcementText(closed uint64, after time.Duration, r *pb.Receipt) string {
	if len(r.GetRows()) == 0 {
		return "no node is registered, so no socket was open"
	}
	text := fmt.Sprintf("%s closed on %d of %s", count(closed, "socket"), enforcedRows(r), count(len(r.GetRows()), "node"))
	if slices.ContainsFunc(r.GetRows(), func(row *pb.ReceiptRow) bool { return row.GetDeparted() != "" }) {
		text = "at least " + text
	}
	if after > 0 {
		text += " in " + span(after)
	}
	return text
}

func (c *cli) printRows(r *pb.Receipt) error {
	if len(r.GetRows()) == 0 {
		return nil
	}
	tab := c.newTable()
	tab.row("NODE", "INSTANCE", "ENFORCED", "CLOSED", "LINGERING", "AFTER / DEADLINE")
	for _, row := range r.GetRows() {
		closed, end := fmt.Sprint(row.GetClosed()), spanOf(row.GetAfter())
		enforced := yesNo(row.GetEnforced())
		switch {
		case row.GetInGrace():
			enforced, end = "in grace", c.deadline(r.GetGraceUntil())
		case !row.GetEnforced():
			end = c.deadline(row.GetDeadline())
		case row.GetDeparted() != "":
			closed, end = closed+" or more", end+", departed: "+row.GetDeparted()
		}
		tab.row(row.GetNode(), row.GetInstanceId(), enforced, closed, fmt.Sprint(row.GetLingering()), end)
	}
	return tab.Flush()
}

// deadline is the instant by which a silent node will have closed its sockets.
func (c *cli) deadline(t *timestamppb.Timestamp) string {
	if t == nil {
		return "no deadline"
	}
	return "by " + c.when(t)
}

// unconfirmed names the nodes that have not enforced what r is about.
func (c *cli) unconfirmed(r *pb.Receipt) error {
	var silent []string
	for _, row := range r.GetRows() {
		switch {
		case row.GetInGrace():
			silent = append(silent, fmt.Sprintf("%s (instance %s, where sockets have until %s to renew)", row.GetNode(), row.GetInstanceId(), c.when(r.GetGraceUntil())))
		case !row.GetEnforced():
			silent = append(silent, fmt.Sprintf("%s (instance %s, %s)", row.GetNode(), row.GetInstanceId(), c.deadline(row.GetDeadline())))
		}
	}
	return failed(exitUnconfirmed, askAgain(r.GetRevision()),
		"not confirmed by %d of %s: %s", len(silent), count(len(r.GetRows()), "node"), strings.Join(silent, ", "))
}

// unread says that something was committed, but not what the nodes made of it.
func unread(err error, past string, rev *pb.Revision) error {
	f := &failure{}
	err = partly(err, 1, past+", but who has enforced it could not be learnt")
	if errors.As(err, &f) {
		f.hint = askAgain(rev)
	}
	return err
}

func askAgain(rev *pb.Revision) string {
	return "ask again with gatehouse revocation show " + revisionText(rev)
}
