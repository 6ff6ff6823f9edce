package boltstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// small makes stores of few tokens behave as large ones do, and costs little.
var small = Options{MapBytes: 1 << 20, AheadBytes: 1, slotTokens: 50, useRecords: 7, purgeMin: 10, freshBytes: 2_000, GroupItems: 64}

func open(t testing.TB, path string, opts Options) *Store {
	t.Helper()
	s, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// check closes the store and has bbolt check its file.
func check(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkFile(t, s.path)
}

func checkFile(t testing.TB, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: lockTimeout})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error("bbolt's check:", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// opener opens stores with opts, and has bbolt check their files in the end.
func opener(opts Options) storagetest.Open {
	return func(t *testing.T) storage.Store {
		path := filepath.Join(t.TempDir(), "gatehouse.db")
		t.Cleanup(func() { checkFile(t, path) })
		return open(t, path, opts)
	}
}

// reopener closes stores, has their files checked, and opens them again.
func reopener(opts Options) storagetest.Reopen {
	return func(t *testing.T, s storage.Store) storage.Store {
		check(t, s.(*Store))
		return open(t, s.(*Store).path, opts)
	}
}

func TestStore(t *testing.T) {
	for name, opts := range map[string]Options{"default": {AheadBytes: 1}, "small": small} {
		t.Run(name, func(t *testing.T) { storagetest.Run(t, opener(opts)) })
		t.Run(name+" reopened", func(t *testing.T) { storagetest.RunReopened(t, opener(opts), reopener(opts)) })
	}
}

// long reports whether the tests are to take as long as they need.
func long() bool { return os.Getenv("GATEHOUSE_LONG") != "" }

func TestModel(t *testing.T) {
	opts := small
	opts.slotTokens, opts.purgeMin, opts.freshBytes = 3, 2, 500
	opts.noSync = true // other tests look after that
	storagetest.Model(t, opener(opts), reopener(opts))
}

func TestHistories(t *testing.T) {
	rounds := 4
	if long() {
		rounds = 200
	}
	opts := small
	opts.GroupItems = 4096
	t.Run("undisturbed", func(t *testing.T) { storagetest.Histories(t, opener(opts), rounds) })
	t.Run("compacted all the time", func(t *testing.T) {
		storagetest.Histories(t, func(t *testing.T) storage.Store {
			s := opener(opts)(t).(*Store)
			go func() { // ends when s is closed
				for {
					if _, err := s.Compact(context.Background(), nil); errors.Is(err, storage.ErrClosed) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
				}
			}()
			return s
		}, rounds)
	})
}
