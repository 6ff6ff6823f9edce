package boltstore

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// Processes make calls side by side and are killed, one after the other on one
// file. There is an order of all their calls that explains every answer, in which
// those that a kill has cut off were done before it or never.
func TestKilledHistories(t *testing.T) {
	rounds := 8
	if long() {
		rounds = 200
	}
	answered, cutOff := 0, 0
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gatehouse.db")
			var processes [][]string
			for process := range 4 {
				processes = append(processes, spoken(t, path, round*4+process))
			}
			check(t, open(t, path, crashOptions))
			a, c := storagetest.SpokenHistories(t, processes)
			answered, cutOff = answered+a, cutOff+c
		})
	}
	t.Logf("%d processes were killed: %d calls answered, %d cut off", rounds*4, answered, cutOff)
	if cutOff == 0 {
		t.Error("no call was cut off: the test tests nothing")
	}
}

// spoken is what a process says until it is killed, at a random moment.
func spoken(t *testing.T, path string, seed int) (out []string) {
	cmd := child(t, "history", path, strconv.Itoa(seed))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	last := 10 + rand.IntN(60)
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		if out = append(out, lines.Text()); len(out) == last {
			must(t, cmd.Process.Kill())
		}
	}
	if err := cmd.Wait(); err == nil || len(out) < last {
		t.Fatalf("the child ended by itself after %d lines: %v", len(out), err)
	}
	return out
}

// childHistory works until it is killed.
func childHistory(path string) error {
	seed, err := strconv.ParseUint(os.Getenv(optionEnv), 10, 64)
	if err != nil {
		return err
	}
	s, err := Open(path, crashOptions)
	if err != nil {
		return err
	}
	if seed%2 == 1 {
		go func() {
			for {
				if _, err := s.Compact(context.Background(), nil); err != nil {
					panic(err)
				}
			}
		}()
	}
	return storagetest.SpokenHistory(s, seed, math.MaxInt, func(line string) { say("%s", line) })
}
