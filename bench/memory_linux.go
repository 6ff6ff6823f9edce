package main

import (
	"bytes"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memoryNow reads what this process holds, once the collector has been through and
// what is free was given back. A processor keeps up to 512 KiB of it at hand, more or
// less by chance: that is left out.
func memoryNow() memory {
	debug.FreeOSMemory()
	free := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(free)
	m := memoryAsItIs()
	m.Private -= int64(free[0].Value.Uint64())
	return m
}

// memoryAsItIs reads what this process holds, garbage too.
func memoryAsItIs() memory {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	m := memory{Heap: int64(heap[0].Value.Uint64())}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return m
	}
	for line := range bytes.Lines(status) {
		name, value, _ := strings.Cut(string(line), ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "RssAnon":
			m.Private = kib << 10
		case "RssFile":
			m.Mapped = kib << 10
		case "VmHWM":
			m.Most = kib << 10
		}
	}
	return m
}

// forgetPages has the system forget what it holds of a file in memory.
func forgetPages(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
