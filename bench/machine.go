package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Machine is what a run ran on. Figures of different machines do not compare.
type Machine struct {
	CPU        string  `json:"cpu"`
	CPUs       int     `json:"cpus"`
	System     string  `json:"system"`
	Go         string  `json:"go"`
	Cores      string  `json:"cores"`
	GOMAXPROCS string  `json:"gomaxprocs"`
	Disk       string  `json:"disk"`
	SyncMicros float64 `json:"sync_micros"` // of 4 KiB rewritten in place
}

func describeMachine(dir string, c cores) Machine {
	m := Machine{
		CPU: processor(), CPUs: cpuCount, System: system(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Disk: fileSystem(dir), SyncMicros: syncMicros(dir),
		Cores:      "nothing is pinned",
		GOMAXPROCS: fmt.Sprintf("servers and load %d each", runtime.GOMAXPROCS(0)),
	}
	if c.pinned {
		m.Cores = fmt.Sprintf("servers pinned to core %d, load (and the authority of ws) to core %d", c.server, c.load)
		m.GOMAXPROCS = "servers 1, load 1"
	}
	return m
}

func (m *Machine) lines() []string {
	return []string{
		fmt.Sprintf("%s, %d CPUs, %s, %s", m.CPU, m.CPUs, m.System, m.Go),
		fmt.Sprintf("%s; GOMAXPROCS: %s", m.Cores, m.GOMAXPROCS),
		fmt.Sprintf("state on %s, a sync of 4 KiB takes %.0f µs; all traffic over loopback", m.Disk, m.SyncMicros),
	}
}

// cpuCount is taken before anything is pinned.
var cpuCount = runtime.NumCPU()

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range bytes.Lines(text) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// syncMicros is the median time of a durable 4 KiB write into space that the
// file has already, or 0 where it cannot be measured.
func syncMicros(dir string) float64 {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0
	}
	defer func() {
		_ = f.Close() // holds nothing
		_ = os.Remove(f.Name())
	}()
	page := make([]byte, 4096)
	var took []time.Duration
	for range 101 {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0
		}
		if err := f.Sync(); err != nil {
			return 0
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return micros(took[len(took)/2])
}
