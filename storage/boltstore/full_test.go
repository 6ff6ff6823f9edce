package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// A store that runs out of space says so, keeps what it has, and goes on when
// there is space again: by its own sweeping, or because somebody has made some.
// This is so whether the store finds out when it grows the file, before bbolt
// has begun to write, or bbolt when it writes.
func TestNoSpace(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err == nil {
		err = exec.Command(unshare, "-rm", "true").Run()
	}
	for _, grown := range []string{"by the store", "by bbolt"} {
		t.Run("a small disk, grown "+grown, func(t *testing.T) {
			if err != nil {
				t.Skip("no small disk can be mounted here: unshare -rm: ", err)
			}
			dir := t.TempDir()
			cmd := child(t, "full", filepath.Join(dir, "gatehouse.db"), "disk "+grown,
				unshare, "-rm", "sh", "-c", `mount -t tmpfs -o size=8m none "$0" && exec "$@"`, dir)
			if out := output(t, cmd); !strings.Contains(out, "was full, is well\n") {
				t.Errorf("the child says %q", out)
			}
		})
	}
	// bbolt's own growth is another error than a write's, and stops the store: no
	// row for it here.
	t.Run("the largest file allowed", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gatehouse.db")
		if out := output(t, child(t, "full", path, "limit by the store")); !strings.Contains(out, "was full, is well\n") {
			t.Errorf("the child says %q", out)
		}
		checkFile(t, path)
	})
}

const fullBytes = 4 << 20

func childFull(path string) error {
	what, grown, _ := strings.Cut(os.Getenv(optionEnv), " ")
	ballast := path + ".ballast"
	makeRoom := func() error { return os.Remove(ballast) }
	switch what {
	case "disk":
		if err := os.WriteFile(ballast, make([]byte, fullBytes), 0o600); err != nil {
			return err
		}
	case "limit":
		signal.Ignore(syscall.SIGXFSZ)
		limit := func(n uint64) error {
			var r syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
				return err
			}
			r.Cur = min(n, r.Max)
			return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r)
		}
		if err := limit(fullBytes); err != nil {
			return err
		}
		makeRoom = func() error { return limit(64 << 20) }
	}
	opts := Options{MapBytes: 64 << 20, AheadBytes: 1, slotTokens: 500}
	if grown == "by bbolt" {
		opts.grow = func(*os.File, int64) error { return nil }
	}
	s, err := Open(path, opts)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := s.PutInstance(ctx, &storage.Instance{ID: testNode, Node: "node-1"}); err != nil {
		return err
	}
	kept, lost, err := fill(ctx, s)
	if err != nil {
		return err
	}
	fmt.Printf("full at %d tokens, %d bytes\n", kept, s.Stats().FileBytes)
	if err := keeps(ctx, s, kept, lost); err != nil {
		return fmt.Errorf("when full: %w", err)
	}
	if grown == "by the store" { // who has left some space for that
		if _, err := s.Sweep(ctx, benchStart.Add(4*time.Minute), 0); err != nil {
			return fmt.Errorf("sweep a full store: %w", err)
		}
	} else if err := makeRoom(); err != nil {
		return err
	}
	for n := range 100 { // now there is space; these tokens expire after the sweep
		if err := insertLarge(ctx, s, 1_000_450+300*n); err != nil {
			return fmt.Errorf("with space again: %w", err)
		}
	}
	if grown == "by the store" {
		if err := makeRoom(); err != nil {
			return err
		}
	}
	more, _, err := fillUpTo(ctx, s, 3_000_250, 300, 500)
	if err != nil {
		return err
	}
	fmt.Printf("%d more\n", more)
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(path, opts); err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	if n := s.Stats().Tokens; n < 100+more {
		return fmt.Errorf("%d tokens are left, want %d", n, 100+more)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if err := sound(path); err != nil {
		return err
	}
	fmt.Println("was full, is well")
	return nil
}

func insertLarge(ctx context.Context, s *Store, n int) error {
	x := testToken(n)
	x.UserAgent = make([]byte, 3000)
	r, err := s.Insert(ctx, []*storage.Token{x})
	if err != nil {
		return err
	}
	return r[0].Err
}

// fill stores tokens until the store is full, and a little longer.
func fill(ctx context.Context, s *Store) (kept int, lost []int, err error) {
	kept, lost, err = fillUpTo(ctx, s, 0, 1, 1_000_000)
	if err == nil && len(lost) == 0 {
		err = errors.New("the store is never full")
	}
	return kept, lost, err
}

// fillUpTo stores most tokens, numbered from first by step, but stops when ten
// have found no space.
func fillUpTo(ctx context.Context, s *Store, first, step, most int) (kept int, lost []int, err error) {
	for n := first; n < first+most*step && len(lost) < 10; n += step {
		err := insertLarge(ctx, s, n)
		switch {
		case errors.Is(err, storage.ErrFull):
			lost = append(lost, n)
		case err != nil:
			return kept, lost, err
		case len(lost) == 0:
			kept++
		}
		if s.Err() != nil {
			return kept, lost, s.Err()
		}
	}
	return kept, lost, nil
}

// keeps reports whether a store has the first tokens, and none of the lost.
func keeps(ctx context.Context, s *Store, kept int, lost []int) error {
	for n := range kept {
		found, err := s.Lookup(ctx, []storage.TokenID{testID(n)})
		if err != nil || found[0] == nil {
			return fmt.Errorf("token %d of %d is lost: %w", n, kept, err)
		}
	}
	for _, n := range lost[:1] { // later ones may have found the space this one did not
		if found, err := s.Lookup(ctx, []storage.TokenID{testID(n)}); err != nil || found[0] != nil {
			return fmt.Errorf("token %d was refused, but is there: %w", n, err)
		}
	}
	return nil
}

// sound has bbolt check a file.
func sound(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}
