package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// fleet is nodes, or followers of the bare service, each on a connection of its
// own.
type fleet struct {
	conns []*grpc.ClientConn
	nodes []*fleetNode
	end   context.CancelFunc
}

func (f *fleet) close() error {
	var errs []error
	for _, n := range f.nodes {
		errs = append(errs, n.leave())
	}
	f.end()
	for _, c := range f.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// attachFleet attaches n nodes to the authority.
func (l *lab) attachFleet(ctx context.Context, addr string, n int) (_ *fleet, err error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{end: cancel}
	for range n {
		conn, err := l.dial(addr, "node")
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.conns = append(f.conns, conn)
		node, err := attachNode(ctx, conn)
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.nodes = append(f.nodes, node)
	}
	return f, nil
}

// followBare lets n followers acknowledge what the bare service pushes.
func (l *lab) followBare(ctx context.Context, addr string, n int) (_ *fleet, err error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{end: cancel}
	for range n {
		conn, err := l.dial(addr, "node")
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.conns = append(f.conns, conn)
		s, err := openBare(ctx, conn, bareFollow)
		if err == nil {
			err = s.RecvMsg(new(blob)) // from here on it is counted
		}
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		go func() { // ends by f.end
			ack := blobOf(30)
			for s.RecvMsg(new(blob)) == nil && s.SendMsg(ack) == nil {
			}
		}()
	}
	return f, nil
}

func benchRevoke(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("admin", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	login, err := l.dial(v.authority.addr, "login")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, login.Close()) }()
	entry := &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{
		Entries: []*pb.Entry{{Revision: &pb.Revision{Epoch: 1 << 60, Sequence: 1000}, Event: &pb.Entry_Revoked{
			Revoked: &pb.Selector{By: &pb.Selector_TokenId{TokenId: token.ID{}.String()}},
		}}},
		Through: &pb.Revision{Epoch: 1 << 60, Sequence: 1000},
	}}}
	if err := l.addBare(v, "admin", entry, entry); err != nil {
		return err
	}
	t := l.report.table("revoke", "one Revoke of a token after the other, each until its receipt is complete; bare: one push until all have acknowledged",
		"nodes", "p50 ms", "p99 ms", "CPU-µs each", "Revoke alone p50 ms")
	for _, nodes := range []int{1, 10, 100} {
		if err := l.revokeCase(ctx, v, login, nodes, t); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) revokeCase(ctx context.Context, v *versus, login *grpc.ClientConn, nodes int, t *Table) (err error) {
	ours, err := l.attachFleet(ctx, v.authority.addr, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	theirs, err := l.followBare(ctx, v.bare.addr, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.close()) }()

	api := pb.NewRevocationServiceClient(v.toAuthority)
	perSecond := 1000 / (nodes + 5) // few enough to fit into the interval
	n := max(int(l.interval.Seconds()*float64(perSecond))*2, 5)
	var alone [][]time.Duration
	samples, err := l.inTurns(
		contender{fmt.Sprintf("revoke, %d nodes", nodes), func() (sample, error) {
			tickets, err := issueTickets(ctx, login, n, issueRequest)
			if err != nil {
				return sample{}, err
			}
			answered := make([]time.Duration, 0, n)
			s, err := l.measureWarm(v.authority, func() (tally, error) {
				return drive(1, forCount(n), func(_, i int) error {
					began := time.Now()
					revision, err := revoke(ctx, api, tickets[i].text)
					if err != nil {
						return err
					}
					answered = append(answered, time.Since(began))
					return awaitReceipt(ctx, api, revision, nodes)
				})
			})
			alone = append(alone, answered)
			return s, err
		}},
		contender{fmt.Sprintf("bare push, %d followers", nodes), func() (sample, error) {
			return l.measureWarm(v.bare, func() (tally, error) {
				return drive(1, forCount(n), func(int, int) error { return v.toBare.Invoke(ctx, barePush, v.request, new(blob)) })
			})
		}},
	)
	if err != nil {
		return err
	}
	answered := make([]float64, 0, len(alone))
	for _, round := range alone {
		values := make([]float64, len(round))
		for i, d := range round {
			values[i] = millis(d)
		}
		answered = append(answered, middle(values))
	}
	row := func(name string, s []sample, alone float64) {
		t.row(name, float64(nodes), median(s, sample.p50), median(s, sample.p99), median(s, sample.cpuMicros), alone)
	}
	row("Revoke to complete receipt", samples[0], middle(answered))
	row("bare push to all", samples[1], none)
	return nil
}

func revoke(ctx context.Context, api pb.RevocationServiceClient, text string) (*pb.Revision, error) {
	var t token.Token
	if err := token.Parse([]byte(text), &t); err != nil {
		return nil, err
	}
	resp, err := api.Revoke(ctx, &pb.RevokeRequest{
		Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: t.ID.String()}}, Reason: "bench",
	})
	return resp.GetRevision(), err
}

// awaitReceipt waits until every one of nodes has enforced a revocation.
func awaitReceipt(ctx context.Context, api pb.RevocationServiceClient, revision *pb.Revision, nodes int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := api.WatchReceipt(ctx, &pb.WatchReceiptRequest{Revision: revision})
	if err != nil {
		return err
	}
	rows := map[string]bool{}
	for {
		msg, err := s.Recv()
		if err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		for _, row := range msg.GetReceipt().GetRows() {
			rows[row.GetInstanceId()] = row.GetEnforced()
		}
		if msg.GetReceipt().GetComplete() {
			break
		}
	}
	enforced := 0
	for _, done := range rows {
		if done {
			enforced++
		}
	}
	if enforced != nodes {
		return fmt.Errorf("a complete receipt names %d nodes, want %d", enforced, nodes)
	}
	return nil
}
