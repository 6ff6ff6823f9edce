package auditlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Moved finds the newest seal in the files beside path that carry its name and
// more, as rotation leaves them: audit.jsonl.1, audit.jsonl-20261123. Compressed
// ones are not read.
func Moved(path string) (newest Checkpoint, err error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return newest, err
	}
	packed := []string{".gz", ".xz", ".bz2", ".zst", ".lz4", ".zip"}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok || rest == "" || rest[0] != '.' && rest[0] != '-' || !e.Type().IsRegular() || slices.Contains(packed, filepath.Ext(rest)) {
			continue
		}
		head, err := headOf(filepath.Join(filepath.Dir(path), e.Name()))
		if errors.Is(err, fs.ErrNotExist) { // rotated on since: the folder says where to
			return Moved(path)
		}
		if err != nil {
			return newest, fmt.Errorf("%s: %w", e.Name(), err)
		}
		if head.Sequence > newest.Sequence {
			newest = head
		}
	}
	return newest, nil
}

func headOf(path string) (Checkpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return Checkpoint{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return Checkpoint{}, err
	}
	s, _, _, err := sealBefore(f, info.Size())
	return s.Checkpoint, err
}
