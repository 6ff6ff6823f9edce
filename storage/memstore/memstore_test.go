package memstore_test

import (
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

func open(*testing.T) storage.Store { return memstore.New() }

func TestStore(t *testing.T) { storagetest.Run(t, open) }

// A restored store, in which nothing of before counts, keeps every promise too.
func TestRestored(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store {
		b := memstore.New().Backup()
		return memstore.Restore(b, b, 0)
	})
}

func TestModel(t *testing.T)     { storagetest.Model(t, open, nil) }
func TestHistories(t *testing.T) { storagetest.Histories(t, open, 5) }
