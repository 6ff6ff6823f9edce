package storagetest_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

func open(*testing.T) storage.Store { return &storagetest.Faulty{Store: memstore.New()} }

func TestFaultyWithoutFaults(t *testing.T) { storagetest.Run(t, open) }

var errTest = errors.New("told to")

func credential(name string) storage.Credential { return storage.Credential{Name: name} }

func TestFail(t *testing.T) {
	f := &storagetest.Faulty{Store: memstore.New()}
	f.Fail("CreateCredential", errTest, nil, errTest)
	for i, want := range []error{errTest, nil, errTest, nil} {
		if err := f.CreateCredential(t.Context(), credential(string(rune('a'+i)))); err != want {
			t.Errorf("call %d: %v, want %v", i, err, want)
		}
	}
	cs, err := f.Credentials(t.Context())
	if err != nil || len(cs) != 2 || cs[0].Name != "b" || cs[1].Name != "d" {
		t.Errorf("credentials %v, %v", cs, err)
	}
}

func TestLose(t *testing.T) {
	f := &storagetest.Faulty{Store: memstore.New()}
	f.Lose("CreateCredential", errTest)
	if err := f.CreateCredential(t.Context(), credential("a")); err != errTest {
		t.Errorf("error %v, want %v", err, errTest)
	}
	if err := f.CreateCredential(t.Context(), credential("a")); err != storage.ErrExists {
		t.Errorf("error %v, want %v: the first call was to be done", err, storage.ErrExists)
	}
}

func TestHold(t *testing.T) {
	f := &storagetest.Faulty{Store: memstore.New()}
	release := f.Hold("CreateCredential")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := f.CreateCredential(ctx, credential("a")); err != context.DeadlineExceeded {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
	done := make(chan error)
	go func() { done <- f.CreateCredential(t.Context(), credential("a")) }()
	if cs, err := f.Credentials(t.Context()); err != nil || len(cs) != 0 {
		t.Errorf("credentials %v, %v: the call was to be held", cs, err)
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStop(t *testing.T) {
	f := &storagetest.Faulty{Store: memstore.New()}
	failed := f.Failed()
	if err := f.Err(); err != nil {
		t.Fatal(err)
	}
	f.Stop(errTest)
	f.Stop(errors.New("again"))
	select {
	case <-failed:
	default:
		t.Error("Failed is open")
	}
	if err := f.Err(); !errors.Is(err, storage.ErrStopped) || !errors.Is(err, errTest) {
		t.Errorf("Err is %v", err)
	}
	if err := f.CreateCredential(t.Context(), credential("a")); !errors.Is(err, storage.ErrStopped) {
		t.Errorf("error %v, want %v", err, storage.ErrStopped)
	}
	if _, err := f.Credentials(t.Context()); err != nil {
		t.Errorf("a read: %v", err)
	}
}

// Every method that returns an error can be told to fail.
func TestEveryMethodCanFail(t *testing.T) {
	f := &storagetest.Faulty{Store: memstore.New()}
	v := reflect.ValueOf(storage.Store(f))
	contract := reflect.TypeFor[storage.Store]()
	for i := range contract.NumMethod() {
		m := contract.Method(i)
		outs := m.Type.NumOut()
		if m.Type.NumIn() == 0 || m.Type.Out(outs-1) != reflect.TypeFor[error]() {
			continue
		}
		f.Fail(m.Name, errTest)
		in := []reflect.Value{reflect.ValueOf(context.Background())}
		for j := 1; j < m.Type.NumIn(); j++ {
			in = append(in, reflect.Zero(m.Type.In(j)))
		}
		out := v.MethodByName(m.Name).Call(in)
		if err, _ := out[outs-1].Interface().(error); err != errTest {
			t.Errorf("%s: error %v, want %v", m.Name, err, errTest)
		}
	}
}
