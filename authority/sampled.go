package authority

import (
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Audit lines a second about refusals of one kind and reason, and how many at
// once after a pause.
const (
	refusalLines = 100
	refusalBurst = 1000
)

// refusal is what refusals are counted by: of a redemption or of a call, and the
// reason.
type refusal struct{ of, outcome string }

// sampler keeps those whom anyone can cause to be refused from filling the audit
// trail: beyond a rate it counts refusals, and the next line, or one that Run
// writes every second, tells how many. Safe for concurrent use.
type sampler struct {
	mu    sync.Mutex // guards what follows
	kinds map[refusal]*sampled
}

type sampled struct {
	limit   *rate.Limiter
	skipped uint64 // that no line has told of yet
}

func newSampler() *sampler { return &sampler{kinds: map[refusal]*sampled{}} }

// allow reports whether a refusal gets a line, and how many before it got none.
func (s *sampler) allow(r refusal, now time.Time) (skipped uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[r]
	if k == nil {
		k = &sampled{limit: rate.NewLimiter(refusalLines, refusalBurst)}
		s.kinds[r] = k
	}
	if !k.limit.AllowN(now, 1) {
		k.skipped++
		return 0, false
	}
	skipped, k.skipped = k.skipped, 0
	return skipped, true
}

// take takes the counts that no line has told of.
func (s *sampler) take() map[refusal]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out map[refusal]uint64
	for r, k := range s.kinds {
		if k.skipped > 0 {
			if out == nil {
				out = map[refusal]uint64{}
			}
			out[r], k.skipped = k.skipped, 0
		}
	}
	return out
}

// tellSkipped writes how many refusals got no line since it was told last.
func (s *Service) tellSkipped(now time.Time) {
	for r, n := range s.refusals.take() {
		s.audit.record(now, "Skipped", r.outcome, slog.String("of", r.of), slog.Uint64("lines", n), slog.String("caller", self))
	}
}
