package authority

import (
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	maxStrikes = 3       // refused mismatches that revoke a token
	maxStruck  = 100_000 // tokens remembered at once
)

// strikes counts the refused mismatches of tokens. Only who shows the right
// secret can make it grow; while it is full a token that is new to it is
// revoked at its first strike. Safe for concurrent use.
type strikes struct {
	mu     sync.Mutex
	counts map[storage.TokenID]int // up to maxStrikes
}

func newStrikes() *strikes { return &strikes{counts: map[storage.TokenID]int{}} }

// add counts a mismatch and reports whether the token has had its last, now or
// before.
func (s *strikes) add(id storage.TokenID) (out bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.counts[id]
	if !known && len(s.counts) >= maxStruck {
		return true
	}
	s.counts[id] = min(n+1, maxStrikes)
	return s.counts[id] == maxStrikes
}

// sweep forgets expired tokens.
func (s *strikes) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.counts {
		if !now.Before(id.Expiry()) {
			delete(s.counts, id)
		}
	}
}
