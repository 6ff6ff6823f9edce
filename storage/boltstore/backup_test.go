package boltstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// backupOf is a backup of an open store.
func backupOf(t testing.TB, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, s.Backup(t.Context(), &b, func(storage.Backup) {}))
	return b.Bytes()
}

// backupFrom is a backup of the store at path.
func backupFrom(t testing.TB, path string) []byte {
	t.Helper()
	s := open(t, path, small)
	defer check(t, s)
	return backupOf(t, s)
}

// A backup that is taken while tokens are stored has every token that was
// acknowledged before it began, and of each who stores a beginning, with no
// gap: it is one moment.
func TestBackupWhileWriting(t *testing.T) {
	opts := Options{AheadBytes: 1, slotTokens: 500}
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	s := open(t, path, opts)
	const writers, stride = 4, 1_000_000
	var acked [writers]atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := insert(t, s, w*stride+n); err != nil {
					t.Error(err)
					return
				}
				acked[w].Store(int64(n + 1))
			}
		})
	}
	for round := range 3 {
		for acked[0].Load() < int64(200*(round+1)) {
			time.Sleep(time.Millisecond)
		}
		var least, during [writers]int64
		var b bytes.Buffer
		for w := range writers {
			least[w] = acked[w].Load()
		}
		var told storage.Backup
		must(t, s.Backup(t.Context(), slow{&b}, func(b storage.Backup) { told = b }))
		for w := range writers {
			during[w] = acked[w].Load() - least[w]
		}
		if during == ([writers]int64{}) {
			t.Error("nothing was stored while the backup was written")
		}
		if int64(b.Len()) != told.Bytes || told.System != s.System() || told.Head.Epoch != s.epoch {
			t.Errorf("%d bytes, and it was told %+v", b.Len(), told)
		}
		pages := filepath.Join(t.TempDir(), "pages.db")
		must(t, os.WriteFile(pages, b.Bytes()[headerSize:b.Len()-trailerSize], 0o600))
		copied := open(t, pages, opts)
		for w := range writers {
			has := int64(0)
			for n := 0; ; n++ {
				found, err := copied.Lookup(t.Context(), []storage.TokenID{testID(w*stride + n)})
				must(t, err)
				if found[0] == nil {
					break
				}
				has++
			}
			if has < least[w] {
				t.Errorf("round %d: writer %d had stored %d tokens before the backup, which has %d", round, w, least[w], has)
			}
			found, err := copied.Lookup(t.Context(), []storage.TokenID{testID(w*stride + int(has) + 1)})
			must(t, err)
			if found[0] != nil {
				t.Errorf("round %d: the backup has a gap after token %d of writer %d", round, has, w)
			}
		}
		check(t, copied)
	}
	stop()
	wg.Wait()
	check(t, s)
}

// slow takes its time.
type slow struct{ w io.Writer }

func (s slow) Write(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return s.w.Write(p)
}

// A backup of a damaged store fails before it begins.
func TestBackupFindsDamage(t *testing.T) {
	path := example(t)
	s := open(t, path, small)
	var root int64
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		root = int64(tx.Bucket(credentialsBucket).Root())
		if root == 0 {
			root = int64(tx.Cursor().Bucket().Root())
		}
		return nil
	}))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{0xff, 0xff}, root*int64(s.pageSize)+8) // its kind
	must(t, err)
	err = s.Backup(t.Context(), io.Discard, func(storage.Backup) { t.Error("it has begun") })
	if !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("a damaged store: %v, want ErrCorrupt", err)
	}
	_ = s.Close()
}

func TestBackupEnds(t *testing.T) {
	s := open(t, example(t), small)
	defer check(t, s)
	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Backup(ctx, writer(func([]byte) error { cancel(); return nil }), func(storage.Backup) {})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
	})
	t.Run("with its writer", func(t *testing.T) {
		full := errors.New("full")
		if err := s.Backup(t.Context(), writer(func([]byte) error { return full }), func(storage.Backup) {}); !errors.Is(err, full) {
			t.Errorf("%v, want that of the writer", err)
		}
	})
	t.Run("before the store has to wait for it", func(t *testing.T) {
		n := 0
		err := s.Backup(t.Context(), writer(func([]byte) error {
			if n++; n == 2 {
				s.used.Store(1 << 40)
			}
			return nil
		}), func(storage.Backup) {})
		if !errors.Is(err, storage.ErrBackupCut) {
			t.Errorf("%v, want ErrBackupCut", err)
		}
	})
}

type writer func([]byte) error

func (w writer) Write(p []byte) (int, error) { return len(p), w(p) }

// What bbolt maps is known here: beyond it, a writer waits for readers.
func TestMostUsed(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct{ used, mapBytes, most int64 }{
		{1 * mib, 8 * gib, 8*gib - 64*mib},
		{8*gib - 1, 8 * gib, 8*gib - 64*mib},
		{8*gib + 1, 8 * gib, 9*gib - 64*mib},
		{100 << 10, 1 * mib, 1*mib - 64<<10},
		{3 * mib, 1 * mib, 4*mib - 256<<10},
	} {
		if got := mostUsed(c.used, c.mapBytes); got != c.most {
			t.Errorf("of %d bytes, with %d mapped: %d, want %d", c.used, c.mapBytes, got, c.most)
		}
	}
}

// A file of before there were ids gets one, which it keeps.
func TestSystem(t *testing.T) {
	path := example(t)
	edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Delete(systemKey) })
	s := open(t, path, small)
	id := s.System()
	must(t, insert(t, s, 1000)) // what is committed after it is seen
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(1000)})
	must(t, err)
	if id == (storage.SystemID{}) || found[0] == nil {
		t.Errorf("system %s, token %v", id, found[0])
	}
	check(t, s)
	s = open(t, path, small)
	defer check(t, s)
	if s.System() != id {
		t.Errorf("system %s, and then %s", id, s.System())
	}
}

// A store made anew by Compact, or restored, keeps every promise of a store.
func TestStoreMaintained(t *testing.T) {
	compacting := func(t *testing.T, s storage.Store) storage.Store {
		check(t, s.(*Store))
		path := s.(*Store).path
		_, err := Compact(path, nil)
		must(t, err)
		return open(t, path, small)
	}
	whileOpen := func(t *testing.T, s storage.Store) storage.Store {
		_, err := s.(*Store).Compact(t.Context(), nil)
		if errors.Is(err, storage.ErrClosed) {
			return open(t, s.(*Store).path, small)
		}
		must(t, err)
		return s
	}
	t.Run("compacted while open", func(t *testing.T) { storagetest.RunReopened(t, opener(small), whileOpen) })
	t.Run("compacted", func(t *testing.T) { storagetest.RunReopened(t, opener(small), compacting) })
	t.Run("restored", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store {
			path := filepath.Join(t.TempDir(), "gatehouse.db")
			backup := backupFrom(t, path)
			_, err := Restore(path, bytes.NewReader(backup), RestoreOptions{})
			must(t, err)
			return open(t, path, small)
		})
	})
	opts := small
	opts.slotTokens, opts.purgeMin, opts.freshBytes, opts.noSync = 3, 2, 500, true
	t.Run("compacted at random", func(t *testing.T) { storagetest.Model(t, opener(opts), compacting) })
	t.Run("compacted at random while open", func(t *testing.T) { storagetest.Model(t, opener(opts), whileOpen) })
}

func FuzzHeader(f *testing.F) {
	h := header{pageSize: 4096, system: storage.SystemID{1, 2}, head: storage.Revision{Epoch: 3, Sequence: 4}, takenAt: benchStart, pages: 1 << 20}
	whole := appendHeader(nil, &h)
	f.Add(whole)
	f.Add(whole[:headerFields])
	f.Add([]byte(backupMagic))
	for _, edge := range []header{
		{pageSize: maxPageSize, head: storage.Revision{Epoch: ^uint64(0)}, pages: maxBackupSize},
		{pageSize: 4096, head: storage.Revision{Epoch: 1}, pages: -4096},
		{pageSize: 1 << 31, head: storage.Revision{Epoch: 1}, pages: 3 << 31},
		{pageSize: 4096, head: storage.Revision{Epoch: 1}, pages: 4097 * 3},
	} {
		f.Add(appendHeader(nil, &edge))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		if h.pages%int64(h.pageSize) != 0 || h.pages > maxBackupSize || h.backup().Bytes <= h.pages {
			t.Fatalf("%+v makes no sense", h)
		}
		if !bytes.Equal(appendHeader(nil, &h), b) {
			t.Fatalf("%x is read as %+v", b, h)
		}
	})
}
