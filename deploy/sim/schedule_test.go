package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
	"github.com/gobwas/ws"
)

// issue asks for a token until there is one, or ctx ends. It returns "" where
// the authority refuses.
func (w *world) issue(ctx context.Context, c *chances, login string, req *pb.IssueTokenRequest) string {
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		resp, err := pb.NewTokenServiceClient(w.logins[login]).IssueToken(call, req)
		cancel()
		if err != nil {
			if !again(err) {
				return ""
			}
			w.rest(ctx, c.between(100*time.Millisecond, time.Second))
			continue
		}
		id, err := token.ParseID(resp.GetTokenId())
		if err != nil {
			w.t.Error(err)
			return ""
		}
		ip, _ := netip.ParseAddr(req.GetClientIp())
		w.history.issued(id, &issued{
			tenant: req.GetTenant(), subject: req.GetSubject(), issuer: login, ip: ip,
			uses: max(int(req.GetMaxUses()), 1), revision: revisionFrom(resp.GetIssuedRevision()),
		})
		return resp.GetToken()
	}
	return ""
}

func (w *world) rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// client connects to a node with a token, and sends messages until the socket
// closes or leave is over.
func (w *world) client(c *chances, m *machine, text string, from netip.Addr, leave time.Duration) {
	r := w.newRenewer(m, text)
	w.socket(c, m, text, from, leave, r.hear, func() string { return r.message(c) })
}

// socket is client with what it says, and who hears what it is told.
func (w *world) socket(c *chances, m *machine, text string, from netip.Addr, leave time.Duration, hear func([]byte), say func() string) {
	m.awake()
	conn, err := m.l.Dial(from)
	if err != nil {
		return
	}
	defer conn.Close()
	closed := make(chan struct{})
	defer func() { <-closed }()
	defer conn.Close()
	accepted := make(chan bool, 1)
	go func() { // ends with the connection
		defer close(closed)
		read(conn, accepted, hear)
	}()
	if _, err := conn.Write(wstest.Opening{Bearer: text}.Bytes()); err != nil {
		return
	}
	select {
	case ok := <-accepted:
		if !ok {
			return
		}
	case <-w.ctx.Done():
		return
	}
	until := time.NewTimer(leave)
	defer until.Stop()
	for {
		m.awake()
		if _, err := conn.Write(wstest.Frame(ws.OpText, []byte(say()))); err != nil {
			return
		}
		select {
		case <-time.After(c.between(30*time.Millisecond, 400*time.Millisecond)):
		case <-closed:
			return
		case <-until.C:
			return // without a closing handshake
		case <-w.ctx.Done():
			return
		}
	}
}

// read reads all that comes: a socket that is not read would be closed for it.
func read(conn net.Conn, accepted chan<- bool, hear func([]byte)) {
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodGet})
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		accepted <- false
		return
	}
	accepted <- true
	for {
		h, err := ws.ReadHeader(r)
		if err != nil {
			return
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(r, payload); err != nil {
			return
		}
		hear(payload)
		if h.OpCode == ws.OpClose {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write(wstest.Frame(ws.OpClose, payload[:min(2, len(payload))]))
			return
		}
	}
}

// revoke appends an entry, under one request id until it is told so, and
// follows its receipt until that is complete.
func (w *world) revoke(ctx context.Context, c *chances, what string, ask func(context.Context, pb.RevocationServiceClient) (*pb.Revision, error)) *pb.Revision {
	api := pb.NewRevocationServiceClient(w.console)
	var at *pb.Revision
	for at == nil {
		if ctx.Err() != nil {
			return nil
		}
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		r, err := ask(call, api)
		cancel()
		if err != nil && !again(err) {
			w.event("%s: %v", what, err)
			return nil
		}
		if at = r; err != nil {
			at = nil
			w.rest(ctx, c.between(50*time.Millisecond, time.Second))
		}
	}
	w.event("entry %d: %s", at.GetSequence(), what)
	w.wg.Go(func() { w.follow(ctx, c, api, at) })
	return at
}

func (w *world) follow(ctx context.Context, c *chances, api pb.RevocationServiceClient, at *pb.Revision) {
	for ctx.Err() == nil {
		stream, err := api.WatchReceipt(ctx, &pb.WatchReceiptRequest{Revision: at})
		for err == nil {
			var resp *pb.WatchReceiptResponse
			if resp, err = stream.Recv(); err == nil && w.history.told(resp.GetReceipt()) {
				return
			}
		}
		if status.Code(err) == codes.NotFound { // of a history that a restore has ended
			return
		}
		w.rest(ctx, c.between(50*time.Millisecond, time.Second))
	}
}

var (
	tenants  = []string{"acme", "bolt"}
	subjects = []string{"ada", "bob", "eve"}
)

// step does one thing of a random schedule.
func (w *world) step() {
	m := w.anyNode()
	switch n := w.draw(100); {
	case n < 40:
		w.connectSome()
	case n < 58:
		w.revokeSome()
	case n < 62:
		w.lockSome()
	case m == nil:
		w.startNode(nodeName(w.draw(nodeNames)))
	case n < 72:
		w.partition(m)
	case n < 77:
		w.event("%s loses its connection", m)
		m.link.cut()
	case n < 82:
		w.pauseSome(m)
	case n < 87:
		dead := []*machine{m} // its successor has the lock of its state folder
		if w.chance(50) {
			dead = nil
		}
		m.end(w.chance(60), func() { w.startNode(m.name, dead...) })
	case n < 90 && w.liveNodes() < 5:
		w.startNode(nodeName(w.draw(nodeNames))) // beside another under its name, perhaps
	case n < 94:
		w.stopAuthority(w.chance(70))
		time.Sleep(w.between(10*time.Millisecond, sessionFence/2))
		w.startAuthority()
	case n < 96:
		w.takeBackup()
	case n < 98:
		w.restore(w.chance(70), w.chance(30), w.between(10*time.Millisecond, sessionFence/2))
	default:
		w.event("nothing for a while")
		time.Sleep(w.between(0, sessionFence))
	}
}

func (w *world) anyNode() *machine {
	var live []*machine
	for _, m := range w.nodes {
		if !m.dead {
			live = append(live, m)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return live[w.draw(len(live))]
}

func (w *world) liveNodes() (n int) {
	for _, m := range w.nodes {
		if !m.dead {
			n++
		}
	}
	return n
}

// connectSome issues a token and shows it to one or two nodes.
func (w *world) connectSome() {
	login := []string{"login", "other"}[w.draw(2)]
	from := clientAddresses[w.draw(len(clientAddresses))]
	req := &pb.IssueTokenRequest{
		Tenant: tenants[w.draw(2)], Subject: subjects[w.draw(3)], Audience: "chat", ClientIp: from.String(),
		MaxUses: uint32(1 + w.draw(5)/4),
	}
	c := w.chancesOf("client")
	w.wg.Go(func() {
		text := w.issue(w.ctx, c, login, req)
		if text == "" {
			return
		}
		pause := c.between(0, 50*time.Millisecond)
		for range 1 + c.draw(3) {
			m := w.anyLive(c)
			if m == nil {
				return
			}
			own := c.fork()
			w.wg.Go(func() { w.client(own, m, text, from, own.between(time.Second, 2*sessionFence)) })
			w.rest(w.ctx, pause)
		}
	})
}

// anyLive is anyNode for goroutines beside the schedule.
func (w *world) anyLive(c *chances) *machine {
	w.mu.Lock()
	var live []*machine
	for _, m := range w.nodes {
		if !m.dead {
			live = append(live, m)
		}
	}
	w.mu.Unlock()
	if len(live) == 0 {
		return nil
	}
	return live[c.draw(len(live))]
}

func (w *world) revokeSome() {
	sel, text := w.selector(w.fork())
	id, c := fmt.Sprintf("revocation %8d", w.nextNumber()), w.chancesOf("revoke")
	req := &pb.RevokeRequest{Selector: sel, Reason: "sim", RequestId: id}
	if c.chance(40) {
		grace := c.between(100*time.Millisecond, maxGrace).Truncate(time.Millisecond)
		req.Grace, text = durationpb.New(grace), fmt.Sprint(text, " within ", grace)
	}
	w.wg.Go(func() {
		w.revoke(w.ctx, c, "revoke "+text, func(ctx context.Context, api pb.RevocationServiceClient) (*pb.Revision, error) {
			resp, err := api.Revoke(ctx, req)
			return resp.GetRevision(), err
		})
	})
}

// selector draws what to revoke. How often it draws depends on what has happened,
// so c is not the schedule's own.
func (w *world) selector(c *chances) (*pb.Selector, string) {
	h := &w.history
	switch n := c.draw(10); {
	case n < 3:
		if s := h.any(c); s != nil {
			id := token.ID(s.token).String()
			return &pb.Selector{By: &pb.Selector_TokenId{TokenId: id}}, "token " + id[20:]
		}
	case n < 5:
		if s := h.any(c); s != nil && s.id != [16]byte{} {
			return &pb.Selector{By: &pb.Selector_SessionId{SessionId: fmt.Sprintf("%x", s.id)}}, "session " + short(s.id)
		}
	case n < 6:
		t := tenants[c.draw(2)]
		return &pb.Selector{By: &pb.Selector_Tenant{Tenant: t}}, "tenant " + t
	case n < 7:
		p := netip.PrefixFrom(clientAddresses[c.draw(3)], 25).Masked().String()
		return &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: p}}, "prefix " + p
	case n < 8:
		return &pb.Selector{By: &pb.Selector_Issuer{Issuer: "other"}}, "issuer other"
	case n == 8 && c.draw(4) == 0:
		return &pb.Selector{By: &pb.Selector_AllSubjects{AllSubjects: true}}, "everyone"
	}
	t, s := tenants[c.draw(2)], subjects[c.draw(3)]
	return &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: t, Subject: s}}}, "subject " + t + "/" + s
}

// any is a session that was opened, live or not.
func (h *history) any(c *chances) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.order) == 0 {
		return nil
	}
	from := max(0, len(h.order)-10)
	return h.order[from+c.draw(len(h.order)-from)]
}

func (w *world) lockSome() {
	t, s := tenants[w.draw(2)], subjects[w.draw(3)]
	id, stands, c := fmt.Sprintf("lock %16d", w.nextNumber()), w.between(time.Second, sessionFence), w.chancesOf("lock")
	w.wg.Go(func() {
		lock := ""
		w.revoke(w.ctx, c, "lock "+t+"/"+s, func(ctx context.Context, api pb.RevocationServiceClient) (*pb.Revision, error) {
			resp, err := api.Lock(ctx, &pb.LockRequest{
				Selector: &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: t, Subject: s}}}, Reason: "sim", RequestId: id,
			})
			lock = resp.GetLockId()
			return resp.GetRevision(), err
		})
		w.rest(w.ctx, stands)
		for lock != "" && w.ctx.Err() == nil {
			_, err := pb.NewRevocationServiceClient(w.console).Unlock(w.ctx, &pb.UnlockRequest{LockId: lock, Reason: "sim"})
			if err == nil || !again(err) {
				return
			}
			w.rest(w.ctx, time.Second)
		}
	})
}

// partition holds messages of a node back, one way or both, for a while. A
// partition that lasts is noticed by keepalives.
func (w *world) partition(m *machine) {
	toAuthority, fromAuthority := w.chance(75), w.chance(75)
	lasts := w.between(50*time.Millisecond, 2*sessionFence)
	if w.chance(50) {
		lasts /= 10
	}
	w.event("%s is partitioned for %v: to the authority %t, from it %t", m, lasts, toAuthority, fromAuthority)
	m.link.hold(toAuthority, fromAuthority)
	w.later(lasts, func() {
		if m.isPaused() || m.dead {
			return
		}
		w.event("%s is healed", m)
		m.link.hold(false, false)
	})
	if lasts > keepalive {
		w.later(keepalive, func() { m.link.cut() })
	}
}

func (w *world) pauseSome(m *machine) {
	if m.isPaused() {
		return
	}
	m.pause()
	lasts := w.between(10*time.Millisecond, 3*sessionFence/2)
	if w.chance(50) {
		lasts /= 10
	}
	w.later(lasts, m.resume)
}

func (m *machine) isPaused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.paused != nil
}

// later does something later in the schedule, between two steps.
func (w *world) later(after time.Duration, fn func()) {
	w.plan = append(w.plan, planned{time.Now().Add(after), fn})
}

type planned struct {
	at time.Time
	fn func()
}

// runPlanned does what is planned until then.
func (w *world) runPlanned(until time.Time) {
	for {
		next := -1
		for i := range w.plan {
			if w.plan[i].at.Before(until) && (next < 0 || w.plan[i].at.Before(w.plan[next].at)) {
				next = i
			}
		}
		if next < 0 {
			time.Sleep(time.Until(until))
			return
		}
		p := w.plan[next]
		w.plan = append(w.plan[:next], w.plan[next+1:]...)
		time.Sleep(time.Until(p.at))
		p.fn()
	}
}
