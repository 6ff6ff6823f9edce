package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Nothing more may come, and nothing says so: an interruption ends the wait.
func TestInterruptedBeforeTheLastMessage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(file, []byte(`{"type":"string","maxLength":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"schema", "check", file}, {"schema", "bench", file, "-"}} {
		t.Run(args[1], func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r, w := io.Pipe()
			defer w.Close()
			go func() {
				_, _ = io.WriteString(w, "\"hello\"\n")
				cancel()
			}()
			c := newCaller(t)
			c.check(c.runCtx(ctx, r, args...), exitInterrupted, "", "gatehouse: error: interrupted\n")
		})
	}
}
