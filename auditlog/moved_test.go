package auditlog

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	if got, err := Moved(path); err != nil || got != (Checkpoint{}) {
		t.Errorf("of nothing: %+v %v", got, err)
	}
	long, heads := trail(1, 2, 1)
	short, _ := trail(1, 2)
	other, _ := trail(1, 1, 1, 1)
	for name, text := range map[string][]byte{
		"audit.jsonl": other, "audit.jsonl.2": short, "audit.jsonl-20261123": append(long, `{"time":`...), "audit.jsonl.3.gz": {0x1f, 0x8b}, "audit.jsonlx": other, "other.jsonl.1": other,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := Moved(path); err != nil || got != heads[2] {
		t.Errorf("%+v %v, want %+v", got, err, heads[2])
	}
	if _, err := Moved(filepath.Join(dir, "none", "audit.jsonl")); err == nil {
		t.Error("a folder that is not there is no error")
	}
}
