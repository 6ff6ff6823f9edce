package authorityd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/backupfile"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
)

// ErrForeign says that a backup is of another system.
var ErrForeign = storage.ErrForeign

// Backup saves a backup with the first admin's credential, through the running
// authority, or else by starting one on the state folder for as long as it
// takes. The error of a call has its gRPC status.
func Backup(ctx context.Context, cfg Config, out string, log *slog.Logger, progress func(done, total uint64)) (saved *backupfile.Saved, err error) {
	err = through(ctx, cfg, log, func(address string) error {
		conn, err := dial(cfg, address, log)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // nothing is under way
		saved, err = backupfile.Save(ctx, pb.NewMaintenanceServiceClient(conn), out, progress)
		return err
	})
	return saved, err
}

// Restore puts a backup in the place of the store, while no authority runs.
func Restore(cfg Config, from string, foreign bool, progress func(done, total int64)) (out boltstore.Restored, err error) {
	if err := checkState(cfg); err != nil {
		return out, err
	}
	system, err := knownSystem(cfg)
	if err != nil {
		return out, err
	}
	f, err := os.Open(from)
	if err != nil {
		return out, fmt.Errorf("--from: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out, err = boltstore.Restore(cfg.storeAt(), f, boltstore.RestoreOptions{System: system, Foreign: foreign, Progress: progress})
	if err != nil {
		return out, fmt.Errorf("%s: %w", from, err)
	}
	return out, nil
}

// Compact makes the store's file as small as what it holds, while no authority
// runs.
func Compact(cfg Config, progress func(done, total int64)) (storage.Compacted, error) {
	if err := checkPrivate(cfg.State); err != nil {
		return storage.Compacted{}, err
	}
	if _, err := os.Lstat(cfg.storeAt()); errors.Is(err, fs.ErrNotExist) {
		if err := checkState(cfg); err != nil { // it was never there
			return storage.Compacted{}, err
		}
		return storage.Compacted{}, fmt.Errorf("%s: %w", cfg.storeAt(), ErrStoreMissing)
	}
	return boltstore.Compact(cfg.storeAt(), progress)
}

// checkState refuses a folder that is no authority's: without the CA that its
// credentials were signed by, a store lets nobody in.
func checkState(cfg Config) error {
	if _, err := os.Stat(cfg.caDir()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state folder %s: %w", cfg.State, ErrNotInitialised)
	}
	return checkPrivate(cfg.State)
}

// noteSystem keeps the installation's id beside the store.
func noteSystem(cfg Config, id storage.SystemID) error {
	if id == (storage.SystemID{}) { // on a full disk, not yet
		return nil
	}
	text := id.String() + "\n"
	if has, err := os.ReadFile(cfg.systemAt()); err == nil && string(has) == text {
		return nil
	}
	if err := os.WriteFile(cfg.systemAt(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("system id: %w", err)
	}
	return nil
}

// knownSystem is the id that noteSystem kept, or zero where none was.
func knownSystem(cfg Config) (id storage.SystemID, err error) {
	text, err := os.ReadFile(cfg.systemAt())
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("system id: %w", err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%s does not hold the 32 hex digits of a system id: remove it: a store that opens knows its own, and where that is lost any backup is taken", cfg.systemAt())
	}
	return storage.SystemID(b), nil
}
