package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// followers follow the bare service, each on a connection of its own.
type followers struct {
	conns []*grpc.ClientConn
	end   context.CancelFunc
}

func (f *followers) close() error {
	var errs []error
	f.end()
	for _, c := range f.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// followBare lets n followers acknowledge what the bare service pushes.
func (l *lab) followBare(ctx context.Context, addr string, n int) (_ *followers, err error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &followers{end: cancel}
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

// revoker is what the revocations of a run need.
type revoker struct {
	*versus
	issuer *child
	api    pb.RevocationServiceClient
	fleet  simFleet
	nodes  int
	table  *Table
}

// sockets is how many there are at least while a revocation is measured.
const sockets = 10_000

func benchRevoke(ctx context.Context, l *lab) error {
	return l.revocations(ctx, "revoke", 1, 10, 100, 500)
}

func benchRevokeMany(ctx context.Context, l *lab) error {
	return l.revocations(ctx, "revoke-many", 1000)
}

// revocations measures into a table with so many nodes, one fleet after the other.
func (l *lab) revocations(ctx context.Context, table string, fleets ...int) (err error) {
	v, err := l.authorityAlone("admin", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	r := &revoker{versus: v, api: pb.NewRevocationServiceClient(v.toAuthority)}
	keys, err := l.keys()
	if err != nil {
		return err
	}
	if r.issuer, err = l.serverOn(l.cores.load, spec{Kind: "issuer", Keys: keys, Authority: v.authority.addr}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.issuer.stop()) }()
	entry := &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{
		Entries: []*pb.Entry{{Revision: &pb.Revision{Epoch: 1 << 60, Sequence: 1000}, Event: &pb.Entry_Revoked{
			Revoked: &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "default", Subject: crowdOf(0)}}},
		}}},
		Through: &pb.Revision{Epoch: 1 << 60, Sequence: 1000},
	}}}
	if err := l.addBare(v, "admin", entry, entry); err != nil {
		return err
	}
	r.table = l.report.table(table, fmt.Sprintf("a subject with %d sockets on as many nodes as there are, one Revoke after the other, each until its receipt is complete; bare: one push until all have acknowledged", crowd),
		"nodes", "sockets", "p50 ms", "p99 ms", "CPU-µs each", "load's CPU-µs each", "Revoke alone p50 ms", "tokens issued/s")
	for _, nodes := range fleets {
		r.nodes = l.part(nodes, min(nodes, 10))
		if err := l.revokeCase(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// crowdOf is the subject of a user, and of the others of its crowd.
func crowdOf(user int) string { return fmt.Sprintf("crowd-%07d", user/crowd) }

func (l *lab) revokeCase(ctx context.Context, r *revoker) (err error) {
	if r.fleet, err = l.simFleet(ctx, r.authority.addr, r.nodes); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.fleet.close()) }()
	theirs, err := l.followBare(ctx, r.bare.addr, r.nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.close()) }()

	n := l.part(100, 5)
	if r.nodes > 100 {
		n = l.part(30, 3)
	}
	least := l.part(sockets, crowd)
	var idle, loaded, issued []float64
	samples, err := l.inTurns(
		contender{fmt.Sprintf("revoke, %d nodes, idle", r.nodes), func() (s sample, err error) {
			tickets, err := l.crowds(ctx, r, n, least)
			if err != nil {
				return s, err
			}
			s, alone, err := l.revokeAll(ctx, r, tickets)
			idle = append(idle, alone)
			return s, err
		}},
		contender{fmt.Sprintf("revoke, %d nodes, tokens being issued", r.nodes), func() (s sample, err error) {
			tickets, err := l.crowds(ctx, r, n, least)
			if err != nil {
				return s, err
			}
			alone := none
			rate, err := underIssueLoad(r.issuer, func() (err error) {
				s, alone, err = l.revokeAll(ctx, r, tickets)
				return err
			})
			loaded, issued = append(loaded, alone), append(issued, rate)
			return s, err
		}},
		contender{fmt.Sprintf("bare push, %d followers", r.nodes), func() (sample, error) {
			return l.measureWarm(r.bare, func() (tally, error) {
				return drive(1, forCount(n), func(int, int) error { return r.toBare.Invoke(ctx, barePush, r.request, new(blob)) })
			})
		}},
	)
	if err != nil {
		return err
	}
	row := func(name string, rounds []sample, sockets float64, cpu bool, alone, issued float64) {
		s, server, load := pooled(rounds), none, none
		if cpu {
			server, load = median(rounds, sample.cpuMicros), median(rounds, sample.loadMicros)
		}
		r.table.row(name, float64(r.nodes), sockets, s.p50(), s.p99(), server, load, alone, issued)
	}
	row("Revoke to complete receipt", samples[0], float64(least), true, middle(idle), none)
	row("the same while tokens are issued", samples[1], float64(least), false, middle(loaded), middle(issued))
	row("bare push to all", samples[2], none, true, none, none)
	bare := pooled(samples[2])
	for i, while := range []string{"idle", "while tokens are issued"} {
		s := pooled(samples[i])
		name := fmt.Sprintf("of %d nodes, %s", r.nodes, while)
		if r.nodes > 100 {
			l.report.atMost("revoke: p99 ms "+name, s.p99(), 250)
			continue
		}
		l.report.atMost("revoke: p50 ms "+name, s.p50(), 6)
		l.report.atMost("revoke: p99 ms "+name, s.p99(), 50)
		if r.nodes == 100 {
			l.report.atMost("revoke: p50 by a bare push's, "+name, s.p50()/bare.p50(), 4.6)
			l.report.atMost("revoke: p99 by a bare push's, "+name, s.p99()/bare.p99(), 12.8)
		}
	}
	return nil
}

// crowds opens sockets until there are n crowds to revoke, and least sockets
// more. It returns a user of each crowd to revoke.
func (l *lab) crowds(ctx context.Context, r *revoker, n, least int) (users []int, err error) {
	need := max(n*crowd+least-r.fleet.sockets(), n*crowd)
	tickets, err := issueTickets(ctx, r.login, (need+crowd-1)/crowd*crowd, func(user int) *pb.IssueTokenRequest {
		req := issueRequest(user)
		req.Subject = crowdOf(user)
		return req
	})
	if err != nil {
		return nil, err
	}
	for i := range n {
		users = append(users, tickets[i*crowd].user)
	}
	return users, r.fleet.spread(tickets)
}

// revokeAll is a measured load: it revokes the crowd of each user, and tells how
// long the calls of Revoke took alone.
func (l *lab) revokeAll(ctx context.Context, r *revoker, users []int) (s sample, alone float64, err error) {
	answered := make([]float64, 0, len(users))
	s, err = l.measureWarm(r.authority, func() (tally, error) {
		return drive(1, forCount(len(users)), func(_, i int) error {
			began := time.Now()
			resp, err := r.api.Revoke(ctx, &pb.RevokeRequest{
				Selector: &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "default", Subject: crowdOf(users[i])}}}, Reason: "bench",
			})
			if err != nil {
				return err
			}
			answered = append(answered, millis(time.Since(began)))
			return awaitReceipt(ctx, r.api, resp.GetRevision(), r.nodes, crowd)
		})
	})
	return s, middle(answered), err
}

// awaitReceipt waits until every one of nodes has enforced a revocation, which
// must have closed so many sockets in all.
func awaitReceipt(ctx context.Context, api pb.RevocationServiceClient, revision *pb.Revision, nodes, closed int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := api.WatchReceipt(ctx, &pb.WatchReceiptRequest{Revision: revision})
	if err != nil {
		return err
	}
	rows := map[string]*pb.ReceiptRow{}
	for {
		msg, err := s.Recv()
		if err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		for _, row := range msg.GetReceipt().GetRows() {
			rows[row.GetInstanceId()] = row
		}
		if msg.GetReceipt().GetComplete() {
			break
		}
	}
	enforced, sockets := 0, 0
	for _, row := range rows {
		if row.GetEnforced() {
			enforced++
		}
		sockets += int(row.GetClosed())
	}
	if enforced != nodes || sockets != closed {
		return fmt.Errorf("a complete receipt tells of %d nodes and %d sockets, want %d and %d", enforced, sockets, nodes, closed)
	}
	return nil
}
