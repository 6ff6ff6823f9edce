package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
)

// blob is a message of the bare service: bytes that mean nothing.
type blob = wrapperspb.BytesValue

// blobOf is a blob that takes size bytes on the wire.
func blobOf(size int) *blob {
	b := &blob{Value: make([]byte, size)}
	for proto.Size(b) > size && len(b.Value) > 0 {
		b.Value = b.Value[:len(b.Value)-1]
	}
	return b
}

// bare is a gRPC service that does nothing: it is what grpc-go, protobuf and
// mTLS cost by themselves.
type bare struct {
	reply *blob

	mu        sync.Mutex
	followers map[chan chan<- struct{}]bool
}

const (
	bareUnary  = "/gatehouse.bench.Bare/Unary"
	bareStream = "/gatehouse.bench.Bare/Stream"
	bareFollow = "/gatehouse.bench.Bare/Follow"
	barePush   = "/gatehouse.bench.Bare/Push"
)

var bareDesc = grpc.ServiceDesc{
	ServiceName: "gatehouse.bench.Bare",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Unary", Handler: unaryHandler(func(b *bare, _ context.Context) (*blob, error) { return b.reply, nil })},
		{MethodName: "Push", Handler: unaryHandler((*bare).push)},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Stream", Handler: streamHandler((*bare).stream), ServerStreams: true, ClientStreams: true},
		{StreamName: "Follow", Handler: streamHandler((*bare).follow), ServerStreams: true, ClientStreams: true},
	},
}

func unaryHandler(fn func(*bare, context.Context) (*blob, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := decode(new(blob)); err != nil {
			return nil, err
		}
		return fn(srv.(*bare), ctx)
	}
}

func streamHandler(fn func(*bare, grpc.ServerStream) error) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error { return fn(srv.(*bare), s) }
}

// stream answers each message.
func (b *bare) stream(s grpc.ServerStream) error {
	for {
		if err := s.RecvMsg(new(blob)); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(b.reply); err != nil {
			return err
		}
	}
}

// follow sends the peer each push, and hands on its acknowledgement.
func (b *bare) follow(s grpc.ServerStream) error {
	pushes := make(chan chan<- struct{}, 1)
	b.mu.Lock()
	b.followers[pushes] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.followers, pushes)
	}()
	if err := s.SendMsg(b.reply); err != nil { // it is counted from here on
		return err
	}
	for {
		select {
		case <-s.Context().Done():
			return nil
		case acks := <-pushes:
			if err := s.SendMsg(b.reply); err != nil {
				return err
			}
			if err := s.RecvMsg(new(blob)); err != nil {
				return err
			}
			acks <- struct{}{}
		}
	}
}

// push sends to every follower and returns when all have acknowledged.
func (b *bare) push(ctx context.Context) (*blob, error) {
	b.mu.Lock()
	n := len(b.followers)
	acks := make(chan struct{}, n)
	for pushes := range b.followers {
		pushes <- acks
	}
	b.mu.Unlock()
	for range n {
		select {
		case <-acks:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return b.reply, nil
}

func serveBare(sp spec) (*server, error) {
	ca, err := pki.Load(filepath.Join(sp.Keys, "ca"), time.Now, rand.Reader)
	if err != nil {
		return nil, err
	}
	config, err := serverTLS(sp.Keys, ca)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	srv.RegisterService(&bareDesc, &bare{reply: blobOf(sp.Reply), followers: map[chan chan<- struct{}]bool{}})
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }() // ends by Stop
	return &server{addr: l.Addr().String(), close: func() error {
		srv.Stop()
		return <-ended
	}}, nil
}

// openBare opens a stream of the bare service.
func openBare(ctx context.Context, conn *grpc.ClientConn, method string) (grpc.ClientStream, error) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return nil, fmt.Errorf("bare stream: %w", err)
	}
	return s, nil
}
