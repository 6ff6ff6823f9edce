package authority

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// keyring is the edge keys in use, replaced whole when they change.
type keyring struct {
	ring   *token.Ring
	stored []storage.EdgeKey // oldest first
	wire   *pb.EdgeKeys
}

func newKeyring(stored []storage.EdgeKey) *keyring {
	k := &keyring{stored: stored, wire: &pb.EdgeKeys{}}
	keys := make([]token.EdgeKey, 0, len(stored))
	for _, e := range stored {
		keys = append(keys, token.EdgeKey{ID: e.ID, Key: e.Key})
		k.wire.Keys = append(k.wire.Keys, &pb.EdgeKey{KeyId: uint32(e.ID), Key: slices.Clone(e.Key[:])})
	}
	k.ring = token.NewRing(keys)
	return k
}

// active is the id of the key that makes tokens at now: the newest whose lead
// is over.
func (k *keyring) active(now time.Time) uint16 {
	for _, e := range slices.Backward(k.stored) {
		if !now.Before(e.ActiveFrom) {
			return e.ID
		}
	}
	return k.stored[0].ID
}

// loadKeys reads the edge keys, and makes the first, active at once.
func (s *Service) loadKeys(ctx context.Context) error {
	stored, err := s.store.EdgeKeys(ctx)
	if err != nil {
		return fmt.Errorf("read edge keys: %w", err)
	}
	if len(stored) > 0 {
		s.keys.Store(newKeyring(stored))
		return nil
	}
	e, err := s.drawKey(nil, s.now(), 0)
	if err != nil {
		return err
	}
	return s.addKey(ctx, nil, e)
}

// rotateKeys adds a key when the newest has served its lifetime, and drops
// those whose tokens are all expired.
func (s *Service) rotateKeys(ctx context.Context, now time.Time) error {
	s.rotating.Lock()
	defer s.rotating.Unlock()
	stored := s.keys.Load().stored
	var kept []storage.EdgeKey
	for i, e := range stored {
		// The ceiling may have been raised since RetiredAt was set.
		if i < len(stored)-1 && !now.Before(e.RetiredAt) && !now.Before(s.retireAt(stored[i+1].ActiveFrom)) {
			continue
		}
		kept = append(kept, e)
	}
	if newest := stored[len(stored)-1]; !now.Before(newest.ActiveFrom.Add(s.cfg.EdgeKeys.Lifetime)) {
		e, err := s.drawKey(kept, now, s.cfg.EdgeKeys.Lead)
		if err != nil {
			return err
		}
		return s.addKey(ctx, kept, e)
	}
	if len(kept) == len(stored) {
		return nil
	}
	return s.putKeys(ctx, kept)
}

// RotateEdgeKeys implements CredentialService.
func (s *Service) RotateEdgeKeys(ctx context.Context, req *pb.RotateEdgeKeysRequest) (*pb.RotateEdgeKeysResponse, error) {
	if err := why(req.GetReason(), true); err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", req.GetReason()), slog.Bool("drop_others", req.GetDropOthers()))
	s.rotating.Lock()
	defer s.rotating.Unlock()
	now, resp := s.now(), &pb.RotateEdgeKeysResponse{}
	kept, lead := slices.Clone(s.keys.Load().stored), s.cfg.EdgeKeys.Lead
	if req.GetDropOthers() {
		lead = 0
	}
	e, err := s.drawKey(kept, now, lead)
	if err != nil {
		return nil, err
	}
	if req.GetDropOthers() {
		resp.Dropped, kept = uint32(len(kept)), nil
	}
	if err := s.addKey(s.writes.context(), kept, e); err != nil {
		return nil, err
	}
	note(ctx, slog.Int("key_id", int(e.ID)), slog.Int("dropped", int(resp.GetDropped())))
	resp.Key = s.keys.Load().describe(&e, now)
	return resp, nil
}

// ListEdgeKeys implements CredentialService.
func (s *Service) ListEdgeKeys(context.Context, *pb.ListEdgeKeysRequest) (*pb.ListEdgeKeysResponse, error) {
	keys, now, resp := s.keys.Load(), s.now(), &pb.ListEdgeKeysResponse{}
	for i := range keys.stored {
		resp.Keys = append(resp.Keys, keys.describe(&keys.stored[i], now))
	}
	return resp, nil
}

func (k *keyring) describe(e *storage.EdgeKey, now time.Time) *pb.EdgeKeyInfo {
	out := &pb.EdgeKeyInfo{
		KeyId: uint32(e.ID), CreatedAt: timestamppb.New(e.CreatedAt), ActiveFrom: timestamppb.New(e.ActiveFrom), Active: k.active(now) == e.ID,
	}
	if !e.RetiredAt.IsZero() {
		out.RetiredAt = timestamppb.New(e.RetiredAt)
	}
	return out
}

// drawKey draws a key beside those there are, to make tokens after lead.
func (s *Service) drawKey(others []storage.EdgeKey, now time.Time, lead time.Duration) (storage.EdgeKey, error) {
	id, err := freeKeyID(others)
	if err != nil {
		return storage.EdgeKey{}, err
	}
	e := storage.EdgeKey{ID: id, CreatedAt: now, ActiveFrom: now.Add(lead)}
	if _, err := io.ReadFull(s.random, e.Key[:]); err != nil {
		return storage.EdgeKey{}, fmt.Errorf("draw edge key: %w", err)
	}
	return e, nil
}

// addKey stores kept and a new key. The one before it retires when the last
// token it may make has expired.
func (s *Service) addKey(ctx context.Context, kept []storage.EdgeKey, e storage.EdgeKey) error {
	if n := len(kept); n > 0 {
		kept[n-1].RetiredAt = s.retireAt(e.ActiveFrom)
	}
	if err := s.putKeys(ctx, append(kept, e)); err != nil {
		return err
	}
	s.audit.record(e.CreatedAt, "RotateEdgeKey", "ok", slog.Int("key_id", int(e.ID)), slog.Time("active_from", e.ActiveFrom), slog.String("caller", self))
	return nil
}

// retireAt is when the last token has expired that an edge key may make until
// the next one is active.
func (s *Service) retireAt(nextActive time.Time) time.Time {
	return nextActive.Add(s.cfg.tokenLife() + sweepKeep)
}

func (s *Service) putKeys(ctx context.Context, stored []storage.EdgeKey) error {
	if err := s.store.PutEdgeKeys(ctx, stored); err != nil {
		return fmt.Errorf("store edge keys: %w", err)
	}
	k := newKeyring(stored)
	s.keys.Store(k)
	s.fleet.broadcastKeys(k.wire)
	return nil
}

// freeKeyID is the id after the newest that is not in use, from 1.
func freeKeyID(stored []storage.EdgeKey) (uint16, error) {
	id := uint16(0)
	if n := len(stored); n > 0 {
		id = stored[n-1].ID
	}
	for range 1 << 16 {
		id++
		if id != 0 && !slices.ContainsFunc(stored, func(e storage.EdgeKey) bool { return e.ID == id }) {
			return id, nil
		}
	}
	return 0, errors.New("all edge key ids are in use")
}
