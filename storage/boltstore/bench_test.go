package boltstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var benchStart = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

var benchNode = storage.InstanceID{1}

// benchSubjects are the users of the benchmarks.
var benchSubjects = func() (names [100_000]string) {
	for i := range names {
		names[i] = fmt.Sprintf("user-%08d", i)
	}
	return names
}()

var benchBrowser = []byte("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36")

// benchToken is a token as a login service asks for, for the default bindings.
func benchToken(id storage.TokenID) *storage.Token {
	n := binary.BigEndian.Uint32(id[8:])
	return &storage.Token{
		ID:               id,
		SecretHash:       [32]byte(append(id[:], id[:]...)),
		Tenant:           "acme",
		Subject:          benchSubjects[n%uint32(len(benchSubjects))],
		Audience:         "chat",
		ClientIP:         netip.AddrFrom4([4]byte(id[8:12])),
		IPBinding:        storage.IPLog,
		UserAgent:        benchBrowser,
		Browser:          "Chrome",
		OS:               "Linux",
		UserAgentBinding: storage.UserAgentClass,
		Origin:           "https://app.example.com",
		MaxUses:          1,
		IssuedAt:         id.Expiry().Add(-time.Minute),
		NotBefore:        id.Expiry().Add(-time.Minute),
		SessionTTL:       12 * time.Hour,
		Issuer:           "login-service",
	}
}

// benchSession is a session that begins now.
func benchSession(t *storage.Token, now time.Time) *storage.Session {
	s := &storage.Session{
		Node:      "node-1",
		Instance:  benchNode,
		ClientIP:  t.ClientIP,
		UserAgent: benchBrowser,
		Origin:    []byte("https://app.example.com"),
		StartedAt: now,
		ExpiresAt: now.Add(12 * time.Hour),
	}
	binary.BigEndian.PutUint64(s.ID[:], rand.Uint64())
	binary.BigEndian.PutUint64(s.ID[8:], rand.Uint64())
	return s
}

// benchIDs draws n ids of tokens that expire a minute after their issue, of
// which there are that many a second.
func benchIDs(n, rate int) []storage.TokenID { return benchIDsFrom(benchStart, n, rate) }

func benchIDsFrom(start time.Time, n, rate int) []storage.TokenID {
	ids := make([]storage.TokenID, n)
	for i := range ids {
		at := start.Add(time.Minute + time.Duration(i)*time.Second/time.Duration(rate))
		binary.BigEndian.PutUint64(ids[i][:], uint64(at.UnixMilli())<<16|rand.Uint64N(1<<16))
		binary.BigEndian.PutUint64(ids[i][8:], rand.Uint64())
	}
	return ids
}

func benchStore(b *testing.B) *Store {
	s := open(b, filepath.Join(b.TempDir(), "gatehouse.db"), Options{})
	b.Cleanup(func() { s.Close() })
	if err := s.PutInstance(b.Context(), &storage.Instance{ID: benchNode, Node: "node-1"}); err != nil {
		b.Fatal(err)
	}
	if b.N == 1 {
		return s // only to learn what b.N will be
	}
	// A store in use has swept before: its file and its tables have room.
	past := benchStart.Add(-24 * time.Hour)
	ids := benchIDsFrom(past, b.N, 20_000)
	for from := 0; from < len(ids); from += 2000 {
		part := ids[from:min(from+2000, len(ids))]
		if err := insertIDs(b.Context(), s, part); err != nil {
			b.Fatal(err)
		}
		if err := redeemIDs(b.Context(), s, part, past); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.Sweep(b.Context(), benchStart, 0); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	return s
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// meter sums up what a benchmark measures.
type meter struct {
	b               *testing.B
	s               *Store
	cpu             time.Duration
	groups, grouped uint64
}

func newMeter(b *testing.B, s *Store) *meter {
	b.ResetTimer()
	b.StopTimer()
	return &meter{b: b, s: s}
}

// spread runs op for the items from to to in batches, from that many callers.
func (m *meter) spread(from, to, callers, batch int, op func(ctx context.Context, from, to int) error) {
	var wg sync.WaitGroup
	var next atomic.Int64
	next.Store(int64(from))
	groups, grouped := m.s.groups.Load(), m.s.grouped.Load()
	before := cpu()
	m.b.StartTimer()
	for range callers {
		wg.Go(func() {
			for {
				end := int(next.Add(int64(batch)))
				if end-batch >= to {
					return
				}
				if err := op(context.Background(), end-batch, min(end, to)); err != nil {
					m.b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	m.b.StopTimer()
	m.cpu += cpu() - before
	m.groups += m.s.groups.Load() - groups
	m.grouped += m.s.grouped.Load() - grouped
}

func (m *meter) report() {
	m.b.ReportMetric(float64(m.cpu.Nanoseconds())/1e3/float64(m.b.N), "cpu-µs/op")
	m.b.ReportMetric(float64(m.b.N)/m.b.Elapsed().Seconds(), "op/s")
	if m.groups > 0 {
		m.b.ReportMetric(float64(m.grouped)/float64(m.groups), "calls/group")
	}
}

var benchCallers = []struct{ batch, callers int }{{64, 1}, {64, 8}, {64, 64}, {1, 64}, {1, 512}}

func BenchmarkInsert(b *testing.B) {
	for _, c := range benchCallers {
		b.Run(fmt.Sprintf("batch=%d/callers=%d", c.batch, c.callers), func(b *testing.B) {
			s := benchStore(b)
			ids := benchIDs(b.N, 100_000)
			m := newMeter(b, s)
			m.spread(0, b.N, c.callers, c.batch, func(ctx context.Context, from, to int) error {
				return insertIDs(ctx, s, ids[from:to])
			})
			m.report()
		})
	}
}

func insertIDs(ctx context.Context, s *Store, ids []storage.TokenID) error {
	tokens := make([]*storage.Token, len(ids))
	for i := range ids {
		tokens[i] = benchToken(ids[i])
	}
	r, err := s.Insert(ctx, tokens)
	if err != nil {
		return err
	}
	return r[0].Err
}

// redeemIDs is what the authority does to redeem tokens at a time.
func redeemIDs(ctx context.Context, s *Store, ids []storage.TokenID, now time.Time) error {
	found, err := s.Lookup(ctx, ids)
	if err != nil {
		return err
	}
	batch := make([]storage.Redemption, len(found))
	for i, t := range found {
		batch[i] = storage.Redemption{Token: t, Session: benchSession(t, now), SubjectSessions: 1000}
	}
	r, err := s.Redeem(ctx, batch)
	if err != nil {
		return err
	}
	return r[0].Err
}

// One operation is a Lookup and a Redeem. Tokens are redeemed in no order: half
// a second after their issue, when the store still holds their records, as when
// a page loads and connects; or over one minute, all of the default life.
func BenchmarkRedeem(b *testing.B) {
	for name, window := range map[string]int{"fresh": 10_000, "minute": 1_200_000, "all": 10_000_000} {
		for _, c := range benchCallers {
			b.Run(fmt.Sprintf("%s/batch=%d/callers=%d", name, c.batch, c.callers), func(b *testing.B) {
				s := benchStore(b)
				ids := benchIDs(b.N, 20_000)
				m := newMeter(b, s)
				for from := 0; from < len(ids); from += window {
					to := min(from+window, len(ids))
					for i := from; i < to; i += 2000 {
						if err := insertIDs(b.Context(), s, ids[i:min(i+2000, to)]); err != nil {
							b.Fatal(err)
						}
					}
					part := ids[from:to]
					rand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
					m.spread(from, to, c.callers, c.batch, func(ctx context.Context, from, to int) error {
						return redeemIDs(ctx, s, ids[from:to], time.Now())
					})
				}
				m.report()
			})
		}
	}
}

// Sessions end in no order.
func BenchmarkEndSessions(b *testing.B) {
	for _, c := range benchCallers[:3] {
		b.Run(fmt.Sprintf("batch=%d/callers=%d", c.batch, c.callers), func(b *testing.B) {
			s := benchStore(b)
			ids := benchIDs(b.N, 20_000)
			live := make([]storage.SessionID, len(ids))
			for from := 0; from < len(ids); from += 2000 {
				part := ids[from:min(from+2000, len(ids))]
				if err := insertIDs(b.Context(), s, part); err != nil {
					b.Fatal(err)
				}
				if err := redeemIDs(b.Context(), s, part, benchStart); err != nil {
					b.Fatal(err)
				}
			}
			page, err := s.ListSessions(b.Context(), storage.SessionQuery{Limit: 1 << 30})
			for n := 0; ; page, err = s.ListSessions(b.Context(), storage.SessionQuery{Limit: 1 << 30, After: page.Next}) {
				if err != nil {
					b.Fatal(err)
				}
				for _, x := range page.Sessions {
					live[n] = x.ID
					n++
				}
				if !page.More {
					break
				}
			}
			rand.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
			m := newMeter(b, s)
			m.spread(0, b.N, c.callers, c.batch, func(ctx context.Context, from, to int) error {
				_, err := s.EndSessions(ctx, live[from:to])
				return err
			})
			m.report()
		})
	}
}
