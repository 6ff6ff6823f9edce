package sim

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// talker is the client of a named schedule, which renews its session when it is
// told to, and else says hello.
type talker struct {
	w        *world
	renewals *renewer
	next     chan string
}

func (w *world) talker(m *machine, subject string) *talker {
	text := w.issue(w.ctx, w.chances, "login", &pb.IssueTokenRequest{Tenant: "acme", Subject: subject, Audience: "chat", ClientIp: home.String()})
	t := &talker{w: w, renewals: w.newRenewer(m, text), next: make(chan string, 1)}
	own := w.chances.fork()
	opened := func() bool { return w.history.any(w.chances) != nil } // it is the only client
	w.wg.Go(func() {
		for !opened() { // the node has not caught up yet
			w.socket(own, m, text, home, time.Hour, t.renewals.hear, t.say)
			time.Sleep(100 * time.Millisecond)
		}
	})
	for !opened() {
		time.Sleep(100 * time.Millisecond)
	}
	return t
}

func (t *talker) say() string {
	select {
	case text := <-t.next:
		return text
	default:
		return "hello"
	}
}

// renew has the client show a new token, and returns its id once the authority
// has decided.
func (t *talker) renew() token.ID {
	t.next <- t.renewals.renewal(t.w.chances)
	time.Sleep(1200 * time.Millisecond) // as long as it can take
	t.renewals.mu.Lock()
	defer t.renewals.mu.Unlock()
	return t.renewals.next
}

// shown is the id of the token by which the socket goes on.
func (t *talker) shown() token.ID {
	t.renewals.mu.Lock()
	defer t.renewals.mu.Unlock()
	return t.renewals.old
}

// expectRow fails the schedule unless the receipt of an entry is complete and
// counts so much.
func (w *world) expectRow(at *pb.Revision, closed, lingering uint32) {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	r := w.history.receipts[revisionFrom(at)]
	if r == nil || r.complete.IsZero() {
		w.fault("the receipt of %d is not complete yet", at.GetSequence())
		return
	}
	for _, row := range r.rows {
		if row.GetClosed() != closed || row.GetLingering() != lingering {
			w.fault("the receipt of %d says %s, want closed %d lingering %d", at.GetSequence(), rowsText(r.rows), closed, lingering)
		}
	}
}

func isEntries(m proto.Message) bool { return asAttach(m).GetEntries() != nil }

// nothingIsApplied is without the rule that what is acknowledged has been
// applied: the node hears how far the log goes, and nothing of what is in it.
func nothingIsApplied(_ *link, m proto.Message) {
	if e := asAttach(m).GetEntries(); e != nil {
		e.Entries = nil
	}
}

// stuckLoops are races with a loop of a node that does not go on.
var stuckLoops = []race{
	{
		// The node is answered all the time. It does not get to an entry whose
		// revision the answers name.
		name: "an answer whose head a loop has not applied does not extend the lease",
		off: rules{tap: func(_ *link, m proto.Message) {
			if h := asAttach(m).GetHeartbeat(); h != nil {
				h.Head.Sequence = 0
			}
		}},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			for range 8 { // of which the last is closed shortly before the fence
				w.user(m, "ada")
			}
			time.Sleep(time.Second)
			m.link.stick(isEntries)
			w.revokeUser("ada")
			time.Sleep(releaseAfter + time.Second)
			m.link.stick(nil)
			time.Sleep(time.Second)
		},
		broken: "with deadline",
	},
	{
		// An application keeps the turn of a socket that is revoked meanwhile.
		// More messages wait behind the one that it has.
		name: "a loop that was stuck takes nothing for a session that was acknowledged as dead",
		off:  rules{tap: nothingIsApplied},
		schedule: func(w *world, off bool) {
			m := w.begin("node-0")
			w.talker(m, "ada")
			m.stick()
			time.Sleep(time.Second)
			at := w.revokeUser("ada")
			time.Sleep(2500 * time.Millisecond)
			if !off {
				w.expectRow(at, 1, 1)
			}
			if m.unstick() != 1 {
				w.fault("no loop was stuck")
			}
			time.Sleep(time.Second)
		},
		broken: "complete at",
	},
	{
		// The answer to a renewal waits for a turn that an application keeps. Its
		// token is revoked meanwhile, on a node that has no session of it yet.
		name: "a grant that waits for a stuck loop is checked once that goes on",
		off:  rules{tap: grantsAreNew},
		schedule: func(w *world, _ bool) {
			w.patience = 10 * time.Second
			m := w.begin("node-0")
			ada := w.talker(m, "ada")
			m.link.close(isAnswer)
			next := ada.renew()
			m.stick()
			time.Sleep(500 * time.Millisecond)
			m.link.close(nil)
			time.Sleep(time.Second) // the answer is there
			at := w.revokeBy(byToken(next))
			time.Sleep(time.Second)
			w.expectRow(at, 0, 0)
			if m.unstick() != 1 {
				w.fault("no loop was stuck")
			}
			time.Sleep(time.Second)
		},
		broken: "complete at",
	},
}
