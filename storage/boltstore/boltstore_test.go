package boltstore

import (
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// small makes stores of few tokens behave as large ones do, and costs little.
var small = Options{MapBytes: 1 << 20, AheadBytes: 1, slotTokens: 50, purgeMin: 10, freshSize: 8, GroupItems: 64}

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

func TestStore(t *testing.T) {
	for name, opts := range map[string]Options{"default": {AheadBytes: 1}, "small": small} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T) storage.Store {
				path := filepath.Join(t.TempDir(), "gatehouse.db")
				t.Cleanup(func() { checkFile(t, path) })
				return open(t, path, opts)
			}
			storagetest.Run(t, open)
			t.Run("reopened", func(t *testing.T) {
				storagetest.RunReopened(t, open, func(t *testing.T, s storage.Store) storage.Store {
					check(t, s.(*Store))
					s, err := Open(s.(*Store).path, opts)
					if err != nil {
						t.Fatal(err)
					}
					return s
				})
			})
		})
	}
}
