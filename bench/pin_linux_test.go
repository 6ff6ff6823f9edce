package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Pinning a server must not pin the load with it.
func TestServersRunOnTheirCore(t *testing.T) {
	var all, still unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	core := 0
	for !all.IsSet(core) {
		core++
	}
	l := &lab{dir: t.TempDir(), cores: cores{pinned: true, server: core}}
	c, err := l.server(spec{Kind: "gobwas"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	}()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("Cpus_allowed_list:\t%d\n", core); !strings.Contains(string(status), want) {
		t.Errorf("the server's status lacks %q", want)
	}
	if err := unix.SchedGetaffinity(0, &still); err != nil || still != all {
		t.Errorf("the load's affinity changed: %v", err)
	}
}

// The floor is compared with, so it must do what the others do.
func TestFloorEchoesWhatComesInParts(t *testing.T) {
	l := &lab{dir: t.TempDir()}
	c, err := l.server(spec{Kind: "floor"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := shakeHands(dialPlain(c.addr), "none")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	frame, answer := wsText([4]byte{1, 2, 3, 4})
	for _, b := range append(append([]byte{}, frame...), frame...) { // byte by byte: cut at every place
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 2*len(answer))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if want := string(answer) + string(answer); string(got) != want {
		t.Errorf("%q came back, want %q", got, want)
	}
	if err := wsOpenClose(dialPlain(c.addr), "none"); err != nil {
		t.Errorf("open and close: %v", err)
	}
}
