package noded

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
)

// maxKnown is how many earlier instances the state folder remembers; the
// authority forgets older ones by their fence.
const maxKnown = 16

// instances is the node's memory of its processes: a file with an id a line,
// locked for as long as a process uses the folder, so that the ids in it are
// those of processes that have ended.
type instances struct {
	file  *os.File
	known [][16]byte
}

// openInstances locks the state folder dir and reads who came before.
func openInstances(dir string) (*instances, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	path := filepath.Join(dir, "instances")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	in := &instances{file: f}
	if err := in.open(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return in, nil
}

func (in *instances) open(path string) error {
	switch err := ops.Lock(in.file); {
	case errors.Is(err, ops.ErrLocked):
		return fmt.Errorf("state folder: %w: give each node a state folder of its own", err)
	case err != nil:
		return fmt.Errorf("state folder: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if id, err := hex.DecodeString(strings.TrimSpace(line)); err == nil && len(id) == 16 { // a torn line is nobody's id
			in.known = append(in.known, [16]byte(id))
		}
	}
	in.known = in.known[max(0, len(in.known)-maxKnown+1):]
	return nil
}

// write replaces the file's lines.
func (in *instances) write(ids [][16]byte) error {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(hex.EncodeToString(id[:]) + "\n")
	}
	if _, err := in.file.WriteAt([]byte(b.String()), 0); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := in.file.Truncate(int64(b.Len())); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := in.file.Sync(); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	return nil
}

func (in *instances) close() error { return in.file.Close() }
