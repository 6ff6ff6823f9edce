package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
)

const (
	// devMark is the file that makes a folder dev's. The running dev holds its
	// lock; --fresh leaves it, so that no two processes hold locks of one name.
	devMark     = "dev.lock"
	devMarkText = "gatehouse dev keeps its state in this folder, and locks this file while it runs.\n"
	// devHeader begins the settings file, by which folders of a dev that made no
	// mark yet are known.
	devHeader = "# Written by gatehouse dev.\n"

	devNode = "dev-node"
	devPage = "dev-page"
)

// devNames are what dev makes beside its mark; --fresh removes nothing else.
var devNames = []string{"ca", "tls", "wss", "credentials", "gatehouse.db", "system-id", "audit.jsonl", filepath.Base(devSettings)}

// isDevName reports whether dev makes such an entry, be it by a process that
// was killed while it wrote.
func isDevName(name string) bool {
	return name == devMark || slices.ContainsFunc(devNames, func(own string) bool {
		rest, begun := strings.CutPrefix(name, "."+own+".")
		what, _, _ := strings.Cut(rest, "-")
		return name == own || begun && slices.Contains([]string{"tmp", "new", "restore", "compact"}, what)
	})
}

// takeState makes dir, if it is missing, and takes it for this process until
// the file it returns is closed. It takes no folder that holds anything but the
// state of a dev: an authority's own would get keys that a page hands tokens
// out with.
func takeState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	path := filepath.Join(dir, devMark)
	if _, err := os.Lstat(path); err != nil && len(entries) > 0 && !madeByEarlierDev(dir, entries) {
		return nil, usage("name another folder with --state; if this one is dev's after all, make an empty file "+devMark+" in it",
			"%s holds files, and nothing says that they are gatehouse dev's: they are left alone", dir)
	}
	mark, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	switch err = ops.Lock(mark); {
	case errors.Is(err, ops.ErrLocked):
		err = stateInUse(dir, err)
	case err != nil:
		err = fmt.Errorf("--state: %w", err)
	default:
		_, err = mark.WriteAt([]byte(devMarkText), 0)
	}
	if err != nil {
		return nil, errors.Join(err, mark.Close())
	}
	return mark, nil
}

func stateInUse(dir string, err error) error {
	return failed(exitFailure, "another gatehouse dev runs there, most likely: end it, or give this one a --state of its own", "%s is in use: %w", dir, err)
}

// madeByEarlierDev recognises a folder that has no mark: it has dev's settings
// file, and nothing that dev does not make.
func madeByEarlierDev(dir string, entries []fs.DirEntry) bool {
	text, err := os.ReadFile(filepath.Join(dir, filepath.Base(devSettings)))
	if err != nil || !strings.HasPrefix(string(text), devHeader) || len(unknownNames(entries)) > 0 {
		return false
	}
	credentials, err := os.ReadDir(filepath.Join(dir, "credentials"))
	return err == nil && !slices.ContainsFunc(credentials, func(e fs.DirEntry) bool {
		return !slices.Contains([]string{authorityd.FirstAdmin, devNode, devPage}, e.Name())
	})
}

func unknownNames(entries []fs.DirEntry) []string {
	var names []string
	for _, e := range entries {
		if !isDevName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

// forget removes what earlier runs left in the state folder, which this process
// has taken.
func (c *cli) forget(ctx context.Context, cfg authorityd.Config, yes bool) error {
	entries, err := os.ReadDir(cfg.State)
	if err != nil {
		return fmt.Errorf("--fresh: %w", err)
	}
	if unknown := unknownNames(entries); len(unknown) > 0 {
		return usage("move it away, or remove what is to go by hand", "--fresh: %s holds what gatehouse dev did not make: %s; nothing was removed", cfg.State, strings.Join(unknown, ", "))
	}
	if len(entries) <= 1 { // the mark
		return nil
	}
	// Who made no mark yet, or is no dev, still holds the store's own lock.
	if err := authorityd.CheckUnused(cfg); err != nil {
		return stateInUse(cfg.State, err)
	}
	if !yes {
		if !c.terminal {
			return usage("say --yes too", "--fresh forgets all tokens, revocations and keys in %s, and there is no terminal to ask on", cfg.State)
		}
		if err := c.confirm(ctx, "This forgets all tokens, revocations and keys in "+cfg.State+".", "yes"); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if e.Name() == devMark {
			continue
		}
		if err := os.RemoveAll(filepath.Join(cfg.State, e.Name())); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	return nil
}
