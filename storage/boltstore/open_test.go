package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// filled makes a store's file with something of everything in it.
func filled(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	s := open(t, path, small)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	must(t, s.CreateCredential(t.Context(), storage.Credential{Name: "login"}))
	must(t, s.PutEdgeKeys(t.Context(), []storage.EdgeKey{{ID: 1}}))
	for n := range 200 {
		must(t, insert(t, s, n))
		if n%2 == 0 {
			must(t, redeem(t, s, n, n))
		}
	}
	_, err := s.EndSessions(t.Context(), []storage.SessionID{testSession(0).ID, testSession(2).ID})
	must(t, err)
	for i := range 20 {
		e := storage.Entry{Kind: storage.EntryKind(1 + i%2), Lock: storage.LockID{byte(i)}, Selector: storage.Selector{Issuer: "i"}, KeepUntil: benchStart.Add(time.Hour)}
		_, err := s.Append(t.Context(), e)
		must(t, err)
	}
	check(t, s)
	return path
}

// edit changes a store's file through bbolt.
func edit(t testing.TB, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
}

func TestOpenRefuses(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "foreign.db")
	db, err := bbolt.Open(foreign, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		return b.Put([]byte("owner"), []byte("another program"))
	}))
	must(t, db.Close())
	whole, err := os.ReadFile(filled(t))
	must(t, err)
	const page = 4096
	put := func(bucket, key, value []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			must(t, os.WriteFile(path, whole, 0o600))
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(key, value) })
		}
	}
	write := func(b []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { must(t, os.WriteFile(path, b, 0o600)) }
	}
	blank := func(from, to int) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			b := bytes.Clone(whole)
			clear(b[from:to])
			must(t, os.WriteFile(path, b, 0o600))
		}
	}
	live := func(id storage.SessionID, token storage.TokenID, ends time.Time) func(t *testing.T, path string) {
		p := encodeSessions([]storage.Session{{ID: id, Token: token, Instance: testNode, Node: "node-1", ExpiresAt: ends}})[0]
		return put(sessionsBucket, append(p.end[:], number(1<<40)...), p.value)
	}
	slotNamed := func(n uint64) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			must(t, os.WriteFile(path, whole, 0o600))
			edit(t, path, func(tx *bbolt.Tx) error { _, err := tx.Bucket(tokensBucket).CreateBucket(number(n)); return err })
		}
	}
	one := testSession(4)
	session := binary.BigEndian.AppendUint64(number(uint64(benchStart.UnixMilli())), 1<<40)
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want error
		says string
	}{
		"an empty file":                       {write(nil), storage.ErrCorrupt, "backup"},
		"a short text":                        {write([]byte("hello\n")), storage.ErrCorrupt, "backup"},
		"a long text":                         {write(bytes.Repeat([]byte("hello\n"), 10_000)), storage.ErrCorrupt, "backup"},
		"another program's bbolt file":        {func(t *testing.T, path string) { b, _ := os.ReadFile(foreign); write(b)(t, path) }, storage.ErrCorrupt, "not a Gatehouse store"},
		"a directory":                         {func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, nil, "directory"},
		"a file cut to its first page":        {write(whole[:page]), storage.ErrCorrupt, "backup"},
		"a file cut within a page":            {write(whole[:5*page+100]), storage.ErrCorrupt, "backup"},
		"a file cut in half":                  {write(whole[:len(whole)/2/page*page]), nil, ""}, // the half that bbolt uses may be whole
		"both meta pages gone":                {blank(0, 2*page), storage.ErrCorrupt, "backup"},
		"all but the meta pages gone":         {blank(2*page, len(whole)), storage.ErrCorrupt, "backup"},
		"a newer format":                      {put(metaBucket, formatKey, number(format+1)), storage.ErrNewer, "newer version of Gatehouse"},
		"no format":                           {put(metaBucket, formatKey, nil), storage.ErrCorrupt, "not a Gatehouse store"},
		"no epoch":                            {put(metaBucket, epochKey, number(0)), storage.ErrCorrupt, "epoch"},
		"swept before all time":               {put(metaBucket, sweptKey, number(1<<63)), storage.ErrCorrupt, "swept"},
		"a session of a newer version":        {put(sessionsBucket, session, []byte{9}), storage.ErrNewer, "session"},
		"a damaged session":                   {put(sessionsBucket, session, []byte{1, 10}), storage.ErrCorrupt, "session"},
		"a session under no session's key":    {put(sessionsBucket, []byte("x"), []byte{1}), storage.ErrCorrupt, "session"},
		"a session that is live twice":        {live(one.ID, testID(4), one.ExpiresAt), storage.ErrCorrupt, "twice"},
		"and again, with another end":         {live(one.ID, testID(4), one.ExpiresAt.Add(time.Hour)), storage.ErrCorrupt, "twice"},
		"a session with the id of another":    {live(testSession(0).ID, testID(1), one.ExpiresAt), storage.ErrCorrupt, "has the id of a use"},
		"an ended session of a newer version": {put(endedBucket, number(1<<40), []byte{9}), storage.ErrNewer, "ended session"},
		"a log entry of a newer version":      {put(logBucket, number(3), []byte{9}), storage.ErrNewer, "log entry"},
		"a damaged log entry":                 {put(logBucket, number(3), []byte{1, 10}), storage.ErrCorrupt, "log entry"},
		"a log entry above the head":          {put(logBucket, number(99), []byte{1}), storage.ErrCorrupt, "head"},
		"a log entry under no entry's key":    {put(logBucket, []byte("x"), []byte{1}), storage.ErrCorrupt, "log entry"},
		"a lock of a newer version":           {put(locksBucket, make([]byte, 16), []byte{9}), storage.ErrNewer, "lock"},
		"a lock under no lock's key":          {put(locksBucket, []byte("x"), []byte{1}), storage.ErrCorrupt, "lock"},
		"an instance under no instance's key": {put(instancesBucket, []byte("x"), []byte{1}), storage.ErrCorrupt, "instance"},
		"a bucket missing": {func(t *testing.T, path string) {
			write(whole)(t, path)
			edit(t, path, func(tx *bbolt.Tx) error { return tx.DeleteBucket(usesBucket) })
		}, storage.ErrCorrupt, "uses"},
		"a use of a newer version":            {put(usesBucket, useKey(1<<32, 0), []byte{9}), storage.ErrNewer, "redemption"},
		"a damaged use":                       {put(usesBucket, useKey(1<<32, 0), []byte{1, 10}), storage.ErrCorrupt, "redemption"},
		"a token under no token's key":        {inSlot(whole, []byte{0xff}, []byte{1}), storage.ErrCorrupt, "token"},
		"something that is no slot of tokens": {put(tokensBucket, []byte("x"), []byte("y")), storage.ErrCorrupt, "slot"},
		"a slot of no known stretch":          {slotNamed(1<<40 + 3<<stretchBits), storage.ErrCorrupt, "slot"},
		"a slot that begins within another":   {slotNamed(1<<minuteBits + uint64(longest)<<stretchBits), storage.ErrCorrupt, "slot"},
		"a use of a minute beyond all times":  {put(usesBucket, useKey(firstUseSlot, 0), []byte{1}), storage.ErrCorrupt, "redemption"},
		"a use under no use's key":            {put(usesBucket, number(1<<40), []byte{1}), storage.ErrCorrupt, "redemption"},
		"a bucket that is no slot of the uses": {func(t *testing.T, path string) {
			write(whole)(t, path)
			edit(t, path, func(tx *bbolt.Tx) error { _, err := tx.Bucket(usesBucket).CreateBucket([]byte("x")); return err })
		}, storage.ErrCorrupt, "redemption"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gatehouse.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			s, err := Open(path, small)
			if err == nil {
				if c.says != "" {
					t.Error("it was opened")
				}
				must(t, s.Close())
				return
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q: want the path and %q", err, c.says)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// inSlot puts something into the first slot of tokens.
func inSlot(whole, key, value []byte) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		must(t, os.WriteFile(path, whole, 0o600))
		edit(t, path, func(tx *bbolt.Tx) error {
			k, _ := tx.Bucket(tokensBucket).Cursor().First()
			return tx.Bucket(tokensBucket).Bucket(k).Put(key, value)
		})
	}
}

// A token whose record is damaged or newer is an error where it is read, and
// nobody else's.
func TestDamagedToken(t *testing.T) {
	for _, c := range []struct {
		value []byte
		want  error
	}{{[]byte{9}, storage.ErrNewer}, {[]byte{1, 10}, storage.ErrCorrupt}, {nil, storage.ErrCorrupt}} {
		path := filled(t)
		id := testID(5)
		edit(t, path, func(tx *bbolt.Tx) error {
			return tx.Bucket(tokensBucket).Bucket(slotOf(minuteOf(id), oneMinute, 0).key()).Put(id[:], c.value)
		})
		s := open(t, path, small)
		if _, err := s.Lookup(t.Context(), []storage.TokenID{id}); !errors.Is(err, c.want) {
			t.Errorf("look-up: %v, want %v", err, c.want)
		}
		if _, err := s.ListTokens(t.Context(), storage.TokenQuery{Limit: 1000}); !errors.Is(err, c.want) {
			t.Errorf("list: %v, want %v", err, c.want)
		}
		must(t, redeem(t, s, 7, 7))
		must(t, s.Close())
	}
}

// Whatever page of the file is damaged, opening it and reading it neither
// crashes nor hangs.
func TestDamagedPages(t *testing.T) {
	whole, err := os.ReadFile(filled(t))
	must(t, err)
	const page = 4096
	whole = whole[:len(bytes.TrimRight(whole, "\x00"))+page-1]
	whole = whole[:len(whole)/page*page] // without what was made ready ahead
	rnd := rand.New(rand.NewPCG(3, 4))
	rounds := 2
	if long() {
		rounds = 50
	}
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	refused := 0
	opts := small
	opts.noSync = true
	for round := range rounds {
		for at := 0; at < len(whole); at += page {
			b := bytes.Clone(whole)
			p := b[at : at+page]
			switch (round + at/page) % 4 {
			case 0:
				clear(p)
			case 1: // garbage
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
			case 2: // garbage behind an intact header
				for i := 16; i < len(p); i++ {
					p[i] = byte(rnd.Uint32())
				}
			case 3: // a few bits of the elements
				for range 8 {
					p[16+rnd.IntN(200)] ^= 1 << rnd.IntN(8)
				}
			}
			must(t, os.WriteFile(path, b, 0o600))
			s, err := Open(path, opts)
			if err != nil {
				refused++
				if !errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, storage.ErrNewer) {
					t.Errorf("page %d: %v", at/page, err)
				}
				continue
			}
			for q := (storage.TokenQuery{Limit: 50}); ; {
				p, err := s.ListTokens(t.Context(), q)
				if err != nil || !p.More {
					break
				}
				q.After = p.Next
			}
			must(t, s.Close())
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed: the test tests nothing")
	}
}

func TestOpenInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	s := open(t, path, small)
	if _, err := Open(path, small); !errors.Is(err, storage.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want %v", err, storage.ErrInUse)
	}
	check(t, s)
	check(t, open(t, path, small))
}

// Of many who create a store at once, one gets it.
func TestCreatedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var opened []*Store
	for range 8 {
		wg.Go(func() {
			s, err := Open(path, small)
			if err != nil {
				if !errors.Is(err, storage.ErrInUse) {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, s)
		})
	}
	wg.Wait()
	if len(opened) != 1 {
		t.Fatalf("%d stores, want 1", len(opened))
	}
	check(t, opened[0])
	left, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(left) != 1 {
		t.Errorf("%d files are left, want 1", len(left))
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

func TestOpenWithoutDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere", "gatehouse.db")
	if _, err := Open(path, small); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want %v", err, fs.ErrNotExist)
	}
}

// The epoch names the history of one file: it stays.
func TestEpochStays(t *testing.T) {
	dir := t.TempDir()
	var seen []uint64
	for _, name := range []string{"a", "b", "a"} {
		s := open(t, filepath.Join(dir, name), small)
		head, _ := s.Head()
		seen = append(seen, head.Epoch)
		must(t, s.Close())
	}
	if seen[0] == 0 || seen[0] != seen[2] || seen[0] == seen[1] {
		t.Errorf("epochs %x", seen)
	}
}

// Slots are found again wherever their tokens lie, be there more than one to a
// minute.
func TestSlotsAreFoundAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	opts := small
	opts.slotTokens, opts.freshBytes = 7, 1
	s := open(t, path, opts)
	var ids []storage.TokenID
	for round := range 5 {
		var tokens []*storage.Token
		for i := range 60 {
			x := testToken(round*60 + i)
			ms := benchStart.Add(time.Duration(i%3) * time.Second).UnixMilli()
			binary.BigEndian.PutUint64(x.ID[:], uint64(ms)<<16|rand.Uint64N(1<<16))
			tokens = append(tokens, x)
			ids = append(ids, x.ID)
		}
		_, err := s.Insert(t.Context(), tokens)
		must(t, err)
	}
	for range 2 {
		must(t, s.db().View(func(tx *bbolt.Tx) error {
			return eachSlot(tx.Bucket(tokensBucket), 0, func(at slot, b *bbolt.Bucket) error {
				if n := b.Stats().KeyN; n > opts.slotTokens || n != int(b.Sequence()) {
					t.Errorf("slot %x has %d tokens and counts %d, at most %d are allowed", at, n, b.Sequence(), opts.slotTokens)
				}
				return nil
			})
		}))
		found, err := s.Lookup(t.Context(), ids)
		must(t, err)
		for i := range found {
			if found[i] == nil || found[i].ID != ids[i] {
				t.Fatalf("token %x is not found", ids[i])
			}
		}
		check(t, s)
		s = open(t, path, opts)
	}
	check(t, s)
}

// A file none of which is in memory is read in the order of the disk; stop ends
// that at once, as an error does.
func TestReadAhead(t *testing.T) {
	path := t.TempDir() + "/file"
	must(t, os.WriteFile(path, make([]byte, 4<<20), 0o600))
	f, err := os.Open(path)
	must(t, err)
	for range 100 {
		readAhead(f, 4<<20)()
	}
	must(t, f.Close())
	readAhead(f, 4<<20)() // of a closed file, as of one that can't be read ahead: nothing
	f, err = os.Open(t.TempDir())
	must(t, err)
	defer f.Close()
	readAhead(f, 1<<60)()
}
