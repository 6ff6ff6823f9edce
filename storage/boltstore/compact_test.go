package boltstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// A store that is compacted while it is open gives room back, goes on with the new
// file, and leaves the old one to its readers.
func TestCompactWhileOpen(t *testing.T) {
	path := t.TempDir() + "/gatehouse.db"
	s := open(t, path, Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: 1000, noSync: true})
	ids := stock(t, s)
	last := ids[len(ids)-1]
	_, err := s.Sweep(t.Context(), last.Expiry().Add(-time.Minute), 0)
	must(t, err)
	var told int
	progress := func(done, total int64) {
		if told++; done > total {
			t.Errorf("%d of %d bytes", done, total)
		}
	}
	later := make([]storage.Token, 3)
	for round := range later {
		later[round] = storage.Token{ID: last, Tenant: "acme", Subject: "ada", MaxUses: 1, IssuedAt: last.Expiry()}
		later[round].ID[15] += byte(round) + 1
		var out storage.Compacted
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			out, err = s.Compact(t.Context(), progress)
			must(t, err)
			_, err = s.Insert(t.Context(), []*storage.Token{&later[round]}) // to the new file, which tx does not see
			must(t, err)
			f := finder{slots: s.slots, tokens: tx.Bucket(tokensBucket)}
			if f.find(last) == nil || f.find(later[round].ID) != nil {
				t.Error("a reader that began before does not find the file that it read")
			}
			return nil
		}))
		info, err := os.Stat(path)
		must(t, err)
		if round == 0 && out.After > out.Before*2/3 || info.Size() < out.After || s.Stats().FileBytes != info.Size() {
			t.Errorf("%+v; the file has %d bytes, of which the store says %d", out, info.Size(), s.Stats().FileBytes)
		}
		found, err := s.Lookup(t.Context(), []storage.TokenID{last, later[round].ID})
		must(t, err)
		if found[0] == nil || found[1] == nil {
			t.Errorf("round %d: tokens %v", round, found)
		}
	}
	check(t, s)
	s = open(t, path, small)
	defer check(t, s)
	found, err := s.Lookup(t.Context(), []storage.TokenID{last, later[0].ID, later[1].ID, later[2].ID})
	must(t, err)
	for i := range found {
		if found[i] == nil {
			t.Errorf("token %d is gone", i)
		}
	}
}

// What keeps a compaction from ending leaves the store as it is.
func TestCompactWhileOpenRefused(t *testing.T) {
	path := example(t)
	s := open(t, path, small)
	defer check(t, s)
	before, err := os.Stat(path)
	must(t, err)
	ended, cancel := context.WithCancel(t.Context())
	for what, c := range map[string]struct {
		try  func() error
		want error
	}{
		"while a backup is under way": {func() (err error) {
			must(t, s.Backup(t.Context(), io.Discard, func(storage.Backup) { _, err = s.Compact(t.Context(), nil) }))
			return err
		}, storage.ErrBusy},
		"while another is under way": {func() (err error) {
			_, first := s.compact(ended, nil, func(step string) {
				if step == "copied" {
					_, err = s.Compact(t.Context(), nil)
					cancel()
				}
			})
			if !errors.Is(first, context.Canceled) {
				t.Errorf("whose caller has gone: %v", first)
			}
			return err
		}, storage.ErrBusy},
		"while a restore has the folder": {func() error {
			l, err := lockFolder(t.TempDir())
			must(t, err)
			must(t, l.Close())
			l, err = lockFolder(path[:strings.LastIndexByte(path, '/')])
			must(t, err)
			defer l.Close()
			_, err = s.Compact(t.Context(), nil)
			return err
		}, storage.ErrInUse},
	} {
		if err := c.try(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	now, err := os.Stat(path)
	must(t, err)
	if left := leftovers(path); !os.SameFile(before, now) || len(left) > 0 {
		t.Errorf("the file was replaced, or something is left: %v", left)
	}
	must(t, insert(t, s, 900))
}

// Without room for both files the store goes on with the one that it has.
func TestCompactWhileOpenWithoutRoom(t *testing.T) {
	path := example(t)
	if out := output(t, child(t, "compact while open", path, "limit 50000")); out != "full\n" {
		t.Errorf("the child says %q", out)
	}
	if left := leftovers(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s := open(t, path, small)
	defer check(t, s)
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(901)})
	must(t, err)
	if found[0] == nil {
		t.Error("what was stored after it is gone")
	}
}

func childCompactOpen(path string) error {
	s, err := Open(path, small)
	if err != nil {
		return err
	}
	var most uint64
	if n, _ := fmt.Sscanf(os.Getenv(optionEnv), "limit %d", &most); n == 0 {
		_, err = s.compact(context.Background(), nil, killAt(os.Getenv(optionEnv)))
		return err
	}
	signal.Ignore(syscall.SIGXFSZ)
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return err
	}
	was := r.Cur
	r.Cur = most
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return err
	}
	if _, err := s.Compact(context.Background(), nil); errors.Is(err, storage.ErrFull) {
		fmt.Println("full")
	} else {
		return fmt.Errorf("compacted: %v", err)
	}
	r.Cur = was
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return err
	}
	results, err := s.Insert(context.Background(), []*storage.Token{testToken(901)})
	return errors.Join(err, results[0].Err, s.Close())
}
