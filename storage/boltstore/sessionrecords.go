package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Sessions of one batch that end in the same millisecond lie in one record. It
// is found by that end: the ledger knows it of every live session, and few
// records share one.

const (
	sessionsKeySize = 8 + 8  // end, number
	sessionKeySize  = 8 + 16 // end, id: of format 1
)

// endKey begins the keys of the sessions that end at a time. Ends before 1970
// count as 1970.
func endKey(end time.Time) [8]byte {
	return [8]byte(number(uint64(max(end.UnixMilli(), 0))))
}

// endOf is the end of the sessions under a key.
func endOf(k []byte) (time.Time, error) {
	if len(k) != sessionsKeySize && len(k) != sessionKeySize {
		return time.Time{}, fmt.Errorf("%w: key of sessions: %x", storage.ErrCorrupt, k)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(k))).UTC(), nil
}

// eachSession calls each for the sessions of a record until it returns false;
// see record.Sessions.
func eachSession(k, v []byte, each func(*storage.Session) bool) error {
	if len(k) != sessionKeySize {
		if _, err := endOf(k); err != nil {
			return err
		}
		return record.Sessions(v, each)
	}
	x, err := record.Session(storage.SessionID(k[8:]), v)
	if err == nil {
		each(x)
	}
	return err
}

// sessionsOf reads the sessions of a record.
func sessionsOf(k, v []byte) (out []storage.Session, err error) {
	err = eachSession(k, v, func(x *storage.Session) bool {
		out = append(out, *x)
		return true
	})
	return out, err
}

// ending reads the sessions that end together, of which the record at the cursor
// is the first, in the order of their ids, and returns what comes behind. Of two
// with one id the earlier has ended.
func ending(c *bbolt.Cursor, k, v []byte) (out []storage.Session, nextK, nextV []byte, err error) {
	var old []storage.Session // of format 1, and so before
	for end := k[:8]; bytes.HasPrefix(k, end); k, v = c.Next() {
		some, err := sessionsOf(k, v)
		if err != nil {
			return nil, nil, nil, err
		}
		if len(k) == sessionKeySize {
			old = append(old, some...)
		} else {
			out = append(out, some...)
		}
	}
	out = append(old, out...)
	slices.Reverse(out)
	byID := func(a, b storage.Session) int { return bytes.Compare(a.ID[:], b.ID[:]) }
	slices.SortStableFunc(out, byID)
	return slices.CompactFunc(out, func(a, b storage.Session) bool { return a.ID == b.ID }), k, v, nil
}

// findSessions sets out[i] to the live session of keys[i], but for zero keys. Each
// record is read once for all that are looked for in it: sessions that were
// granted together often end together.
func findSessions(b *bbolt.Bucket, keys []storage.SessionKey, out []*storage.Session) error {
	byEnd := map[[8]byte]map[storage.SessionID][]int{}
	for i, key := range keys {
		if key == (storage.SessionKey{}) {
			continue
		}
		end := endKey(key.ExpiresAt)
		if byEnd[end] == nil {
			byEnd[end] = map[storage.SessionID][]int{}
		}
		byEnd[end][key.ID] = append(byEnd[end][key.ID], i)
	}
	for end, wanted := range byEnd {
		if err := findEnding(b, end, wanted, out); err != nil {
			return err
		}
	}
	for i, key := range keys {
		if out[i] == nil && key != (storage.SessionKey{}) {
			return fmt.Errorf("%w: no record of live session %x", storage.ErrCorrupt, key.ID)
		}
	}
	return nil
}

// findEnding looks through the records of one end for sessions, by their places in
// out. Others may have ended that had their ids and that end: they lie before.
func findEnding(b *bbolt.Bucket, end [8]byte, wanted map[storage.SessionID][]int, out []*storage.Session) error {
	c := b.Cursor()
	for k, v := c.Seek(end[:]); bytes.HasPrefix(k, end[:]); k, v = c.Next() {
		if len(k) == sessionKeySize {
			if at := wanted[storage.SessionID(k[8:])]; len(at) == 0 || out[at[0]] != nil {
				continue // of format 1, and so before
			}
		} else if !holdsAny(v, wanted) {
			continue
		}
		left := len(wanted) // a record has each once
		err := eachSession(k, v, func(x *storage.Session) bool {
			if at := wanted[x.ID]; len(at) > 0 {
				y := *x
				for _, i := range at {
					out[i] = &y
				}
				left--
			}
			return left > 0
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// holdsAny reports whether a record may have one of the sessions: to look for an id
// costs a fiftieth of what it does to read all of it.
func holdsAny(v []byte, wanted map[storage.SessionID][]int) bool {
	if len(wanted) > recordSessions {
		return true
	}
	for id := range wanted {
		if bytes.Contains(v, id[:]) {
			return true
		}
	}
	return false
}

// sessionsPut is a record of sessions.
type sessionsPut struct {
	end   [8]byte
	value []byte
}

// Bounds of a record. To find one session all of its record is read.
const (
	recordSessions = 32
	recordBytes    = 3 << 10
)

// encodeSessions encodes sessions, in the caller's goroutine, but for what only
// the commit knows; there is room for that behind each record.
func encodeSessions(sessions []storage.Session) (puts []sessionsPut) {
	if !slices.IsSortedFunc(sessions, byEnd) {
		sessions = slices.Clone(sessions)
		slices.SortStableFunc(sessions, byEnd)
	}
	const typical = 96
	buf := make([]byte, 0, 256+len(sessions)*typical)
	for len(sessions) > 0 {
		n, bytes := 1, roughly(&sessions[0])
		for n < min(len(sessions), recordSessions) && bytes < recordBytes && sessions[n].ExpiresAt.Equal(sessions[0].ExpiresAt) {
			bytes += roughly(&sessions[n])
			n++
		}
		from := len(buf)
		buf = append(record.AppendSessions(buf, sessions[:n]), make([]byte, record.SessionsTail)...)
		puts = append(puts, sessionsPut{endKey(sessions[0].ExpiresAt), buf[from : len(buf)-record.SessionsTail : len(buf)]})
		sessions = sessions[n:]
	}
	return puts
}

func byEnd(a, b storage.Session) int { return a.ExpiresAt.Compare(b.ExpiresAt) }

// roughly is how long a session is beside others like it: most User-Agents
// repeat.
func roughly(x *storage.Session) int {
	return 64 + len(x.Subject) + len(x.Tenant) + len(x.UserAgent)/4 + len(x.Origin)/4 + len(x.Certificate)
}

func (g *group) writeSessions() error {
	b := g.tx.Bucket(sessionsBucket)
	b.FillPercent = fillPercent
	slices.SortStableFunc(g.grants, func(x, y sessionsPut) int { return bytes.Compare(x.end[:], y.end[:]) })
	last := b.Sequence()
	for i := range g.grants {
		last++
		if err := b.Put(append(g.grants[i].end[:], number(last)...), g.grants[i].value); err != nil {
			return err
		}
	}
	if len(g.grants) > 0 {
		if err := b.SetSequence(last); err != nil {
			return err
		}
	}
	return g.writeEnded()
}
