package authority

import (
	"log/slog"
	"sync"
	"time"
)

// newest is the latest time that the clock has shown. A clock that has gone back
// since must not have entries of the log dropped before the tokens that they hit,
// which were made by the time that it showed then. Safe for concurrent use.
type newest struct {
	mu   sync.Mutex // guards what follows
	at   time.Time
	back bool // the log was told that the clock is behind it
}

// setBack is how far a clock is put back before it is worth a word: time servers
// move it by less.
const setBack = time.Minute

// see notes what the clock shows now, and logs when it has gone back.
func (n *newest) see(now time.Time, log *slog.Logger) {
	n.mu.Lock()
	defer n.mu.Unlock()
	behind := n.at.Sub(now)
	switch back := behind > setBack; {
	case back && !n.back:
		log.Warn("the clock has gone back: tokens and sessions live longer by that, and revocations are kept by the time it showed before", "by", behind)
	case !back && n.back:
		log.Info("the clock shows again what it had shown before")
	}
	n.back = behind > setBack
	if now.After(n.at) {
		n.at = now
	}
}

// seen notes a time that the clock has shown in an earlier process.
func (n *newest) seen(t time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.After(n.at) {
		n.at = t
	}
}

// after is the later of t and the newest time.
func (n *newest) after(t time.Time) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at.After(t) {
		return n.at
	}
	return t
}
