package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// socketBytes is what an idle socket takes of the machine: both ends in the
	// kernel, and its share of node, authority, clients, and their files in memory.
	socketBytes = 12_000
	// pairBytes is what a node and its clients take without any.
	pairBytes = 48 << 20
	// keepFree is how much memory must stay free for others.
	keepFree = 3 << 30
	// spareFiles is what a process needs descriptors for beside sockets: a node
	// keeps some for those that it is to refuse.
	spareFiles = 1000
)

// room is what a machine lets the run have.
type room struct {
	files     int   // descriptors of a process
	allFiles  int   // that all processes may yet have together
	watches   int   // sockets that epoll may watch for one user
	available int64 // bytes of memory
}

func roomHere() (r room, err error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return r, fmt.Errorf("read the limit on open files: %w", err)
	}
	r.files = int(min(l.Cur, math.MaxInt32))
	files, err := numbersOf("/proc/sys/fs/file-nr")
	if err != nil {
		return r, err
	}
	watches, err := numbersOf("/proc/sys/fs/epoll/max_user_watches")
	if err != nil {
		return r, err
	}
	if len(files) != 3 || len(watches) != 1 {
		return r, fmt.Errorf("/proc/sys/fs says %v and %v", files, watches)
	}
	r.allFiles, r.watches = int(min(files[2]-files[0], math.MaxInt32)), int(min(watches[0], math.MaxInt32))
	r.available, err = memoryAvailable()
	return r, err
}

// pairsFor is over how many nodes sockets are to be spread, at least two. The
// error tells what there is too little of.
func (r *room) pairsFor(sockets int) (pairs int, err error) {
	per := r.files - spareFiles
	if per < 1 {
		return 0, fmt.Errorf("%w: a process may have %d open files, and needs %d beside its sockets: raise the limit on open files (ulimit -n)", errNoRoom, r.files, spareFiles)
	}
	pairs = max((sockets+per-1)/per, 2)
	if need := 2*sockets + pairs*spareFiles; need > r.allFiles {
		return 0, fmt.Errorf("%w: all processes together may open %d more files, and %d sockets need %d: raise fs.file-max, or choose fewer -sockets", errNoRoom, r.allFiles, sockets, need)
	}
	if 2*sockets > r.watches {
		return 0, fmt.Errorf("%w: epoll may watch %d sockets of a user, and both ends of %d are %d: raise fs.epoll.max_user_watches, or choose fewer -sockets", errNoRoom, r.watches, sockets, 2*sockets)
	}
	if need := int64(sockets)*socketBytes + int64(pairs)*pairBytes; need > r.available-keepFree {
		return 0, fmt.Errorf("%w: %d MB of memory are free, of which %d MB must stay so, and %d sockets need about %d MB: choose fewer -sockets",
			errNoRoom, r.available>>20, keepFree>>20, sockets, need>>20)
	}
	return pairs, nil
}

func numbersOf(file string) ([]int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, field := range strings.Fields(string(text)) {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, int64(min(n, math.MaxInt64)))
	}
	return out, nil
}

func memoryAvailable() (int64, error) { return kernelMemory("MemAvailable") }

// memoryTaken is what is not available, by whoever it was taken.
func memoryTaken() (int64, error) {
	total, err := kernelMemory("MemTotal")
	if err != nil {
		return 0, err
	}
	available, err := memoryAvailable()
	return total - available, err
}

// kernelMemory is a line of /proc/meminfo, in bytes.
func kernelMemory(name string) (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return kibOf(text, name)
}

// kibOf is the value of a line "name: n kB", in bytes.
func kibOf(text []byte, name string) (int64, error) {
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(string(line), ":")
		if key != name {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return kib << 10, err
	}
	return 0, fmt.Errorf("the kernel does not tell %s", name)
}

// socketBuffers is the memory of all TCP sockets' buffers, which the kernel keeps
// apart from its own of the sockets.
func socketBuffers() (int64, error) {
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || fields[0] != "TCP:" {
			continue
		}
		for i := 1; i+1 < len(fields); i += 2 {
			if fields[i] == "mem" {
				pages, err := strconv.ParseInt(fields[i+1], 10, 64)
				return pages * int64(os.Getpagesize()), err
			}
		}
	}
	return 0, fmt.Errorf("/proc/net/sockstat does not tell of TCP's memory")
}
