package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
)

// try runs a command line and looks for what it must say.
func try(t *testing.T, code int, says []string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if got := run(context.Background(), args, nil, &out, &out); got != code {
		t.Errorf("%v: exit code %d, want %d: %s", args, got, code, out.String())
	}
	for _, want := range says {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%v: no %q in %s", args, want, out.String())
		}
	}
	return out.String()
}

func TestMaintain(t *testing.T) {
	dir := t.TempDir()
	state, other := filepath.Join(dir, "state"), filepath.Join(dir, "other")
	store, backup := filepath.Join(state, "gatehouse.db"), filepath.Join(dir, "a.backup")
	try(t, 0, nil, "init", "--state", state)
	try(t, 0, nil, "init", "--state", other)

	try(t, 2, []string{"say where the backup goes", "hint: --out gatehouse.backup"}, "backup", "--state", state)
	try(t, 0, []string{backup + ": ", "\nsystem ", "\nsha256 "}, "backup", "--out", backup, "--state", state)
	try(t, 2, []string{"exists already", "replaces none"}, "backup", "--out", backup, "--state", state)
	try(t, 0, nil, "backup", "--out", filepath.Join(dir, "other.backup"), "--state", other)

	try(t, 0, []string{"compacted: ", " before, "}, "compact", "--state", state)

	try(t, 2, []string{"name the backup with --from"}, "restore", "--state", state)
	try(t, 2, []string{"revokes every token", "hint: --yes does it"}, "restore", "--from", backup, "--state", state)
	try(t, 1, []string{"--from: ", "no such file"}, "restore", "--from", backup+"x", "--state", state, "--yes")
	try(t, 1, []string{"backup of another system", "--force-foreign takes this one"}, "restore", "--from", filepath.Join(dir, "other.backup"), "--state", state, "--yes")
	try(t, 1, []string{"not a Gatehouse backup"}, "restore", "--from", store, "--state", state, "--yes")
	try(t, 0, []string{"restored the backup of ", "every token of before is revoked", "the store of before: " + store + ".before-restore-"}, "restore", "--from", backup, "--state", state, "--yes")
	try(t, 0, []string{"nothing to do"}, "init", "--state", state)

	// What was lost tells no longer which system it was; the folder does.
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	try(t, 1, []string{"the store is gone", "hint: gatehouse-authority restore puts a backup in its place"}, "compact", "--state", state)
	try(t, 1, []string{"backup of another system"}, "restore", "--from", filepath.Join(dir, "other.backup"), "--state", state, "--yes")
	try(t, 0, []string{"restored the backup of "}, "restore", "--from", backup, "--state", state, "--yes")

	t.Run("while an authority works", func(t *testing.T) {
		s, err := boltstore.Open(store, boltstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, args := range [][]string{{"compact"}, {"restore", "--from", backup, "--yes"}} {
			try(t, 1, []string{"in use by another process", "hint: stop the authority"}, append(args, "--state", state)...)
		}
	})
	t.Run("without the CA", func(t *testing.T) {
		bare := filepath.Join(dir, "bare")
		if err := os.Mkdir(bare, 0o700); err != nil {
			t.Fatal(err)
		}
		none := "error: state folder " + bare + ": it holds no CA\n"
		try(t, 1, []string{none, "hint: copy the folder ca"}, "restore", "--from", backup, "--state", bare, "--yes")
		for _, args := range [][]string{{"compact"}, {"backup", "--out", backup + "2"}, {"ca", "list"}, {}} {
			try(t, 1, []string{none, "hint: name the folder of an authority with --state, or make one with gatehouse-authority init --state " + bare}, append(args, "--state", bare)...)
		}
		if err := os.Rename(store, filepath.Join(bare, "gatehouse.db")); err != nil {
			t.Fatal(err)
		}
		try(t, 0, []string{"compacted: "}, "compact", "--state", bare)
	})
}
