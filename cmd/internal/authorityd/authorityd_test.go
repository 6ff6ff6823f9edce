package authorityd

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
)

var quiet = slog.New(slog.DiscardHandler)

func testConfig(t *testing.T) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.State = filepath.Join(t.TempDir(), "state")
	return cfg
}

func initialised(t *testing.T) Config {
	t.Helper()
	cfg := testConfig(t)
	if made, err := Init(t.Context(), cfg, quiet); err != nil || !made {
		t.Fatalf("init: %v, %v", made, err)
	}
	return cfg
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func viewer(name string) Enrolment {
	return Enrolment{Credential: &pb.Credential{Name: name, Role: pb.Role_ROLE_VIEWER}}
}

func TestInitCompletesWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		rule string
		cut  func(t *testing.T, cfg Config)
		made bool
	}{
		{"nothing is missing", func(*testing.T, Config) {}, false},
		{"it was cut off before the CA was made", func(t *testing.T, cfg Config) {
			remove(t, cfg.caDir())
			remove(t, cfg.tlsDir())
			remove(t, cfg.CredentialDir(FirstAdmin))
		}, true},
		{"it was cut off before the credential was stored", func(t *testing.T, cfg Config) {
			remove(t, cfg.storeAt())
			if err := makeStore(cfg); err != nil {
				t.Fatal(err)
			}
			remove(t, cfg.CredentialDir(FirstAdmin))
		}, true},
		{"it was cut off before the credential was written", func(t *testing.T, cfg Config) { remove(t, cfg.CredentialDir(FirstAdmin)) }, true},
		{"the store knows no first admin, whose folder is there", func(t *testing.T, cfg Config) {
			remove(t, cfg.storeAt())
			if err := makeStore(cfg); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(c.rule, func(t *testing.T) {
			cfg := initialised(t)
			c.cut(t, cfg)
			if made, err := Init(t.Context(), cfg, quiet); err != nil || made != c.made {
				t.Fatalf("init again: made %v, %v", made, err)
			}
			if _, err := Enroll(t.Context(), cfg, viewer("v"), quiet); err != nil {
				t.Errorf("the first admin can't call: %v", err)
			}
		})
	}
	t.Run("while the authority runs", func(t *testing.T) {
		cfg := initialised(t)
		a, err := Open(t.Context(), cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if made, err := Init(t.Context(), cfg, quiet); err != nil || made {
			t.Errorf("made %v, %v", made, err)
		}
	})
}

// A revocation log that is gone is not replaced by an empty one in passing.
func TestALostStoreIsNotPassedOver(t *testing.T) {
	cfg := initialised(t)
	if _, err := SetAside(cfg); err == nil {
		t.Error("begun anew over a store that is there")
	}
	remove(t, cfg.storeAt())
	ctx, end := context.WithCancel(t.Context())
	end() // a start that were to succeed ends at once
	cfg.Listen, cfg.Admin = "127.0.0.1:0", ""
	for what, start := range map[string]func() error{
		"start":  func() error { return Run(ctx, cfg, quiet) },
		"init":   func() error { _, err := Init(t.Context(), cfg, quiet); return err },
		"enroll": func() error { _, err := Enroll(t.Context(), cfg, viewer("v"), quiet); return err },
	} {
		if err := start(); !errors.Is(err, ErrStoreMissing) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(cfg.storeAt()); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s made a store: %v", what, err)
		}
	}

	before, err := os.ReadFile(filepath.Join(cfg.caDir(), "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	aside, err := SetAside(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(filepath.Join(aside, "ca.crt")); err != nil || string(kept) != string(before) {
		t.Errorf("the old CA is not kept: %v", err)
	}
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(cfg.CredentialDir(FirstAdmin))); err != nil {
		t.Fatal(err)
	}
	if made, err := Init(t.Context(), cfg, quiet); err != nil || !made {
		t.Fatalf("init: %v, %v", made, err)
	}
	if _, err := Enroll(t.Context(), cfg, viewer("v"), quiet); err != nil {
		t.Errorf("the new first admin can't call: %v", err)
	}
	// Its name and generation are those of the old one; its CA is not.
	for _, name := range []string{"tls.crt", "tls.key"} {
		text, err := os.ReadFile(filepath.Join(old, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cfg.CredentialDir(FirstAdmin), name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Enroll(t.Context(), cfg, viewer("w"), quiet); err == nil {
		t.Error("a certificate of before still calls")
	}
}

func TestCheckUnused(t *testing.T) {
	cfg := testConfig(t)
	if err := CheckUnused(cfg); err != nil {
		t.Errorf("no store: %v", err)
	}
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.storeAt(), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckUnused(cfg); err != nil {
		t.Errorf("a damaged store: %v", err)
	}
	remove(t, cfg.storeAt())
	store, err := boltstore.Open(cfg.storeAt(), boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckUnused(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("a store in use: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CheckUnused(cfg); err != nil {
		t.Errorf("a store that was closed: %v", err)
	}
}

func TestReach(t *testing.T) {
	cfg := testConfig(t)
	cfg.ServerNames = []string{"authority.example.com"}
	for listen, want := range map[string][2]string{
		"0.0.0.0:8440": {"authority.example.com:8440", "localhost:8440"}, "[::]:8440": {"authority.example.com:8440", "localhost:8440"},
		":8440": {"authority.example.com:8440", "localhost:8440"}, "10.0.0.7:8440": {"10.0.0.7:8440", "10.0.0.7:8440"},
		"localhost:8440": {"localhost:8440", "localhost:8440"},
	} {
		cfg.Listen = listen
		if got := [2]string{cfg.Reach(), cfg.Local()}; got != want {
			t.Errorf("%s: %v, want %v", listen, got, want)
		}
	}
}
