package boltstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	storagev1 "github.com/gatehouse-ws/gatehouse/proto/gatehouse/storage/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// asFormat1 rewrites a file as format 1 had it: a record for each session.
func asFormat1(t *testing.T, path string) {
	edit(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket(sessionsBucket)
		singles, grouped := map[string][]byte{}, [][]byte{}
		err := b.ForEach(func(k, v []byte) error {
			grouped = append(grouped, slices.Clone(k))
			return eachSession(k, v, func(s *storage.Session) bool {
				m, err := proto.Marshal(&storagev1.Session{
					TokenId: s.Token[:], Tenant: s.Tenant, Subject: s.Subject, Audience: s.Audience, Issuer: s.Issuer,
					TokenIp: s.TokenIP.AsSlice(), IssuedEpoch: s.IssuedRevision.Epoch, IssuedSequence: s.IssuedRevision.Sequence,
					Node: s.Node, InstanceId: s.Instance[:], ClientIp: s.ClientIP.AsSlice(), UserAgent: s.UserAgent, Origin: s.Origin, ClientCertificate: s.Certificate,
					StartedAt: s.StartedAt.UnixMilli(), ExpiresAt: s.ExpiresAt.UnixMilli(), AsOfEpoch: s.AsOf.Epoch, AsOfSequence: s.AsOf.Sequence,
				})
				must(t, err)
				end := endKey(s.ExpiresAt)
				singles[string(end[:])+string(s.ID[:])] = append([]byte{1}, m...)
				return true
			})
		})
		must(t, err)
		for _, k := range grouped {
			must(t, b.Delete(k))
		}
		for k, v := range singles {
			must(t, b.Put([]byte(k), v))
		}
		must(t, b.SetSequence(0))
		return tx.Bucket(metaBucket).Put(formatKey, number(1))
	})
}

func listed(t *testing.T, s *Store) (out []storage.Session) {
	for q := (storage.SessionQuery{Limit: 7}); ; {
		page, err := s.ListSessions(t.Context(), q)
		must(t, err)
		for _, x := range page.Sessions {
			out = append(out, *x)
		}
		if !page.More {
			return out
		}
		q.After = page.Next
	}
}

// A file of format 1 opens with its sessions, and becomes one of this format:
// they are found, retried, ended, purged and swept beside later ones.
func TestFormat1(t *testing.T) {
	path := filled(t)
	s := open(t, path, small)
	want := listed(t, s)
	check(t, s)
	asFormat1(t, path)

	s = open(t, path, small)
	if got := listed(t, s); !reflect.DeepEqual(got, want) || len(got) != 98 {
		t.Fatalf("%d sessions, want %d:\n%+v\n%+v", len(got), len(want), got, want)
	}
	must(t, redeem(t, s, 4, 4)) // a retry
	must(t, insert(t, s, 500))
	must(t, redeem(t, s, 500, 500))
	var ids []storage.SessionID
	for n := 4; n < 160; n += 2 {
		ids = append(ids, testSession(n).ID)
	}
	_, err := s.EndSessions(t.Context(), ids)
	must(t, err)
	left := listed(t, s)
	must(t, s.purgeEnded(t.Context()))
	if got := listed(t, s); !reflect.DeepEqual(got, left) || len(got) != 21 {
		t.Fatalf("%d sessions after the purge, want %d", len(got), len(left))
	}
	check(t, s)

	s = open(t, path, small)
	if got := listed(t, s); !reflect.DeepEqual(got, left) {
		t.Fatalf("%d sessions after a restart, want %d", len(got), len(left))
	}
	swept, err := s.Sweep(t.Context(), benchStart.Add(100*365*24*time.Hour), 0)
	must(t, err)
	if swept.Sessions != len(left) {
		t.Fatalf("swept %d sessions, want %d", swept.Sessions, len(left))
	}
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		if f, _ := numberOf(tx.Bucket(metaBucket).Get(formatKey)); f != format {
			return fmt.Errorf("format %d, want %d", f, format)
		}
		if k, _ := tx.Bucket(sessionsBucket).Cursor().First(); k != nil {
			return fmt.Errorf("record %x is left", k)
		}
		return nil
	}))
	check(t, s)
}

// Sessions of one batch lie together, in records of bounded size, and only those
// that were granted.
func TestSessionsOfABatchLieTogether(t *testing.T) {
	s := open(t, filled(t), small)
	defer check(t, s)
	before := s.Stats().Sessions
	records := func() (n, longest int) {
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			return tx.Bucket(sessionsBucket).ForEach(func(_, v []byte) error {
				n, longest = n+1, max(longest, len(v))
				return nil
			})
		}))
		return n, longest
	}
	had, _ := records()
	var batch []storage.Redemption
	for n := range 100 {
		must(t, insert(t, s, 1000+n))
		found, err := s.Lookup(t.Context(), []storage.TokenID{testToken(1000 + n).ID})
		must(t, err)
		x := testSession(1000 + n)
		x.ExpiresAt = benchStart.Add(time.Hour)
		x.UserAgent = slices.Repeat([]byte{byte('a' + n%3)}, 100)
		batch = append(batch, storage.Redemption{Token: found[0], Session: x})
		if n%10 == 0 { // used up by then
			y := *x
			y.ID[15]++
			batch = append(batch, storage.Redemption{Token: found[0], Session: &y})
		}
	}
	results, err := s.Redeem(t.Context(), batch)
	must(t, err)
	granted := 0
	for _, r := range results {
		if r.Err == nil {
			granted++
		}
	}
	n, longest := records()
	if got := s.Stats().Sessions - before; granted != 100 || got != 100 || n-had != 4 || longest > 2*recordBytes {
		t.Errorf("granted %d, live %d, %d records of up to %d bytes", granted, got, n-had, longest)
	}
}

// A session id is drawn again once its session has ended and its token is swept,
// by a session that ends in the same millisecond. The two are told apart by their
// tokens: whichever has ended stays so through restarts and purges.
func TestIDDrawnAgain(t *testing.T) {
	opts := small
	opts.purgeMin = 1
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	s := open(t, path, opts)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	expiry := benchStart.Add(time.Minute)
	end := benchStart.Add(time.Hour)
	redeemAs := func(x *storage.Token) {
		t.Helper()
		_, err := s.Insert(t.Context(), []*storage.Token{x})
		must(t, err)
		r, err := s.Redeem(t.Context(), []storage.Redemption{{Token: x, Session: &storage.Session{ID: storage.SessionID{7}, Instance: testNode, ExpiresAt: end}}})
		must(t, errors.Join(err, r[0].Err))
	}
	want := func(when string, tokens ...storage.TokenID) {
		t.Helper()
		var got []storage.TokenID
		for _, x := range listed(t, s) {
			got = append(got, x.Token)
		}
		if !slices.Equal(got, tokens) || s.Stats().Sessions != len(tokens) {
			t.Fatalf("%s: sessions of %x and %d live, want %x", when, got, s.Stats().Sessions, tokens)
		}
	}
	reopen := func() {
		check(t, s)
		s = open(t, path, opts)
	}
	endIt := func() {
		_, err := s.EndSessions(t.Context(), []storage.SessionID{{7}})
		must(t, err)
	}

	first, second := tokenOf(t, 1, 10, expiry), tokenOf(t, 2, 10, expiry.Add(10*time.Minute))
	redeemAs(first)
	endIt()
	want("after the first has ended")
	_, err := s.Sweep(t.Context(), expiry.Add(5*time.Minute), 0)
	must(t, err)
	redeemAs(second)
	want("after the second began", second.ID)
	reopen()
	want("after a restart", second.ID)
	must(t, s.purgeEnded(t.Context()))
	want("after a purge", second.ID)
	endIt()
	reopen()
	want("after both have ended")
	must(t, s.purgeEnded(t.Context()))
	reopen()
	want("after all is purged")
	check(t, s)
}
