package storagetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Histories runs concurrent calls and proves that there is an order of them, in
// agreement with when each began and ended, that explains all answers. rounds
// is how many histories of each kind there are.
func Histories(t *testing.T, open Open, rounds int) {
	for round := range rounds {
		t.Run(fmt.Sprintf("tokens/%d", round), func(t *testing.T) { tokenHistory(t, open(t), uint64(round)) })
		t.Run(fmt.Sprintf("subject/%d", round), func(t *testing.T) { subjectHistory(t, open(t), uint64(round)) })
		t.Run(fmt.Sprintf("line/%d", round), func(t *testing.T) { lineHistory(t, open(t), uint64(round)) })
	}
}

// historyCall is one call, and its answer.
type historyCall struct {
	what    string
	token   byte
	session byte
	// Of a redemption at the subject's bound.
	renews      byte // the token whose session it takes the place of
	closeOldest bool
}

// recorder times calls of several callers.
type recorder struct {
	mu  sync.Mutex
	ops []porcupine.Operation
}

func (r *recorder) run(client int, in historyCall, call func() string) {
	began := time.Now()
	out := call()
	op := porcupine.Operation{ClientId: client, Input: in, Call: began.UnixNano(), Output: out, Return: time.Now().UnixNano()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

// patience is how long an order of calls is looked for.
const patience = 60 * time.Second

func (r *recorder) check(t *testing.T, m porcupine.Model) {
	t.Helper()
	switch got := porcupine.CheckOperationsTimeout(m, r.ops, patience); got {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Error("no order of the calls was found or ruled out in a minute: shorten the history")
	default:
		for _, op := range r.ops {
			t.Logf("caller %d, %d to %d: %+v -> %v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
		}
		t.Error("no order of the calls explains their answers")
	}
}

func historyToken(n byte) *storage.Token {
	x := &storage.Token{Tenant: "acme", Subject: "ada", Issuer: "login", MaxUses: uint32(n%2) + 1}
	binary.BigEndian.PutUint64(x.ID[:], uint64(start.Add(time.Minute).UnixMilli())<<16)
	x.ID[15] = n
	return x
}

func historySession(token, n byte) *storage.Session {
	return &storage.Session{ID: storage.SessionID{token, n}, Instance: storage.InstanceID{1}, Node: "node-1", StartedAt: start, ExpiresAt: start.Add(time.Hour)}
}

// tokenState is one token, in the history of that token alone.
type tokenState struct {
	stored, revoked bool
	uses            byte
	sessions        [5]byte // 0 unknown, 1 live, 2 ended
}

// tokenModel knows calls that concern one token; histories are checked for each
// token by itself, for none of these calls depends on another one.
var tokenModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[byte][]porcupine.Operation{}
		for _, op := range all {
			n := op.Input.(historyCall).token
			by[n] = append(by[n], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return tokenState{} },
	Step: func(state, input, output any) (bool, any) {
		s, in := state.(tokenState), input.(historyCall)
		want := ""
		switch in.what {
		case "insert":
			if s.stored {
				want = storage.ErrExists.Error()
			}
			s.stored = true
		case "revoke":
			s.revoked = s.revoked || s.stored // a later token of this id is not hit, but there is none
		case "end":
			if want = "0"; s.sessions[in.session] == 1 {
				want, s.sessions[in.session] = "1", 2
			}
		case "status":
			want = fmt.Sprint(s.uses, s.revoked)
			if !s.stored {
				want = "unknown"
			}
		case "redeem":
			switch {
			case !s.stored:
				want = "unknown"
			case s.sessions[in.session] == 2:
				want = storage.ErrSessionEnded.Error()
			case s.revoked:
				want = storage.ErrRevoked.Error()
			case s.sessions[in.session] == 1:
				want = "retried"
			case s.uses >= in.token%2+1:
				want = storage.ErrUsed.Error()
			default:
				s.uses++
				s.sessions[in.session] = 1
			}
		}
		return output.(string) == want, s
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %v", in, out) },
}

func outcome(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// historyStore calls a store and tells the answers as texts.
type historyStore struct {
	storage.Store
	ctx context.Context
}

func (s historyStore) insert(t *storage.Token) string {
	r, err := s.Insert(s.ctx, []*storage.Token{t})
	if err != nil {
		return err.Error()
	}
	return outcome(r[0].Err)
}

func (s historyStore) redeem(r storage.Redemption) string {
	found, err := s.Lookup(s.ctx, []storage.TokenID{r.Token.ID})
	if err != nil {
		return err.Error()
	}
	if found[0] == nil {
		return "unknown"
	}
	r.Token = found[0]
	got, err := s.Redeem(s.ctx, []storage.Redemption{r})
	if err != nil {
		return err.Error()
	}
	if got[0].Retried {
		return "retried"
	}
	if len(got[0].Replaced) > 0 {
		var ended []byte
		for _, x := range got[0].Replaced {
			ended = append(ended, x.Token[15])
		}
		return fmt.Sprintf("ended %x", ended)
	}
	return outcome(got[0].Err)
}

func (s historyStore) append(e storage.Entry) string {
	e.KeepUntil = start.Add(time.Hour)
	_, err := s.Append(s.ctx, e)
	return outcome(err)
}

func (s historyStore) end(id storage.SessionID) string {
	n, err := s.EndSessions(s.ctx, []storage.SessionID{id})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(n)
}

func (s historyStore) status(id storage.TokenID) string {
	found, err := s.Lookup(s.ctx, []storage.TokenID{id})
	if err != nil {
		return err.Error()
	}
	if found[0] == nil {
		return "unknown"
	}
	st, err := s.Statuses(s.ctx, found)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(st[0].Uses, st[0].RevokedBy != storage.Revision{})
}

func openHistory(t *testing.T, st storage.Store) historyStore {
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := st.PutInstance(t.Context(), &storage.Instance{ID: storage.InstanceID{1}, Node: "node-1"}); err != nil {
		t.Fatal(err)
	}
	return historyStore{st, context.Background()}
}

func tokenHistory(t *testing.T, st storage.Store, seed uint64) {
	s := openHistory(t, st)
	var r recorder
	var wg sync.WaitGroup
	const callers, calls, tokens = 8, 120, 24
	for client := range callers {
		rnd := rand.New(rand.NewPCG(seed, uint64(client)))
		wg.Go(func() {
			for range calls {
				in := historyCall{token: byte(rnd.IntN(tokens)), session: byte(rnd.IntN(5))}
				x := historyToken(in.token)
				switch p := rnd.IntN(20); {
				case p < 5:
					in.what = "insert"
					r.run(client, in, func() string { return s.insert(x) })
				case p < 13:
					in.what = "redeem"
					r.run(client, in, func() string {
						return s.redeem(storage.Redemption{Token: x, Session: historySession(in.token, in.session)})
					})
				case p < 16:
					in.what = "end"
					r.run(client, in, func() string { return s.end(storage.SessionID{in.token, in.session}) })
				case p < 19:
					in.what = "status"
					r.run(client, in, func() string { return s.status(x.ID) })
				default:
					in.what = "revoke"
					r.run(client, in, func() string {
						return s.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: x.ID}})
					})
				}
			}
		})
	}
	wg.Wait()
	r.check(t, tokenModel)
}

// subjectState is what several tokens of one subject share: they can't be
// looked at apart.
type subjectState struct {
	head, revokedAt byte
	locked          bool
	issued          [6]byte // revision plus 1; 0 is not stored
	used            [6]bool
	live            [6]bool
}

const historyLimit = 2

var subjectModel = porcupine.Model{
	Init: func() any { return subjectState{} },
	Step: func(state, input, output any) (bool, any) {
		s, in := state.(subjectState), input.(historyCall)
		n := in.token
		want := ""
		switch in.what {
		case "insert":
			switch {
			case s.locked:
				want = storage.ErrLocked.Error()
			case s.issued[n] > 0:
				want = storage.ErrExists.Error()
			default:
				s.issued[n] = s.head + 1
			}
		case "revoke":
			s.head++
			s.revokedAt = s.head
		case "lock":
			if s.locked {
				want = storage.ErrExists.Error()
				break
			}
			s.head++
			s.revokedAt, s.locked = s.head, true
		case "lift":
			if !s.locked {
				want = storage.ErrNotFound.Error()
				break
			}
			s.head++
			s.locked = false
		case "end":
			if want = "0"; s.live[n] {
				want, s.live[n] = "1", false
			}
		case "redeem":
			live := 0
			for _, l := range s.live {
				if l {
					live++
				}
			}
			switch {
			case s.issued[n] == 0:
				want = "unknown"
			case s.used[n] && !s.live[n]:
				want = storage.ErrSessionEnded.Error()
			case s.revokedAt > s.issued[n]-1:
				want = storage.ErrRevoked.Error()
			case s.locked:
				want = storage.ErrLocked.Error()
			case s.live[n]:
				want = "retried"
			case live >= historyLimit:
				want = storage.ErrSessionLimit.Error()
			default:
				s.used[n], s.live[n] = true, true
			}
		}
		return output.(string) == want, s
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %v", in, out) },
}

func subjectHistory(t *testing.T, st storage.Store, seed uint64) {
	s := openHistory(t, st)
	var r recorder
	var wg sync.WaitGroup
	const callers, calls = 5, 16
	ada := storage.Selector{Tenant: "acme", Subject: "ada"}
	for client := range callers {
		rnd := rand.New(rand.NewPCG(seed, uint64(client)))
		wg.Go(func() {
			for range calls {
				in := historyCall{token: byte(rnd.IntN(6))}
				x := historyToken(in.token)
				x.MaxUses = 1
				switch p := rnd.IntN(20); {
				case p < 6:
					in.what = "insert"
					r.run(client, in, func() string { return s.insert(x) })
				case p < 13:
					in.what = "redeem"
					r.run(client, in, func() string {
						return s.redeem(storage.Redemption{Token: x, Session: historySession(in.token, 1), SubjectSessions: historyLimit})
					})
				case p < 16:
					in.what = "end"
					r.run(client, in, func() string { return s.end(storage.SessionID{in.token, 1}) })
				case p < 17:
					in.what = "revoke"
					r.run(client, in, func() string { return s.append(storage.Entry{Kind: storage.Revoke, Selector: ada}) })
				case p < 18:
					in.what = "lock"
					r.run(client, in, func() string {
						return s.append(storage.Entry{Kind: storage.SetLock, Lock: storage.LockID{1}, Selector: ada})
					})
				default:
					in.what = "lift"
					r.run(client, in, func() string { return s.append(storage.Entry{Kind: storage.LiftLock, Lock: storage.LockID{1}}) })
				}
			}
		})
	}
	wg.Wait()
	r.check(t, subjectModel)
}
