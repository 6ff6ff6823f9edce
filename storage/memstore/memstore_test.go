package memstore_test

import (
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

func open(*testing.T) storage.Store { return memstore.New() }

func TestStore(t *testing.T)     { storagetest.Run(t, open) }
func TestModel(t *testing.T)     { storagetest.Model(t, open, nil) }
func TestHistories(t *testing.T) { storagetest.Histories(t, open, 5) }
