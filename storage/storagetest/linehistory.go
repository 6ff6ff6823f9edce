package storagetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// lineState is one subject's tokens of one use, and the line of its live
// sessions: a bound refuses new ones, or ends the oldest.
type lineState struct {
	locked               bool
	stored, denied, used [lineTokens]bool
	line                 string // token of each live session, in the order of their grants
}

const (
	lineTokens = 9
	noRenewal  = lineTokens // renews no session
)

func live(line string, token byte) bool { return strings.IndexByte(line, token) >= 0 }

// deny is what a revocation and a lock do to all that is stored.
func (s *lineState) deny() {
	for n := range s.stored {
		s.denied[n] = s.denied[n] || s.stored[n]
	}
}

// lineNext is the answer to a call, and the state after it.
func lineNext(state any, in historyCall) (want string, after any) {
	s, n := state.(lineState), in.token
	switch in.what {
	case "insert":
		switch {
		case s.locked:
			want = storage.ErrLocked.Error()
		case s.stored[n]:
			want = storage.ErrExists.Error()
		default:
			s.stored[n] = true
		}
	case "revoke":
		s.deny()
	case "lock":
		if s.locked {
			want = storage.ErrExists.Error()
			break
		}
		s.deny()
		s.locked = true
	case "lift":
		if !s.locked {
			want = storage.ErrNotFound.Error()
		}
		s.locked = false
	case "restart": // all began at one time; of those the ids tell who is older
		line := []byte(s.line)
		slices.Sort(line)
		s.line = string(line)
	case "end":
		if want = "0"; live(s.line, n) {
			want, s.line = "1", strings.ReplaceAll(s.line, string(rune(n)), "")
		}
	case "redeem":
		counted := len(s.line)
		if live(s.line, in.renews) {
			counted--
		}
		switch {
		case !s.stored[n]:
			want = "unknown"
		case s.used[n] && !live(s.line, n):
			want = storage.ErrSessionEnded.Error()
		case s.denied[n]:
			want = storage.ErrRevoked.Error()
		case s.locked:
			want = storage.ErrLocked.Error()
		case s.used[n]:
			want = "retried"
		case counted >= historyLimit && !in.closeOldest:
			want = storage.ErrSessionLimit.Error()
		default:
			var kept, ended string
			for i := range len(s.line) {
				if x := s.line[i]; counted-len(ended) >= historyLimit && x != in.renews {
					ended += string(rune(x))
				} else {
					kept += string(rune(x))
				}
			}
			if ended != "" {
				want = fmt.Sprintf("ended %x", ended)
			}
			s.line, s.used[n] = kept+string(rune(n)), true
		}
	}
	return want, s
}

var lineModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{lineState{}} },
	Step: step(lineNext),
}

// lineCalls makes calls of several callers, so many each.
func lineCalls(s historyStore, r runner, seed uint64, calls int) {
	var wg sync.WaitGroup
	const callers = 5
	ada := storage.Selector{Tenant: "acme", Subject: "ada"}
	for client := range callers {
		rnd := rand.New(rand.NewPCG(seed, uint64(client)))
		wg.Go(func() {
			for range calls {
				in := historyCall{token: byte(rnd.IntN(lineTokens)), session: 1}
				x := historyToken(in.token)
				x.MaxUses = 1
				var call func() string
				switch p := rnd.IntN(40); {
				case p < 12:
					in.what, call = "insert", func() string { return s.insert(x) }
				case p < 29:
					in.what, in.renews, in.closeOldest = "redeem", byte(rnd.IntN(lineTokens+1)), rnd.IntN(4) > 0
					re := storage.Redemption{Token: x, Session: historySession(in.token, 1), SubjectSessions: historyLimit, CloseOldest: in.closeOldest}
					if in.renews != noRenewal {
						re.Renews = historySession(in.renews, 1).ID
					}
					call = func() string { return s.redeem(re) }
				case p < 34:
					in.what, call = "end", func() string { return s.end(storage.SessionID{in.token, 1}) }
				case p < 35:
					in.what, call = "revoke", func() string { return s.append(storage.Entry{Kind: storage.Revoke, Selector: ada}) }
				case p < 36:
					in.what, call = "lock", func() string {
						return s.append(storage.Entry{Kind: storage.SetLock, Lock: storage.LockID{1}, Selector: ada})
					}
				default:
					in.what, call = "lift", func() string { return s.append(storage.Entry{Kind: storage.LiftLock, Lock: storage.LockID{1}}) }
				}
				r.run(client, in, call)
			}
		})
	}
	wg.Wait()
}

// lineHistory is one in which nobody is killed.
func lineHistory(t *testing.T, st storage.Store, seed uint64) {
	var r recorder
	lineCalls(openHistory(t, st), &r, seed, 16)
	r.check(t, lineModel.ToModel())
}
