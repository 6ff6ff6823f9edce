package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cores says where things run.
type cores struct {
	pinned       bool
	server, load int
}

// pinLoad keeps this process on one core and returns another for the servers.
// Where there is but one core nothing is pinned.
func pinLoad() (cores, error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return cores{}, fmt.Errorf("read affinity: %w", err)
	}
	var usable []int
	for i := range 1024 {
		if all.IsSet(i) {
			usable = append(usable, i)
		}
	}
	if len(usable) < 2 {
		return cores{}, nil
	}
	c := cores{pinned: true, server: usable[0], load: usable[1]}
	runtime.GOMAXPROCS(1)
	return c, pinThreads(c.load)
}

// pinThreads pins every thread of this process. Threads inherit from the one
// that starts them, so it is done when a pass finds none new.
func pinThreads(core int) error {
	var set unix.CPUSet
	set.Set(core)
	done := map[int]bool{}
	for {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		found := false
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil || done[id] {
				continue
			}
			if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("pin to core %d: %w", core, err)
			}
			done[id], found = true, true
		}
		if !found {
			return nil
		}
	}
}

// onCore runs start in a thread that is pinned to core, so that the process it
// starts is pinned from its first instruction and sees one CPU.
func onCore(c cores, core int, start func() error) error {
	if !c.pinned {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var was, set unix.CPUSet
	set.Set(core)
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return fmt.Errorf("read affinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	return errors.Join(start(), unix.SchedSetaffinity(0, &was))
}

func system() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "Linux"
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // without its builder's suffix
	return "Linux " + release
}

func fileSystem(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "an unknown file system"
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs, which is no disk: durable figures mean nothing"
	}
	return fmt.Sprintf("file system %#x", s.Type)
}
