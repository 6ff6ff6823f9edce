package boltstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
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

// A damaged store is found out, and never made to look sound: what a copy lacks
// nobody would miss.
func TestCompactWhileOpenOfDamage(t *testing.T) {
	path := t.TempDir() + "/gatehouse.db"
	s := open(t, path, small)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	for n := range 400 {
		must(t, insert(t, s, n))
		_, err := s.Append(t.Context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: testID(n)}, KeepUntil: testID(n).Expiry().Add(time.Hour)})
		must(t, err)
	}
	var root int64
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		root = int64(tx.Bucket(logBucket).Root())
		return nil
	}))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	first := make([]byte, branchElement)
	at := root*int64(s.pageSize) + pageHeaderSize
	_, err = f.ReadAt(first, at)
	must(t, err)
	_, err = f.WriteAt(first[8:], at+branchElement+8) // the second child is the first
	must(t, err)
	must(t, f.Close())
	if out, err := s.Compact(t.Context(), nil); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("%+v, %v, want ErrCorrupt", out, err)
	}
	must(t, s.Close())
	if _, err := Open(path, small); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("it opens: %v", err)
	}
}

// The old file is closed once its last reader has ended, and Close waits for that.
// Nobody else waits for that reader.
func TestCompactWhileOpenAndRead(t *testing.T) {
	s := open(t, example(t), small)
	open := func() (n int) {
		fds, _ := os.ReadDir("/proc/self/fd") // none where there is no /proc
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.Contains(to, filepath.Dir(s.path)) {
				n++
			}
		}
		return n
	}
	before := open()
	for range 3 {
		_, err := s.Compact(t.Context(), nil)
		must(t, err)
	}
	s.leaving.Wait()
	if now := open(); now != before {
		t.Errorf("%d files are open, were %d", now, before)
	}
	reading, goOn := make(chan struct{}), make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		must(t, s.view(t.Context(), func(*bbolt.Tx) error {
			close(reading)
			<-goOn
			return nil
		}))
	})
	<-reading
	_, err := s.Compact(t.Context(), nil)
	must(t, err)
	must(t, insert(t, s, 900))
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(900)})
	must(t, err)
	if found[0] == nil {
		t.Error("what was stored after it is unknown")
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		t.Errorf("closed while the old file is read: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	must(t, <-closed)
	readers.Wait()
	checkFile(t, s.path)
}

// A caller that has gone stops the copy, and begins none.
func TestCompactWhileOpenCancelled(t *testing.T) {
	s := open(t, example(t), small)
	defer check(t, s)
	for _, at := range []string{"", "copying", "copied"} {
		ctx, cancel := context.WithCancel(t.Context())
		var steps []string
		occupied, goOn := make(chan struct{}), make(chan struct{})
		must(t, s.enqueue(t.Context(), &call{done: make(chan struct{}), alone: func() error { close(occupied); <-goOn; return nil }}))
		<-occupied
		done := make(chan error)
		go func() {
			_, err := s.compact(ctx, nil, func(step string) {
				if steps = append(steps, step); step == at {
					cancel()
				}
			})
			done <- err
		}()
		for at == "" && len(s.queue) == 0 {
			time.Sleep(time.Millisecond)
		}
		if at == "" {
			cancel()
		}
		close(goOn)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %q: %v", at, err)
		}
		if at == "" && len(steps) > 0 || at != "" && steps[len(steps)-1] != at || len(leftovers(s.path)) > 0 {
			t.Errorf("cancelled at %q: it went through %v, and left %v", at, steps, leftovers(s.path))
		}
		cancel()
	}
	must(t, insert(t, s, 900))
}

// A link to a store stays one.
func TestCompactBehindALink(t *testing.T) {
	path, link := example(t), t.TempDir()+"/gatehouse.db"
	must(t, os.Symlink(path, link))
	_, err := Compact(link, nil)
	must(t, err)
	s := open(t, link, small)
	_, err = s.Compact(t.Context(), nil)
	must(t, err)
	must(t, insert(t, s, 900))
	check(t, s)
	at, err := os.Readlink(link)
	must(t, err)
	s = open(t, at, small)
	defer check(t, s)
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(900)})
	must(t, err)
	if found[0] == nil {
		t.Error("the file that the link names has not what was stored")
	}
}

// Where the new file is in its place and its name may not last, nothing more is
// acknowledged; where it did not get there, the store goes on with the old one.
func TestCompactWhileOpenOnAFailingDisk(t *testing.T) {
	strace := lookStrace(t)
	for _, c := range []struct{ fails, says string }{
		{"fsync", "compacted: store stopped, stored: store stopped, compacted again in 0 steps: store stopped\n"},
		{"rename,renameat,renameat2", "compacted: input/output error, stored: <nil>, compacted again in 3 steps: input/output error\n"},
	} {
		path := example(t)
		words := []string{strace, "-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-e", "trace=" + c.fails, "-e", "inject=" + c.fails + ":error=EIO"}
		if c.fails == "fsync" {
			words = append(words, "-P", filepath.Dir(path)) // of the folder alone
		}
		if out := output(t, child(t, "compact while open", path, "store", words...)); out != c.says {
			t.Errorf("%s fails: the child says %q, want %q", c.fails, out, c.says)
		}
		s := open(t, path, small)
		found, err := s.Lookup(t.Context(), []storage.TokenID{testID(901)})
		must(t, err)
		if stored := strings.Contains(c.says, "stored: <nil>"); (found[0] != nil) != stored {
			t.Errorf("%s fails: stored %t, found %v", c.fails, stored, found[0])
		}
		check(t, s)
	}
}

// sort is the error that err is, of those that the tests want.
func sort(err error) error {
	for _, is := range []error{storage.ErrStopped, storage.ErrFull, syscall.EIO} {
		if errors.Is(err, is) {
			return is
		}
	}
	return err
}

// childStore says whether it could compact, then store, then compact again.
func childStore(s *Store) error {
	_, err := s.Compact(context.Background(), nil)
	_, stored := s.Insert(context.Background(), []*storage.Token{testToken(901)})
	steps := 0
	_, again := s.compact(context.Background(), nil, func(string) { steps++ })
	fmt.Printf("compacted: %v, stored: %v, compacted again in %d steps: %v\n", sort(err), sort(stored), steps, sort(again))
	return s.Close()
}

func childCompactOpen(path string) error {
	s, err := Open(path, small)
	if err != nil {
		return err
	}
	if os.Getenv(optionEnv) == "store" {
		return childStore(s)
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
