package authority

import (
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Audit lines a second of one kind, and how many at once after a pause. What
// nodes have enforced is asked for by an admin, who may revoke much at once.
const (
	sampledLines  = 100
	sampledBurst  = 1000
	enforcedLines = 1000
	enforcedBurst = 10_000
)

// kind is what lines that may be left out are counted by: of a redemption, of a
// call or of what else, with what outcome, and whose, of those that strangers
// can't cause.
type kind struct{ of, outcome, node string }

// sampler keeps those who cause lines from filling the audit trail: beyond a rate
// it counts them, and the next line, or one that Run writes every second, tells
// how many. Safe for concurrent use.
type sampler struct {
	mu    sync.Mutex // guards what follows
	kinds map[kind]*sampled
}

type sampled struct {
	limit   *rate.Limiter
	skipped uint64 // that no line has told of yet
}

func newSampler() *sampler { return &sampler{kinds: map[kind]*sampled{}} }

// allow reports whether one of a kind gets a line, and how many before it got
// none.
func (s *sampler) allow(of kind, now time.Time) (skipped uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[of]
	if k == nil {
		k = &sampled{limit: rate.NewLimiter(sampledLines, sampledBurst)}
		if of.of == "Enforced" {
			k.limit = rate.NewLimiter(enforcedLines, enforcedBurst)
		}
		s.kinds[of] = k
	}
	if !k.limit.AllowN(now, 1) {
		k.skipped++
		return 0, false
	}
	skipped, k.skipped = k.skipped, 0
	return skipped, true
}

// take takes the counts that no line has told of.
func (s *sampler) take() map[kind]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out map[kind]uint64
	for of, k := range s.kinds {
		if k.skipped > 0 {
			if out == nil {
				out = map[kind]uint64{}
			}
			out[of], k.skipped = k.skipped, 0
		}
	}
	return out
}

// tellSkipped writes how many got no line since it was told last.
func (s *Service) tellSkipped(now time.Time) {
	for of, n := range s.sampler.take() {
		attrs := append(make([]slog.Attr, 0, 4), slog.String("of", of.of), slog.Uint64("lines", n))
		if of.node != "" {
			attrs = append(attrs, slog.String("node", of.node))
		}
		s.audit.record(now, "Skipped", of.outcome, append(attrs, slog.String("caller", self))...)
	}
}
