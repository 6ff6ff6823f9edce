package authority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// call is what handlers find in their context: who calls, and what the audit
// line of the call is to say.
type call struct {
	caller *caller

	mu    sync.Mutex // guards attrs
	attrs []slog.Attr
}

// callerFrom is the caller that the interceptors found; there is always one.
func callerFrom(ctx context.Context) *caller {
	return ctx.Value(callKey{}).(*call).caller
}

// authorize decides whether the peer of a call may make it. It serves every
// transport. Of a credential that is refused it returns the caller too, for the
// audit trail.
func (s *Service) authorize(ctx context.Context, method string) (c *caller, err error) {
	defer func() {
		if err != nil {
			s.metrics.refuse(err)
		}
	}()
	if c, err = s.callers.callerOf(ctx); err != nil {
		return c, err
	}
	if isOpen(method) || slices.Contains(rules[method], c.Role) {
		return c, nil
	}
	return c, denied("%s %s may not call %s", roleName(c.Role), c.Name, method)
}

// isOpen reports whether any credential may call method.
func isOpen(method string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return slices.Contains(open, service)
}

func (s *Service) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	c := &call{attrs: make([]slog.Attr, 0, 12)}
	began := s.now()
	_, name, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), "/")
	defer func() { s.metrics.callSeconds.WithLabelValues(info.FullMethod).Observe(s.now().Sub(began).Seconds()) }()
	defer func() { err = s.answer(ctx, info.FullMethod, name, c, err) }()
	defer s.recoverPanic(ctx, info.FullMethod, &err)

	if c.caller, err = s.authorize(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if resp, err = handler(context.WithValue(ctx, callKey{}, c), req); err != nil {
		return nil, err
	}
	select {
	case <-c.caller.ended: // while the call was under way
		if s.callers.disabled(c.caller.Name) {
			return nil, disabledError(c.caller.Name)
		}
	default:
	}
	return resp, nil
}

// interceptStream ends with its call's credential or with the service, whatever
// the handler waits for: once it has returned, grpc fails all that the handler
// does to the stream. Drain waits for such handlers.
func (s *Service) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	c := &call{}
	_, name, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), "/")
	ctx := stream.Context()
	defer func() { err = s.answer(ctx, info.FullMethod, name+"Stream", c, err) }()

	if c.caller, err = s.authorize(ctx, info.FullMethod); err != nil {
		return err
	}
	open := s.metrics.streams.WithLabelValues(info.FullMethod)
	open.Inc()
	defer open.Dec()
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, callKey{}, c))
	defer cancel(nil)
	done := make(chan error, 1)
	s.streams.Go(func() {
		var err error
		defer func() { done <- err }()
		defer s.recoverPanic(ctx, info.FullMethod, &err)
		err = handler(srv, &callStream{stream, ctx})
	})
	select {
	case err = <-done:
		return err
	case <-c.caller.ended:
		err = fmt.Errorf("credential %s was disabled or reissued (%w)", c.caller.Name, errDisabled)
	case <-s.stopping:
		err = errStopping
	}
	cancel(err)
	return err
}

// callStream is a stream whose context knows the call and ends with it.
type callStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *callStream) Context() context.Context { return s.ctx }

// answer ends a call: counts it, audits it as action, and turns its error into
// a status.
func (s *Service) answer(ctx context.Context, method, action string, c *call, err error) error {
	if errors.Is(err, context.Canceled) && s.writes.all.Err() != nil {
		err = errStopping // a drain has cut off what the call wrote
	}
	outcome := "ok"
	var v verdict
	if err != nil {
		v = verdictOf(err)
		outcome = v.outcome()
		if v.code == codes.Internal {
			s.log.ErrorContext(ctx, "call failed", "method", method, "error", presentable(err.Error()))
		}
	}
	s.metrics.calls.WithLabelValues(method, outcome).Inc()
	if err != nil || !isOpen(method) {
		s.auditCall(ctx, action, outcome, c, err)
	}
	if err != nil {
		return v.status()
	}
	return nil
}

// auditCall writes the line of a call. Calls without a good credential, which
// anyone can make, are sampled, and those of each node, which come in any number.
func (s *Service) auditCall(ctx context.Context, action, outcome string, c *call, err error) {
	now := s.now()
	var skipped uint64
	var of kind
	switch {
	case errors.Is(err, errUnauthenticated) || errors.Is(err, errUnknown) || errors.Is(err, errDisabled):
		of = kind{of: "call", outcome: outcome}
	case c.caller != nil && c.caller.Role == node:
		of = kind{action, outcome, c.caller.Name}
	}
	if of.of != "" {
		var ok bool
		if skipped, ok = s.sampler.allow(of, now); !ok {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	attrs := c.attrs
	if skipped > 0 {
		attrs = append(attrs, slog.Uint64("skipped_before", skipped))
	}
	if c.caller != nil {
		attrs = append(attrs, slog.String("caller", c.caller.Name), slog.String("peer", c.caller.address))
	} else if p, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("peer", p.Addr.String()))
	}
	s.audit.record(now, action, outcome, s.inTrace(ctx, attrs)...)
}

// recoverPanic turns a broken invariant of one call into that call's failure.
func (s *Service) recoverPanic(ctx context.Context, method string, err *error) {
	if r := recover(); r != nil {
		s.log.ErrorContext(ctx, "panic", "method", method, "panic", presentable(fmt.Sprint(r)), "stack", string(debug.Stack()))
		*err = errors.New("panic, logged with its stack")
	}
}

func roleName(r storage.Role) string {
	switch r {
	case issuer:
		return "issuer"
	case node:
		return "node"
	case admin:
		return "admin"
	case viewer:
		return "viewer"
	}
	return "role " + fmt.Sprint(uint8(r))
}
