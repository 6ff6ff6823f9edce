package ops

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
)

type line struct {
	Msg   string
	N     int
	Lines int
}

func parseLine(t *testing.T, b []byte) (l line) {
	t.Helper()
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return l
}

// A pipe that nobody reads holds up nobody. Once somebody does, the lines that
// there was room for come whole and in their order, and how many are lost.
func TestStuckLog(t *testing.T) {
	const sent = 30_000
	r, w := io.Pipe()
	cfg := DefaultLog()
	log, q := cfg.Queue(w)
	for n := range sent {
		log.Info("line", "n", n)
	}
	lost := int(q.Lost())
	if lost == 0 || lost > sent-logQueueBytes/200 {
		t.Fatalf("%d of %d lines are lost", lost, sent)
	}
	in := bufio.NewScanner(r)
	// Which are lost depends on when the first were taken to be written.
	for next, seen, told := 0, 0, 0; seen < sent-lost || told < lost; {
		if !in.Scan() {
			t.Fatal(in.Err())
		}
		switch l := parseLine(t, in.Bytes()); {
		case strings.Contains(l.Msg, "were lost"):
			told += l.Lines
		case l.Msg == "line" && l.N >= next:
			next = l.N + 1
			seen++
		default:
			t.Fatalf("line %d is %q", next, in.Bytes())
		}
	}
	_ = r.Close()
	q.Close()
}

// disk takes so many bytes and then is full.
type disk struct {
	mu   sync.Mutex
	has  bytes.Buffer
	room int
	full chan struct{} // told of each write that found it full
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(p), d.room)
	d.has.Write(p[:n])
	if d.room -= n; n < len(p) {
		d.full <- struct{}{}
		return n, syscall.ENOSPC
	}
	return n, nil
}

// A line that a full disk has in part is ended before the next, and is lost.
func TestFullDisk(t *testing.T) {
	d := &disk{room: 10, full: make(chan struct{}, 10)}
	cfg := DefaultLog()
	log, q := cfg.Queue(d)
	log.Info("line", "n", 1)
	<-d.full
	log.Info("line", "n", 2)
	<-d.full
	d.mu.Lock()
	d.room = 1 << 20
	d.mu.Unlock()
	log.Info("line", "n", 3)
	q.Close()
	log.Info("late")
	got := strings.Split(strings.TrimSuffix(d.has.String(), "\n"), "\n")
	if len(got) != 3 || len(got[0]) != 10 || parseLine(t, []byte(got[1])).N != 3 || parseLine(t, []byte(got[2])).Lines != 2 {
		t.Errorf("%q", got)
	}
	if q.Lost() != 3 {
		t.Errorf("%d lines are lost, want 3: two for want of room, and one after the end", q.Lost())
	}
}

// All that was logged is written when Close returns.
func TestLogIsWrittenAtTheEnd(t *testing.T) {
	var out bytes.Buffer
	cfg := DefaultLog()
	log, q := cfg.Queue(&out)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				log.Info("line")
			}
		})
	}
	wg.Wait()
	q.Close()
	if n := strings.Count(out.String(), `"msg":"line"}`+"\n"); n != 400 || q.Lost() != 0 {
		t.Errorf("%d lines, %d lost", n, q.Lost())
	}
}
