package boltstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var (
	exampleOnce  sync.Once
	examplePages []byte
)

// example is a file as filled makes it, made but once, of a system of its own.
func example(t testing.TB) string {
	exampleOnce.Do(func() {
		b, err := os.ReadFile(filled(t))
		must(t, err)
		examplePages = b
	})
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	must(t, os.WriteFile(path, examplePages, 0o600))
	edit(t, path, func(tx *bbolt.Tx) error { return putSystem(tx.Bucket(metaBucket)) })
	return path
}

// restored puts a backup in the place of the store at path.
func restored(t testing.TB, path string, backup []byte) Restored {
	t.Helper()
	r, err := Restore(path, bytes.NewReader(backup), RestoreOptions{})
	must(t, err)
	return r
}

func TestRestore(t *testing.T) {
	path := example(t)
	s := open(t, path, small)
	gone := storage.Instance{ID: storage.InstanceID{9}, Node: "node-9"}
	must(t, s.PutInstance(t.Context(), &gone))
	must(t, s.Acknowledge(t.Context(), []storage.Acknowledgement{{Instance: testNode, Through: 9, Counts: []storage.Closed{{Sequence: 9, Closed: 3}}}}))
	must(t, s.RemoveInstance(t.Context(), gone.ID, benchStart, "test"))
	backup := backupOf(t, s)
	was, _ := s.Head()
	system, locks := s.System(), s.Stats().Locks
	must(t, insert(t, s, 900)) // since the backup
	later := storage.Instance{ID: storage.InstanceID{5}, Node: "node-5"}
	must(t, s.PutInstance(t.Context(), &later))
	check(t, s)
	before, err := os.ReadFile(path)
	must(t, err)

	r := restored(t, path, backup)
	kept, err := os.ReadFile(r.Kept)
	must(t, err)
	if !bytes.Equal(kept, before) {
		t.Error("the store of before is not kept as it was")
	}
	if left := leftovers(path); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	s = open(t, path, small)
	defer check(t, s)
	head, _ := s.Head()
	if head != r.Head || head.Epoch == was.Epoch || head.Sequence != was.Sequence || s.System() != system {
		t.Errorf("head %v of system %s, and before %v of %s; it was told %v", head, s.System(), was, system, r.Head)
	}
	if st := s.Stats(); st.Tokens != 200 || st.Sessions != 0 || st.Entries != 0 || st.Locks != locks || locks == 0 {
		t.Errorf("%+v, want 200 tokens and %d locks", st, locks)
	}
	instances, err := s.Instances(t.Context())
	must(t, err)
	credentials, err := s.Credentials(t.Context())
	must(t, err)
	keys, err := s.EdgeKeys(t.Context())
	must(t, err)
	standing, err := s.Locks(t.Context())
	must(t, err)
	if len(credentials) != 1 || len(keys) != 1 || len(standing) != locks {
		t.Errorf("%d credentials, %d edge keys, %d locks", len(credentials), len(keys), len(standing))
	}
	// Whoever may have sockets of before is waited for.
	if got, want := nodesOf(instances, head), "node-1 node-5"; got != want {
		t.Errorf("registered are %s, want %s", got, want)
	}
	acknowledged, err := s.Acknowledged(t.Context())
	must(t, err)
	counts, err := s.Counts(t.Context(), 9)
	must(t, err)
	if len(acknowledged) != 0 || len(counts) != 0 {
		t.Errorf("acknowledged %v, counts %v: they are of entries that are gone", acknowledged, counts)
	}
	for _, l := range standing {
		if l.Revision.Epoch != head.Epoch || l.Revision.Sequence > head.Sequence {
			t.Errorf("a lock of revision %v, above head %v", l.Revision, head)
		}
	}

	// Nothing of before counts, whether it was used or not, and all that is new does.
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(0), testID(1), testID(900)})
	must(t, err)
	if found[2] != nil {
		t.Error("a token that was stored since the backup is known")
	}
	st, err := s.Statuses(t.Context(), found[:2])
	must(t, err)
	for i := range st {
		if st[i].RevokedBy.Epoch != head.Epoch {
			t.Errorf("token %d: %+v, want it revoked", i, st[i])
		}
	}
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	if err := redeem(t, s, 1, 500); !errors.Is(err, storage.ErrRevoked) {
		t.Errorf("a token of before: %v, want ErrRevoked", err)
	}
	must(t, insert(t, s, 1000))
	must(t, redeem(t, s, 1000, 1000))
	e, err := s.Append(t.Context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: testID(1000)}})
	must(t, err)
	if e.Revision != (storage.Revision{Epoch: head.Epoch, Sequence: head.Sequence + 1}) {
		t.Errorf("the first entry is %v after %v", e.Revision, head)
	}
	if _, err := s.Append(t.Context(), storage.Entry{Kind: storage.LiftLock, Lock: standing[0].ID}); err != nil {
		t.Errorf("lift a lock of before: %v", err)
	}
	page, err := s.ListSessions(t.Context(), storage.SessionQuery{Limit: 10})
	must(t, err)
	if len(page.Sessions) != 1 {
		t.Errorf("%d sessions are live, want that of the new token", len(page.Sessions))
	}
}

// Where the store is lost, or can't be read, a backup takes its place all the
// same.
func TestRestoreOverALoss(t *testing.T) {
	path := example(t)
	backup := backupFrom(t, path)
	t.Run("no store", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gatehouse.db")
		if r := restored(t, path, backup); r.Kept != "" {
			t.Errorf("kept %s of nothing", r.Kept)
		}
		unknown(t, path)
	})
	t.Run("a damaged store", func(t *testing.T) {
		must(t, os.WriteFile(path, []byte("hello"), 0o600))
		r := restored(t, path, backup)
		if kept, err := os.ReadFile(r.Kept); string(kept) != "hello" {
			t.Errorf("kept %q, %v", kept, err)
		}
		unknown(t, path)
	})
}

// unknown holds a store that was restored without the one before it against what
// it has to know: there may be more nodes than the backup has.
func unknown(t *testing.T, path string) {
	t.Helper()
	s := open(t, path, small)
	defer check(t, s)
	instances, err := s.Instances(t.Context())
	must(t, err)
	head, _ := s.Head()
	if got, want := nodesOf(instances, head), storage.NodesUnknown+" node-1"; got != want {
		t.Errorf("registered are %s, want %s", got, want)
	}
}

// nodesOf names the nodes of instances that are waited for by every entry above
// a head.
func nodesOf(instances []storage.Instance, head storage.Revision) string {
	var names []string
	for _, i := range instances {
		if i.Registered == head.Sequence {
			names = append(names, i.Node)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// signed changes a backup, and gives it the sums that fit it.
func signed(t testing.TB, whole []byte, edit func(h *header, pages []byte) []byte) []byte {
	t.Helper()
	h, err := parseHeader(whole[:headerSize])
	must(t, err)
	pages := edit(&h, bytes.Clone(whole[headerSize:len(whole)-trailerSize]))
	b := append(appendHeader(nil, &h), pages...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// A backup of an older format is restored with its tokens and their uses.
func TestRestoreOfFormat2(t *testing.T) {
	path := example(t)
	known := func(path string) (tokens []storage.TokenID, uses []uint32) {
		s := open(t, path, small)
		defer check(t, s)
		page, err := s.ListTokens(t.Context(), storage.TokenQuery{Limit: 1000})
		must(t, err)
		st, err := s.Statuses(t.Context(), page.Tokens)
		must(t, err)
		for i, x := range page.Tokens {
			tokens, uses = append(tokens, x.ID), append(uses, st[i].Uses)
		}
		return tokens, uses
	}
	tokens, uses := known(path)
	whole := backupFrom(t, path)
	asFormat2(t, path)
	old, err := os.ReadFile(path)
	must(t, err)
	backup := signed(t, whole, func(h *header, _ []byte) []byte {
		h.pages = int64(len(old))
		return old
	})
	again := filepath.Join(t.TempDir(), "gatehouse.db")
	restored(t, again, backup)
	if got, n := known(again); !slices.Equal(got, tokens) || !slices.Equal(n, uses) || slices.Max(uses) == 0 {
		t.Errorf("%d tokens with uses %v, want %d with %v", len(got), n, len(tokens), uses)
	}
}

func TestRestoreRefuses(t *testing.T) {
	path := example(t)
	whole := backupFrom(t, path)
	other := backupFrom(t, example(t))
	signed := func(edit func(h *header, pages []byte) []byte) []byte { return signed(t, whole, edit) }
	flipped := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		return b
	}
	newer := bytes.Clone(whole)
	binary.BigEndian.PutUint32(newer[8:], backupFormat+1)
	newStore := example(t)
	edit(t, newStore, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, number(format+1)) })
	newStorePages, err := os.ReadFile(newStore)
	must(t, err)
	session := binary.BigEndian.AppendUint64(number(uint64(benchStart.UnixMilli())), 1<<40)
	badLock := example(t)
	edit(t, badLock, func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(locksBucket).Put(make([]byte, 16), []byte{9}), tx.Bucket(sessionsBucket).Put(session, []byte{9}))
	})
	badLockPages, err := os.ReadFile(badLock)
	must(t, err)

	untouched, err := os.ReadFile(path)
	must(t, err)
	folder := filepath.Dir(path)
	names, err := os.ReadDir(folder)
	must(t, err)
	type row struct {
		backup []byte
		opts   RestoreOptions
		want   error
		says   string
	}
	rows := map[string]row{
		"nothing":                      {nil, RestoreOptions{}, nil, "not a Gatehouse backup"},
		"a text":                       {bytes.Repeat([]byte("hello\n"), 10_000), RestoreOptions{}, nil, "not a Gatehouse backup"},
		"a store's file itself":        {untouched, RestoreOptions{}, nil, "gatehouse backup makes them"},
		"a newer format":               {newer, RestoreOptions{}, storage.ErrNewer, "use that newer version"},
		"another system":               {other, RestoreOptions{}, storage.ErrForeign, "and this is"},
		"something behind it":          {append(bytes.Clone(whole), 0), RestoreOptions{}, errDamaged, "goes on after its end"},
		"pages that are none":          {signed(func(_ *header, p []byte) []byte { clear(p[8192:]); return p }), RestoreOptions{}, errDamaged, "not sound"},
		"another head than its header": {signed(func(h *header, p []byte) []byte { h.head.Sequence++; return p }), RestoreOptions{}, errDamaged, "its header says"},
		"a store of a newer format": {signed(func(h *header, _ []byte) []byte { h.pages = int64(len(newStorePages)); return newStorePages }),
			RestoreOptions{Foreign: true}, storage.ErrNewer, "newer version of Gatehouse"},
		"a lock of a newer version": {signed(func(h *header, _ []byte) []byte {
			h.pages = int64(len(badLockPages))
			must(t, bboltHead(badLock, h))
			return badLockPages
		}), RestoreOptions{Foreign: true}, storage.ErrNewer, "lock"},
	}
	for _, n := range []int{1, 8, 12, headerFields, headerSize - 1, headerSize, headerSize + 1, len(whole) / 2, len(whole) - trailerSize, len(whole) - 1} {
		rows[fmt.Sprintf("cut to %d bytes", n)] = row{whole[:n], RestoreOptions{}, nil, "backup"}
	}
	for _, at := range []int{0, 9, 13, 20, 33, 45, 50, 60, headerFields, headerSize, headerSize + 5000, len(whole) / 2, len(whole) - trailerSize - 1, len(whole) - 1} {
		rows[fmt.Sprintf("byte %d flipped", at)] = row{flipped(at), RestoreOptions{}, nil, "backup"}
	}
	for name, c := range rows {
		t.Run(name, func(t *testing.T) {
			_, err := Restore(path, bytes.NewReader(c.backup), c.opts)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v that says %q", err, c.want, c.says)
			}
			now, err := os.ReadFile(path)
			must(t, err)
			after, err := os.ReadDir(folder)
			must(t, err)
			if !bytes.Equal(now, untouched) || len(after) != len(names) {
				t.Errorf("it has touched the store, or left something: %v", after)
			}
		})
	}
	t.Run("a store that is open", func(t *testing.T) {
		s := open(t, path, small)
		defer check(t, s)
		for what, fn := range map[string]func() error{
			"restore": func() error { _, err := Restore(path, bytes.NewReader(whole), RestoreOptions{}); return err },
			"compact": func() error { _, err := Compact(path, nil); return err },
		} {
			if err := fn(); !errors.Is(err, storage.ErrInUse) {
				t.Errorf("%s: %v, want ErrInUse", what, err)
			}
		}
	})
}

// bboltHead has a header say what a store's file does.
func bboltHead(path string, h *header) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		h.head.Epoch, _ = numberOf(tx.Bucket(metaBucket).Get(epochKey))
		h.head.Sequence = tx.Bucket(logBucket).Sequence()
		return nil
	})
}

// The backup of another system is taken where that is forced, and the
// installation stays what it is; where no store tells, the caller does.
func TestRestoreForeign(t *testing.T) {
	path := example(t)
	s := open(t, path, small)
	system := s.System()
	check(t, s)
	other := backupFrom(t, example(t))
	if _, err := Restore(path, bytes.NewReader(other), RestoreOptions{Foreign: true}); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, small)
	if s.System() != system {
		t.Errorf("system %s, want still %s", s.System(), system)
	}
	check(t, s)
	lost := filepath.Join(t.TempDir(), "gatehouse.db")
	if _, err := Restore(lost, bytes.NewReader(other), RestoreOptions{System: system}); !errors.Is(err, storage.ErrForeign) {
		t.Errorf("%v, want ErrForeign", err)
	}
	if _, err := os.Stat(lost); err == nil {
		t.Error("a store was made")
	}
}

func TestCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	s := open(t, path, Options{AheadBytes: 1})
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	for n := 0; n < 3000; n += 100 {
		var ns []int
		for i := range 100 {
			ns = append(ns, n+i)
		}
		must(t, insert(t, s, ns...))
	}
	must(t, redeem(t, s, 299, 1))
	_, err := s.Sweep(t.Context(), benchStart.Add(4*time.Minute), 0)
	must(t, err)
	was, head := s.Stats(), s.system
	check(t, s)
	done, err := Compact(path, nil)
	must(t, err)
	if done.Before != was.FileBytes || done.After*2 > done.Before {
		t.Errorf("%+v of %d bytes", done, was.FileBytes)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Size() != done.After || len(leftovers(path)) > 0 {
		t.Errorf("%d bytes, and it said %+v; left %v", info.Size(), done, leftovers(path))
	}
	s = open(t, path, Options{AheadBytes: 1})
	defer check(t, s)
	is := s.Stats()
	if is.Tokens != was.Tokens || is.Sessions != was.Sessions || is.Entries != was.Entries || is.Locks != was.Locks || s.system != head {
		t.Errorf("%+v, and before %+v", is, was)
	}
	if err := redeem(t, s, 299, 2); !errors.Is(err, storage.ErrUsed) {
		t.Errorf("a used token: %v, want ErrUsed", err)
	}
	if _, err := Compact(filepath.Join(t.TempDir(), "none.db"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.db")
	must(t, os.WriteFile(bad, []byte("hello"), 0o600))
	if _, err := Compact(bad, nil); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("of a damaged file: %v, want ErrCorrupt", err)
	}
}

// A restore or a compaction that is killed, wherever, leaves the old store or
// the new one, whole; the next one clears up.
func TestKilledMaintenance(t *testing.T) {
	for _, c := range []struct {
		what  string
		steps []string
	}{
		{"restore", []string{"reading", "received", "begun", "written", "replaced"}},
		{"compact", []string{"copying", "copied", "written", "replaced"}},
		{"compact while open", []string{"copying", "copied", "written", "replaced"}},
	} {
		for _, step := range c.steps {
			t.Run(c.what+" at "+step, func(t *testing.T) {
				path := example(t)
				backup := backupFrom(t, path)
				must(t, os.WriteFile(path+".backup", backup, 0o600))
				s := open(t, path, small)
				must(t, insert(t, s, 900))
				old := s.epoch
				check(t, s)
				err := child(t, c.what, path, step).Run()
				if err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("the child ended otherwise: %v", err)
				}
				s = open(t, path, small)
				found, err := s.Lookup(t.Context(), []storage.TokenID{testID(900)})
				must(t, err)
				swapped := step == "replaced"
				if isNew := s.epoch != old; isNew != (swapped && c.what == "restore") || (found[0] == nil) != isNew || s.Stats().Tokens < 200 {
					t.Errorf("new %t, the last token %v, %+v", isNew, found[0], s.Stats())
				}
				check(t, s)
				if _, err := Compact(path, nil); err != nil {
					t.Error(err)
				}
				if left := leftovers(path); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

func killAt(name string) func(string) {
	return func(step string) {
		if step == name {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

func childRestore(path string) error {
	f, err := os.Open(path + ".backup")
	if err != nil {
		return err
	}
	defer f.Close()
	opts := RestoreOptions{step: killAt(os.Getenv(optionEnv))}
	if most, ok := strings.CutPrefix(os.Getenv(optionEnv), "limit "); ok {
		var n uint64
		if _, err := fmt.Sscan(most, &n); err != nil {
			return err
		}
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			return err
		}
	}
	_, err = Restore(path, f, opts)
	if errors.Is(err, storage.ErrFull) {
		fmt.Println("full")
		return nil
	}
	return err
}

func childCompact(path string) error {
	_, err := compact(path, nil, killAt(os.Getenv(optionEnv)))
	return err
}

// A disk without room for the new store leaves the old one as it was.
func TestRestoreWithoutRoom(t *testing.T) {
	path := example(t)
	backup := backupFrom(t, path)
	must(t, os.WriteFile(path+".backup", backup, 0o600))
	before, err := os.ReadFile(path)
	must(t, err)
	for _, most := range []int{1, 10_000, len(backup) - headerSize - trailerSize - 1} {
		if out := output(t, child(t, "restore", path, fmt.Sprintf("limit %d", most))); out != "full\n" {
			t.Errorf("with room for %d bytes, the child says %q", most, out)
		}
		after, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(before, after) || len(leftovers(path)) > 0 {
			t.Errorf("with room for %d bytes, it has touched the store or left %v", most, leftovers(path))
		}
	}
}

// A process that waits for the lock of a store while that is replaced must not
// get the old one.
func TestOpenWhileReplaced(t *testing.T) {
	path := example(t)
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, sameFile(f, path))
	_, err = Compact(path, nil)
	must(t, err)
	if err := sameFile(f, path); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("%v, want ErrInUse", err)
	}
}

// What a restore that was killed has left goes with the next one, be there a
// store or not, but not while another is under way.
func TestRestoreRemovesLeftovers(t *testing.T) {
	s := open(t, example(t), small)
	backup := backupOf(t, s)
	must(t, s.Close())
	for what, prepare := range map[string]func(path string) error{
		"no store":        func(string) error { return nil },
		"a damaged store": func(path string) error { return os.WriteFile(path, []byte("damaged"), 0o600) },
		"a store":         func(path string) error { return os.WriteFile(path, examplePages, 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "gatehouse.db")
		must(t, prepare(path))
		left := filepath.Join(filepath.Dir(path), ".gatehouse.db.restore-123")
		must(t, os.WriteFile(left, []byte("half"), 0o600))
		lock, err := lockFolder(filepath.Dir(path))
		must(t, err)
		if lock == nil {
			t.Skip("folders can't be locked here")
		}
		if _, err := Restore(path, bytes.NewReader(backup), RestoreOptions{Foreign: true}); !errors.Is(err, storage.ErrInUse) {
			t.Errorf("%s, and another restore under way: %v", what, err)
		}
		if _, err := os.Stat(left); err != nil {
			t.Errorf("%s: the other restore's file is gone: %v", what, err)
		}
		must(t, lock.Close())
		if _, err := Restore(path, bytes.NewReader(backup), RestoreOptions{Foreign: true}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if left := leftovers(path); len(left) > 0 {
			t.Errorf("%s: %v is left", what, left)
		}
	}
}
