package authority

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Audit writes the audit trail: a JSON object a line for every decision, with
// "time", "action", what it was about, and "outcome" ("ok" or a reason).
// Strings that peers supplied are scrubbed of tokens before they come here.
//
// Lines are written out ten times a second and when 64 KiB wait. While they
// can't be written they wait, up to 1 MiB; beyond it they are lost, and the
// trail says how many once it can. Safe for concurrent use.
type Audit struct {
	w    io.Writer // used by one goroutine at a time, with mu locked
	done chan struct{}
	wg   sync.WaitGroup

	mu   sync.Mutex // guards what follows
	buf  []byte     // whole lines, but for the first after a short write
	err  error      // of the last write
	lost uint64     // lines
	told uint64     // how many of them the trail has told of
}

const (
	auditFlush = 100 * time.Millisecond
	auditBatch = 64 << 10
	auditBound = 1 << 20
)

// NewAudit starts a trail that is written to w until Close.
func NewAudit(w io.Writer) *Audit {
	a := &Audit{w: w, done: make(chan struct{}), buf: make([]byte, 0, 2*auditBatch)}
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
	if a.err == nil && a.lost > 0 {
		return errors.New("audit trail: lines were lost while it could not be written")
	}
	return a.err
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

// flush writes out what waits; mu is locked.
func (a *Audit) flush(now time.Time) {
	if n := a.lost - a.told; n > 0 && len(a.buf) < auditBound/2 {
		a.told = a.lost
		a.buf = appendLine(a.buf, now, "AuditLost", "ok", []slog.Attr{slog.Uint64("lines", n)})
	}
	if len(a.buf) == 0 {
		return
	}
	n, err := a.w.Write(a.buf)
	a.buf = append(a.buf[:0], a.buf[min(max(n, 0), len(a.buf)):]...)
	a.err = err
}

// record adds a line.
func (a *Audit) record(now time.Time, action, outcome string, attrs ...slog.Attr) {
	line := lines.Get().(*[]byte)
	*line = appendLine((*line)[:0], now, action, outcome, attrs)
	a.mu.Lock()
	if len(a.buf)+len(*line) > auditBound {
		a.lost++
	} else {
		a.buf = append(a.buf, *line...)
	}
	if len(a.buf) >= auditBatch && a.err == nil { // run tries again after an error
		a.flush(now)
	}
	a.mu.Unlock()
	lines.Put(line)
}

var lines = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// appendLine appends a line of the trail. It does by hand what slog's JSON
// handler does, which takes longer than to redeem a token does.
func appendLine(b []byte, now time.Time, action, outcome string, attrs []slog.Attr) []byte {
	b = append(b, `{"time":"`...)
	b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = appendJSON(append(b, `","action":`...), action)
	for i := range attrs {
		b = append(b, ',', '"')
		b = append(b, attrs[i].Key...) // our own, of plain letters
		b = append(b, '"', ':')
		v := attrs[i].Value.Resolve()
		switch v.Kind() {
		case slog.KindString:
			b = appendJSON(b, v.String())
		case slog.KindInt64:
			b = strconv.AppendInt(b, v.Int64(), 10)
		case slog.KindUint64:
			b = strconv.AppendUint(b, v.Uint64(), 10)
		case slog.KindBool:
			b = strconv.AppendBool(b, v.Bool())
		case slog.KindTime:
			b = append(v.Time().UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
		default:
			b = appendJSON(b, v.String())
		}
	}
	b = append(b, `,"outcome":`...)
	return append(appendJSON(b, outcome), '}', '\n')
}

// appendJSON appends s as a JSON string.
func appendJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // of a string it does not fail
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

type callKey struct{}

// note adds to the audit line of the call.
func note(ctx context.Context, attrs ...slog.Attr) {
	c := ctx.Value(callKey{}).(*call)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attrs = append(c.attrs, attrs...)
}
