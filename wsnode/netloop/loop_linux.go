package netloop

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// loopReadBytes is what one read of a loop takes at most: a socket that sends
	// more waits for the others.
	loopReadBytes = 64 << 10
	// keepOutput is how large a loop's output buffer may be to be kept.
	keepOutput = 1 << 20
	// eventsPerTurn is how many sockets one turn of a loop looks after.
	eventsPerTurn = 512
	// acceptsPerTurn bounds how long newcomers hold up the others.
	acceptsPerTurn = 64
	// expiriesPerTurn bounds the deadlines of a turn, many of which may come at
	// once.
	expiriesPerTurn = 512
	// castsPerTurn is to how many sockets a turn may broadcast.
	castsPerTurn = 512
)

// loop drives its connections from one goroutine, over raw descriptors and
// epoll. A connection is a record, named by its slot and generation; what was
// posted, and what epoll said, of an earlier generation is not for it.
type loop struct {
	// set at construction
	d     *loops
	cfg   Config
	log   *slog.Logger
	begin time.Time
	epoll int
	file  *os.File        // the epoll descriptor, as Go's netpoller knows it
	wait  syscall.RawConn // of file
	poll  func(uintptr) bool
	ended chan struct{} // closed when run has returned
	// shared is the opener's, for the machines of this loop.
	shared any

	// owned by run
	records   table[record]
	machines  table[Machine]
	transfers transfers
	wheel     wheel
	blocks    *blocks
	free      uint32 // list of slots, by their timers' next
	slots     uint32 // first slot that was never used
	now       time.Time
	turnBegan time.Time // by both clocks; what is asked for within the turn is the monotonic one, which costs half
	tick      tick
	in, out   []byte
	events    []unix.EpollEvent
	ready     int // of events
	pollError error
	ctl       unix.EpollEvent
	from      address
	msg       message
	lane      lane
	spare     []post       // the batch that ran last
	wakeAt    tick         // the deadline of file, or never
	turns     int          // so far
	busy      bool         // there is work that was put off to the next turn
	casts     []*broadcast // that wait; nil stands for postStop
	castSlot  uint32       // from which on the first of casts is to be sent
	castsLeft int          // sockets that the turn has for casts
	listeners map[uint32]*listener
	lastID    uint32 // of a listener
	paused    int    // of listeners
	stopped   bool
	closed    bool

	count  atomic.Int32 // connections, for others to choose a loop by
	parked atomic.Bool  // the loop waits, or is about to: whoever posts must wake it
	posted atomic.Bool  // posts is not empty

	mu    sync.Mutex
	posts []post
	gone  bool // run has returned, or is about to
}

// post is something that run is asked to do.
type post struct {
	kind postKind
	slot uint32
	generation
	fn     func(now time.Time, out []byte) []byte // of postTurn
	err    error                                  // of postBury
	fd     int32                                  // of postAdopt
	ticket Ticket                                 // of postAdopt
	l      *listener                              // of postListen, and of postAdopt

	broadcast *broadcast // of postBroadcast
}

type generation uint32

type postKind uint8

const (
	postTurn   postKind = iota // run fn as a turn of the connection
	postBury                   // tell the machine that its connection is gone
	postAdopt                  // take a connection that another loop has accepted
	postListen                 // accept from a listener
	postBroadcast
	postLetNobodyIn
	postStop
	postClose
)

func newLoop(d *loops) (_ *loop, err error) {
	l := &loop{
		d: d, cfg: d.cfg, log: d.log, begin: time.Now(), epoll: -1, ended: make(chan struct{}),
		blocks: newBlocks(max(d.cfg.LoopBytes/blockBytes, 1)), slots: 1, castSlot: 1, wakeAt: never,
		in: make([]byte, loopReadBytes), events: make([]unix.EpollEvent, eventsPerTurn), listeners: map[uint32]*listener{},
	}
	l.wheel.records = &l.records
	l.lane.plain = make([]byte, plaintextBytes)
	l.shared = d.opener.Share(l)
	l.poll = l.pollOnce
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	err = unix.SetNonblock(l.epoll, true) // else NewFile leaves it out of the netpoller
	l.file = os.NewFile(uintptr(l.epoll), "epoll")
	if err == nil {
		l.wait, err = l.file.SyscallConn()
	}
	if err != nil {
		_ = l.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return l, nil
}

func (l *loop) control(op, fd int, events, slot uint32, g generation) error {
	l.ctl = unix.EpollEvent{Events: events, Fd: int32(slot), Pad: int32(g)}
	if err := unix.EpollCtl(l.epoll, op, fd, &l.ctl); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// run is the loop, until postClose.
func (l *loop) run() {
	defer close(l.ended)
	for ; !l.closed || !l.leave(); l.turns++ {
		l.await()
		l.turnBegan = time.Now()
		l.setNow(l.turnBegan)
		l.castsLeft = castsPerTurn
		l.broadcasts()
		l.runPosts()
		l.busy = len(l.casts) > 0
		l.expire()
		l.resumeListeners()
		for k := range l.ready {
			l.event(&l.events[k])
		}
	}
	_ = l.file.Close()
}

// leave ends the loop if nothing is left to do.
func (l *loop) leave() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = l.count.Load() == 0 && len(l.posts) == 0
	return l.gone
}

func (l *loop) setNow(now time.Time) {
	l.now = now
	l.tick = max(l.tick, tickAt(now.Sub(l.begin)))
}

// readClock tells the time anew. It is not once for all sockets of the loop's turn: a
// process that is paused in the midst of it must find out before it hands on what
// it has read since, or sends what it was asked to before.
func (l *loop) readClock() { l.setNow(l.turnBegan.Add(time.Since(l.turnBegan))) }

// await gathers events. It waits for some unless there is something to do. A
// post that comes before parked is set is seen here; one that comes after ends
// the wait.
func (l *loop) await() {
	l.ready = 0
	if l.busy {
		l.busy = false
		l.pollOnce(0)
		return
	}
	l.setWake()
	l.parked.Store(true)
	if l.posted.Load() {
		l.parked.Store(false)
		l.pollOnce(0)
		return
	}
	err := l.wait.Read(l.poll)
	l.parked.Store(false)
	if err != nil {
		l.wakeAt = 0 // it has come, or a post: until it is set anew each read fails
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) || l.pollError != nil {
		panic(fmt.Sprint("netloop: epoll: ", errors.Join(err, l.pollError))) // no descriptor of the loop's own can fail
	}
}

// pollOnce asks epoll without waiting. Where that finds nothing, Go's netpoller
// waits for the epoll descriptor itself.
func (l *loop) pollOnce(uintptr) bool {
	n, err := pollNow(l.epoll, l.events)
	for err == unix.EINTR {
		n, err = pollNow(l.epoll, l.events)
	}
	l.pollError = err
	l.ready = max(n, 0)
	return l.ready > 0 || err != nil
}

// setWake has await return in time for the next deadline.
func (l *loop) setWake() {
	at := l.wheel.next()
	if l.paused > 0 {
		for _, li := range l.listeners {
			if li.resume != 0 {
				at = min(at, li.resume)
			}
		}
	}
	if at == l.wakeAt {
		return
	}
	l.wakeAt = at
	var when time.Time
	if at != never {
		when = l.begin.Add(at.begins())
	}
	_ = l.file.SetReadDeadline(when) // fails only on a closed file
}

// event takes one thing that epoll said.
func (l *loop) event(e *unix.EpollEvent) {
	slot, g := uint32(e.Fd), generation(e.Pad)
	if slot == 0 {
		if li := l.listeners[uint32(g)]; li != nil {
			l.accept(li)
		}
		return
	}
	r := l.records.at(slot)
	if r.generation != g || r.state == stateFree || r.state == stateDead {
		return // closed since, by the turn of another
	}
	failed := e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 // the call below finds out how
	if r.interest&unix.EPOLLOUT != 0 && (failed || e.Events&unix.EPOLLOUT != 0) {
		l.writable(slot, r)
	}
	if r.interest&unix.EPOLLIN != 0 && r.generation == g && (failed || e.Events&unix.EPOLLIN != 0) {
		l.readable(slot, r)
	}
}

// put queues a post, and wakes the loop if it waits: by the deadline of its
// file, which costs no system call, and has the scheduler run the loop next
// though all processors are busy. mu is locked.
func (l *loop) put(p post) {
	l.posts = append(l.posts, p)
	l.posted.Store(true)
	if l.parked.CompareAndSwap(true, false) {
		_ = l.file.SetReadDeadline(time.Unix(1, 0)) // it is open: nothing is put once the loop has ended
	}
}

// order queues a post that is for no connection. It reports false if the loop
// has ended.
func (l *loop) order(p post) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return false
	}
	l.put(p)
	return true
}

// Post implements Poster.
func (l *loop) Post(ref Ref, fn func(now time.Time, out []byte) []byte) bool {
	slot, g := uint32(ref>>32), generation(ref)
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.records.at(slot); r.generation != g || !r.posts {
		return false
	}
	l.put(post{slot: slot, generation: g, fn: fn})
	return true
}

// keepPosts is how many posts a batch may have had for its memory to be kept.
const keepPosts = 1024

// runPosts does what was asked for until now. What that asks for comes in the
// next turn, so that posts which post again hold up nobody. All that a
// connection is given in a row goes out in one write.
func (l *loop) runPosts() {
	if !l.posted.Load() {
		return
	}
	l.mu.Lock()
	batch := l.posts
	l.posts, l.spare = l.spare, nil
	l.posted.Store(false)
	l.mu.Unlock()
	for k := 0; k < len(batch); {
		p := &batch[k]
		k++
		switch p.kind {
		case postTurn:
			r := l.records.at(p.slot)
			l.readClock()
			l.out = p.fn(l.now, l.out[:0])
			for ; k < len(batch) && batch[k].kind == postTurn && batch[k].slot == p.slot; k++ {
				l.out = batch[k].fn(l.now, l.out)
			}
			if r.state != stateDead {
				l.finishTurn(p.slot, r)
			}
		case postBury:
			l.bury(p.slot, p.err)
		case postAdopt:
			l.adopt(p.fd, p.ticket, p.l.tls)
		case postListen:
			l.listen(p.l)
		case postBroadcast, postStop:
			l.casts = append(l.casts, p.broadcast)
			l.broadcasts()
		case postLetNobodyIn:
			l.letNobodyIn()
		case postClose:
			l.letNobodyIn()
			l.closed = true
			l.each(func(slot uint32, r *record) { l.end(slot, r, net.ErrClosed) })
		}
	}
	if clear(batch); cap(batch) <= keepPosts {
		l.spare = batch[:0]
	}
	if cap(l.out) > keepOutput {
		l.out = nil
	}
}

// each calls fn for every connection that has a socket.
func (l *loop) each(fn func(slot uint32, r *record)) {
	for slot := uint32(1); slot < l.slots; slot++ {
		if r := l.records.at(slot); r.state != stateFree && r.state != stateDead {
			fn(slot, r)
		}
	}
}

// letNobodyIn ends the listeners, and whoever was accepted and has no machine
// yet.
func (l *loop) letNobodyIn() {
	l.stopped = true
	for _, li := range l.listeners {
		l.unlisten(li, nil)
	}
}

// stop lets nobody in any more, and asks every machine to end.
func (l *loop) stop() {
	l.letNobodyIn()
	l.each(func(slot uint32, r *record) {
		if r.state == stateOpen {
			l.out = (*l.machines.at(slot)).Stop(l.now, l.out[:0])
			l.finishTurn(slot, r)
		}
	})
}

// expire runs the deadlines that have come.
func (l *loop) expire() {
	for range expiriesPerTurn {
		slot := l.wheel.pop(l.tick)
		if slot == 0 {
			return
		}
		l.expired(slot, l.records.at(slot))
	}
	l.busy = true
}
