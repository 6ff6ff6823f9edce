package storage

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Promise 1: an edge key's bytes are in nothing that is printed or logged.
func TestEdgeKeyHidesItself(t *testing.T) {
	k := EdgeKey{ID: 7}
	for i := range k.Key {
		k.Key[i] = 0xab
	}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "keys", []EdgeKey{k})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "keys", []EdgeKey{k}, "at", &k)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, verb+" "+verb+"\n", k, []EdgeKey{k})
	}
	if err := json.NewEncoder(&out).Encode(map[string]any{"key": k}); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"abab", "171 171", "171,171", "0xab", "q6ur"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the key is printed as %s: %s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), "edge key 7") {
		t.Error("its id is not printed")
	}
}
