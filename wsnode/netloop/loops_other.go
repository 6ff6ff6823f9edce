//go:build !linux

package netloop

import "log/slog"

// newLoops has none to give: there is no epoll.
func newLoops(Config, Opener, *slog.Logger, *shakes) driver { return nil }
