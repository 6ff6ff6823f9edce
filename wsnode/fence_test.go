package wsnode

import (
	"cmp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// fenced is a socket that the session fence closed.
type fenced struct {
	socket int // in the order in which they were opened
	after  time.Duration
	code   ws.StatusCode
}

// inOutage opens sockets, has them exchange something during an outage that
// lasts as long as they live, and gives what becomes of them from its begin on.
func inOutage(t *testing.T, sockets int, during func(l *lab, begin time.Time, ends <-chan fenced)) {
	t.Helper()
	inLab(t, func(c *Config, a *wstest.Authority) {
		c.Sockets.PingInterval, a.SessionFence = time.Hour, 40*time.Second
	}, func(l *lab) {
		time.Sleep(time.Second)
		peers := make([]*wstest.Peer, sockets)
		for i := range peers {
			peers[i] = l.open(echoPath, wstest.Token{})
		}
		synctest.Wait()
		begin := time.Now() // with a heartbeat's answer
		l.a.Hold(wstest.Heartbeats, true)
		l.a.Hold(wstest.Welcomes, true)
		time.Sleep(29 * time.Second)
		ends := make(chan fenced, sockets)
		for i, p := range peers {
			exchange(p, "without an authority")
			go func() {
				op, payload := p.Read()
				code, _ := ws.ParseCloseFrameData(payload)
				if op != ws.OpClose {
					code = 0
				}
				ends <- fenced{i, time.Since(begin), code}
				_, _ = p.Conn.Write(wstest.CloseFrame(code, ""))
			}()
		}
		during(l, begin, ends)
	})
}

// Sockets work through an outage until shortly before the session fence, and are
// closed one after the other until then.
func TestFenceClosesSpread(t *testing.T) {
	const sockets = 40
	inOutage(t, sockets, func(l *lab, _ time.Time, ends <-chan fenced) {
		var all []fenced
		for range sockets {
			all = append(all, <-ends)
		}
		var each [10]int // in each second of the ten
		for _, e := range all {
			if e.code != 1013 || e.after < 30*time.Second || e.after >= 40*time.Second+100*time.Millisecond {
				t.Fatalf("closed after %v with %d", e.after, e.code)
			}
			each[min(int((e.after-30*time.Second)/time.Second), 9)]++
		}
		for second, n := range each {
			if n < 3 || n > 5 {
				t.Errorf("%d of %d sockets were closed in second %d of 10: %v", n, sockets, second, each)
			}
		}
		if slices.IsSortedFunc(all, func(a, b fenced) int { return cmp.Compare(a.socket, b.socket) }) {
			t.Error("sockets were closed in the order in which they were opened")
		}
		if n := l.metric("sessions_closed_total", "fenced"); n != sockets {
			t.Errorf("%v sessions are counted as fenced", n)
		}
	})
}

// If the authority answers meanwhile, those that are left stay.
func TestFenceStops(t *testing.T) {
	const sockets = 40
	inOutage(t, sockets, func(l *lab, begin time.Time, ends <-chan fenced) {
		time.Sleep(time.Until(begin.Add(35 * time.Second)))
		l.a.Hold(wstest.Heartbeats, false)
		l.a.Hold(wstest.Welcomes, false)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := len(ends); n < sockets/2-3 || n > sockets/2+8 || l.Sessions() != sockets-n {
			t.Errorf("%d of %d were closed, and %d are left", n, sockets, l.Sessions())
		}
		go l.Drain(l.t.Context())
		for range sockets {
			<-ends
		}
	})
}
