package record

import (
	"math"
	"time"

	storagev1 "github.com/gatehouse-ws/gatehouse/proto/gatehouse/storage/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// EncodeProgress gives the record of how far an instance has enforced the log;
// the instance's id is its key.
func EncodeProgress(p *storage.Progress) ([]byte, error) {
	return marshal(&storagev1.Acknowledgement{Through: p.Through, Pending: p.Pending})
}

// Progress reads it.
func Progress(b []byte) (storage.Progress, error) {
	var m storagev1.Acknowledgement
	if err := unmarshal("acknowledgement", b, &m); err != nil {
		return storage.Progress{}, err
	}
	return progress("acknowledgement", m.Through, m.Pending)
}

func progress(what string, through uint64, pending []uint64) (storage.Progress, error) {
	p := storage.Progress{Through: through, Pending: pending}
	if err := p.Check(); err != nil {
		return storage.Progress{}, corrupt(what, err.Error())
	}
	return p, nil
}

// EncodeDeparted gives the record of a departed instance; its head and its id
// are its key.
func EncodeDeparted(d *storage.Departed) ([]byte, error) {
	return marshal(&storagev1.Departed{
		Node:         d.Node,
		Registered:   d.Registered,
		RemovedAt:    millis(d.RemovedAt),
		Cause:        d.Cause,
		Acknowledged: d.Acknowledged.Through,
		Pending:      d.Acknowledged.Pending,
	})
}

// Departed reads the record of the departed instance with this head and id.
func Departed(head uint64, id storage.InstanceID, b []byte) (storage.Departed, error) {
	var m storagev1.Departed
	if err := unmarshal("departed instance", b, &m); err != nil {
		return storage.Departed{}, err
	}
	acknowledged, err := progress("departed instance", m.Acknowledged, m.Pending)
	if err != nil {
		return storage.Departed{}, err
	}
	return storage.Departed{
		ID:           id,
		Node:         m.Node,
		Registered:   m.Registered,
		Head:         head,
		RemovedAt:    timeOf(m.RemovedAt),
		Cause:        m.Cause,
		Acknowledged: acknowledged,
	}, nil
}

// EncodeClosed gives the record of what an entry closed on an instance; the
// entry's sequence and the instance's id are its key.
func EncodeClosed(c *storage.Closed) ([]byte, error) {
	return marshal(&storagev1.Closed{
		Closed:      c.Closed,
		Lingering:   c.Lingering,
		AfterMicros: c.After.Microseconds(),
	})
}

// Closed reads the record of what the entry with this sequence closed.
func Closed(sequence uint64, b []byte) (storage.Closed, error) {
	var m storagev1.Closed
	if err := unmarshal("count", b, &m); err != nil {
		return storage.Closed{}, err
	}
	if m.AfterMicros < 0 || m.AfterMicros > math.MaxInt64/int64(time.Microsecond) {
		return storage.Closed{}, corrupt("count", "its duration is out of range")
	}
	return storage.Closed{
		Sequence:  sequence,
		Closed:    m.Closed,
		Lingering: m.Lingering,
		After:     time.Duration(m.AfterMicros) * time.Microsecond,
	}, nil
}
