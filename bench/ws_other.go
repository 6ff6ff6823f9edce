//go:build !linux

package main

import (
	"context"
	"errors"
)

const wsPath = "/ws"

var errNeedsLinux = errors.New("needs Linux: the load and the floor are epoll loops")

func benchWS(context.Context, *lab) error { return errNeedsLinux }

func benchWSMany(context.Context, *lab) error { return errNeedsLinux }

func benchWSS(context.Context, *lab) error { return errNeedsLinux }

func benchMillion(context.Context, *lab) error { return errNeedsLinux }

func benchBroadcast(context.Context, *lab) error { return errNeedsLinux }

func benchHostile(context.Context, *lab) error { return errNeedsLinux }

func serveHostile(spec) (*server, error) { return nil, errNeedsLinux }

func serveVisitors(spec) (*server, error) { return nil, errNeedsLinux }

func serveFloor(spec) (*server, error) { return nil, errNeedsLinux }
