package main

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// versus is an authority and its bare peer, and a connection to each. What the
// peer answers has the size of the authority's answers.
type versus struct {
	authority, bare         *child
	toAuthority, toBare     *grpc.ClientConn
	login                   *grpc.ClientConn // of an issuer, to the authority; used, it connects
	request                 *blob            // of the size of the authority's requests
	requestSize, answerSize int
}

// authorityAlone starts an authority without peer.
func (l *lab) authorityAlone(caller string, procs int) (_ *versus, err error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	v := &versus{}
	if v.authority, err = l.server(spec{Kind: "authority", Keys: keys, Procs: procs}); err != nil {
		return nil, err
	}
	if v.toAuthority, err = l.dial(v.authority.addr, caller); err != nil {
		return nil, errors.Join(err, v.close())
	}
	if v.login, err = l.dial(v.authority.addr, "login"); err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

// addBare starts the peer for requests and answers of these sizes.
func (l *lab) addBare(v *versus, caller string, request, reply proto.Message) (err error) {
	keys, err := l.keys()
	if err != nil {
		return err
	}
	v.requestSize, v.answerSize = proto.Size(request), proto.Size(reply)
	v.request = blobOf(v.requestSize)
	if v.bare, err = l.server(spec{Kind: "bare", Keys: keys, Reply: v.answerSize}); err != nil {
		return err
	}
	v.toBare, err = l.dial(v.bare.addr, caller)
	return err
}

func (v *versus) close() error {
	var errs []error
	for _, c := range []*grpc.ClientConn{v.toAuthority, v.toBare, v.login} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	for _, c := range []*child{v.authority, v.bare} {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	return errors.Join(errs...)
}

// dropBare ends the peer, to make room for one of other sizes.
func (v *versus) dropBare() error {
	err := errors.Join(v.toBare.Close(), v.bare.stop())
	v.toBare, v.bare = nil, nil
	return err
}

// callBare is one bare unary call.
func (v *versus) callBare(ctx context.Context) error {
	return v.toBare.Invoke(ctx, bareUnary, v.request, new(blob))
}
