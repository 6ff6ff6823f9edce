//go:build !linux

package main

import "runtime"

// cores says where things run; only Linux pins.
type cores struct {
	pinned       bool
	server, load int
}

func pinLoad() (cores, error) { return cores{}, nil }

func onCore(_ cores, _ int, start func() error) error { return start() }

func system() string { return runtime.GOOS }

func fileSystem(string) string { return "an unknown file system" }
