package authority

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// Audit writes the audit trail: a JSON object a line for every decision, with
// "time", "action", what it was about, and "outcome" ("ok" or a reason).
// Strings that peers supplied are scrubbed of tokens before they come here.
//
// Lines are sealed (package auditlog) and written out ten times a second and
// when 64 KiB wait. While they can't be written they wait, up to 1 MiB; beyond
// it they are lost, and the trail says how many once it can. Safe for
// concurrent use.
type Audit struct {
	w    io.Writer // used by one goroutine at a time, with mu locked
	file *os.File  // that w is; nil for another writer, which nobody reads back
	tail auditlog.Tail
	done chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	chain   *auditlog.Chain
	buf     []byte              // whole lines, but for the first after a short write
	sealed  int                 // of buf: bytes that a seal closes
	written auditlog.Checkpoint // of what was written out whole
	err     error               // of the last write
	lost    uint64              // lines
	told    uint64              // how many of them the trail has told of
}

const (
	auditFlush = 100 * time.Millisecond
	auditBatch = 256 << 10
	auditBound = 1 << 20
)

// NewAudit starts a trail that is written to w until Close.
func NewAudit(w io.Writer) *Audit { return startAudit(&Audit{w: w, chain: &auditlog.Chain{}}) }

// OpenAudit goes on with the trail in the file at path until Close, or begins
// one. No two processes may do so at a time. A trail whose file was moved away
// while no authority ran is gone on with too, if it lies beside path, as
// audit.jsonl.1 or audit.jsonl-20261123 do.
func OpenAudit(path string) (*Audit, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	a := &Audit{w: f, file: f}
	if err := a.resume(path); err != nil {
		return nil, errors.Join(fmt.Errorf("audit trail %s: %w", path, err), f.Close())
	}
	return startAudit(a), nil
}

// resume finds the chain to go on with.
func (a *Audit) resume(path string) error {
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	if a.chain, a.tail, err = auditlog.Resume(a.file, info.Size()); err != nil {
		return err
	}
	if a.chain.Head().Sequence == 0 {
		moved, err := auditlog.Moved(path)
		if err != nil {
			return err
		}
		a.chain.Follow(moved)
	}
	if a.tail.Torn {
		a.buf = append(a.buf, auditlog.TornEnd...) // the disk may still be full
	}
	a.written = a.chain.Head()
	return nil
}

func startAudit(a *Audit) *Audit {
	a.done, a.buf = make(chan struct{}), append(make([]byte, 0, 2*auditBatch), a.buf...)
	a.wg.Go(a.run)
	return a
}

// Close writes out what waits and reports why some of it was lost, if so.
func (a *Audit) Close() error {
	close(a.done)
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush(time.Now())
	err := a.err
	if err == nil && a.lost > 0 {
		err = errors.New("audit trail: lines were lost while it could not be written")
	}
	if a.file != nil {
		err = errors.Join(err, a.file.Sync(), a.file.Close())
	}
	return err
}

func (a *Audit) run() {
	tick := time.NewTicker(auditFlush)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			a.mu.Lock()
			a.flush(now)
			a.mu.Unlock()
		case <-a.done:
			return
		}
	}
}

// failure is why lines can't be written now, if so, and how many are lost.
func (a *Audit) failure() (lost uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost, a.err
}

// checkpoint stands for what was written out.
func (a *Audit) checkpoint() auditlog.Checkpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.written
}

// flush seals what waits and writes it out; mu is locked.
func (a *Audit) flush(now time.Time) {
	if n := a.lost - a.told; n > 0 && len(a.buf) < auditBound/2 {
		a.told = a.lost
		a.buf = auditlog.AppendLine(a.buf, now, "AuditLost", "ok", []slog.Attr{slog.Uint64("lines", n), slog.String("caller", self)})
	}
	if len(a.buf) == 0 {
		return
	}
	if len(a.buf) > a.sealed {
		a.chain.Add(a.buf[a.sealed:])
		a.buf = a.chain.AppendSeal(a.buf, now)
		a.sealed = len(a.buf)
	}
	n, err := a.w.Write(a.buf)
	a.buf = append(a.buf[:0], a.buf[min(max(n, 0), len(a.buf)):]...)
	a.sealed, a.err = len(a.buf), err
	if a.sealed == 0 {
		a.written = a.chain.Head()
	}
}

// record adds a line.
func (a *Audit) record(now time.Time, action, outcome string, attrs ...slog.Attr) {
	line := lines.Get().(*[]byte)
	*line = auditlog.AppendLine((*line)[:0], now, action, outcome, attrs)
	a.add(*line, now)
	lines.Put(line)
}

// add adds lines, of which it keeps nothing.
func (a *Audit) add(lines []byte, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.buf)+len(lines) > auditBound { // as many as there is room for
		n := bytes.IndexByte(lines, '\n') + 1
		if len(a.buf)+n > auditBound {
			a.lost += uint64(bytes.Count(lines, []byte("\n")))
			lines = nil
			break
		}
		a.buf = append(a.buf, lines[:n]...)
		lines = lines[n:]
	}
	a.buf = append(a.buf, lines...)
	if len(a.buf) >= auditBatch && a.err == nil { // run tries again after an error
		a.flush(now)
	}
}

var lines = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// opened writes the line with which every start of an authority begins: who
// writes now, for which store, and how it found the trail.
func (a *Audit) opened(now time.Time, epoch uint64) {
	attrs := []slog.Attr{slog.Int("format", auditlog.Format), slog.Uint64("epoch", epoch), slog.String("version", pb.Version)}
	outcome := "ok"
	if a.tail.Unsealed > 0 {
		attrs = append(attrs, slog.Uint64("unsealed_lines", a.tail.Unsealed), slog.Bool("torn", a.tail.Torn))
		outcome = "unsealed"
	}
	if a.tail.Damaged {
		outcome = "damaged"
	}
	a.record(now, "AuditOpened", outcome, append(attrs, slog.String("caller", self))...)
}

type callKey struct{}

// note adds to the audit line of the call.
func note(ctx context.Context, attrs ...slog.Attr) {
	c := ctx.Value(callKey{}).(*call)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attrs = append(c.attrs, attrs...)
}

// revisionAttrs name a revision in audit lines.
func revisionAttrs(r storage.Revision) []slog.Attr {
	return []slog.Attr{slog.Uint64("epoch", r.Epoch), slog.Uint64("revision", r.Sequence)}
}
