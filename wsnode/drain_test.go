package wsnode

import (
	"regexp"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

var slotText = regexp.MustCompile(`^node restarts; retry_after=(\d+\.\d{3})$`)

// slotIn is the time to come back that a close frame names.
func slotIn(t *testing.T, op ws.OpCode, payload []byte) time.Duration {
	t.Helper()
	code, reason := ws.StatusCode(0), ""
	if op == ws.OpClose && len(payload) > 0 {
		code, reason = ws.ParseCloseFrameData(payload)
	}
	m := slotText.FindStringSubmatch(reason)
	if code != 1012 || m == nil {
		t.Errorf("opcode %x %q, want a close with 1012 and a slot", op, payload)
		return 0
	}
	seconds, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Error(err)
	}
	return time.Duration(seconds * float64(time.Second))
}

// draining is a lab with so many sessions that drains over 20 s, and tells to come
// back within 30. ended gets when each was closed and its slot.
func draining(t *testing.T, sockets int, test func(l *lab, begin time.Time, ended <-chan [2]time.Duration)) {
	t.Helper()
	inLab(t, func(c *Config, _ *wstest.Authority) {
		c.DrainWindow, c.ReturnWindow = 20*time.Second, 30*time.Second
		c.Limits.NewPerAddress.Max = 1000
	}, func(l *lab) {
		ended := make(chan [2]time.Duration, sockets)
		peers := make([]*wstest.Peer, sockets)
		for i := range peers {
			peers[i] = l.open(echoPath, wstest.Token{})
		}
		begin := time.Now()
		for _, p := range peers {
			go func() {
				op, payload := p.Read()
				at := time.Since(begin)
				p.Write(wstest.CloseFrame(1012, ""))
				p.WantEnd()
				ended <- [2]time.Duration{at, slotIn(t, op, payload)}
			}()
		}
		test(l, begin, ended)
	})
}

// A drain closes sockets evenly over its window, and tells each a slot of its own
// to come back in; those that are left work until then.
func TestDrainWindow(t *testing.T) {
	const sockets = 100
	draining(t, sockets, func(l *lab, begin time.Time, ended <-chan [2]time.Duration) {
		drained := make(chan error, 1)
		go func() { drained <- l.Drain(l.t.Context()) }()
		synctest.Wait()
		if err := l.Ready(); err != errDraining {
			t.Errorf("ready: %v", err)
		}
		if _, err := l.l.Dial(loopbackAddr); err == nil {
			t.Error("the listener is open")
		}
		time.Sleep(10*time.Second - time.Millisecond)
		synctest.Wait()
		if n := len(ended); n < 49 || n > 51 || l.Sessions() != sockets-n {
			t.Errorf("in the middle %d of %d are closed, and %d are left", n, sockets, l.Sessions())
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < 19*time.Second || took > 20*time.Second {
			t.Errorf("drained in %v, want about 20 s", took)
		}
		var closes, slots []time.Duration
		for range sockets {
			e := <-ended
			closes, slots = append(closes, e[0]), append(slots, e[1])
		}
		slices.Sort(closes)
		slices.Sort(slots)
		for i := range sockets {
			if due := time.Duration(i) * 200 * time.Millisecond; closes[i] < due || closes[i] > due+200*time.Millisecond {
				t.Errorf("close %d of %d came after %v, want %v", i, sockets, closes[i], due)
			}
			// The golden ratio's multiples leave no gap above 3 times the mean.
			if due := time.Duration(i) * 300 * time.Millisecond; slots[i] < due-900*time.Millisecond || slots[i] > due+900*time.Millisecond || slots[i] > 30*time.Second {
				t.Errorf("slot %d of %d is %v, want about %v", i, sockets, slots[i], due)
			}
		}
	})
}

// A session whose turn has not come goes on; a handshake under way when the drain
// begins is refused as soon as it is whole, with a slot too.
func TestDrainWindowMeanwhile(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { c.DrainWindow, c.ReturnWindow = 20*time.Second, 30*time.Second }, func(l *lab) {
		peers := map[string]*wstest.Peer{"a": l.open(echoPath, wstest.Token{Subject: "a"}), "b": l.open(echoPath, wstest.Token{Subject: "b"})}
		late := l.dial()
		request := wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes()
		late.Write(request[:10])
		drained := make(chan error, 1)
		go func() { drained <- l.Drain(l.t.Context()) }()
		synctest.Wait()
		left := l.sessions.all()
		if len(left) != 1 {
			t.Fatalf("%d sessions are left at once, want 1", len(left))
		}
		open := peers[left[0].subject]
		for _, p := range peers {
			if p != open {
				op, payload := p.Read()
				slotIn(t, op, payload)
				p.Write(wstest.CloseFrame(1012, ""))
				p.WantEnd()
			}
		}
		exchange(open, "still here")
		late.Write(request[10:])
		resp, body := late.Response()
		if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != 503 || err != nil || after < 1 || after > 30 {
			t.Errorf("%d %s, Retry-After %q, want 503 and a slot", resp.StatusCode, body, resp.Header.Get("Retry-After"))
		}
		op, payload := open.Read()
		slotIn(t, op, payload)
		open.Write(wstest.CloseFrame(1012, ""))
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

// A drain that has no time left closes the rest at once, each with its slot.
func TestDrainWindowCutShort(t *testing.T) {
	const sockets = 100
	draining(t, sockets, func(l *lab, begin time.Time, ended <-chan [2]time.Duration) {
		ctx, cancel := contextFor(5 * time.Second)
		defer cancel()
		if err := l.Drain(ctx); err == nil {
			t.Error("no error, though its time was up")
		}
		last := time.Duration(0)
		for range sockets {
			last = max(last, (<-ended)[0])
		}
		if last != 5*time.Second {
			t.Errorf("the last was closed after %v, want 5 s", last)
		}
	})
}

// A drain waits for no window once nobody is left.
func TestDrainWindowEndsEarly(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { c.DrainWindow = time.Hour }, func(l *lab) {
		peers := []*wstest.Peer{l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{})}
		begin := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- l.Drain(l.t.Context()) }()
		for _, p := range peers {
			p.Write(wstest.CloseFrame(1000, "")) // in answer, or of its own accord
			p.Read()
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("drained in %v", took)
		}
	})
}
