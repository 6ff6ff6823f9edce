package record

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/gatehouse-ws/gatehouse/proto/gatehouse/storage/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

func seeds(f *testing.F) {
	f.Add(encodeToken(testToken()))
	f.Add(encodeSession(testSession()))
	f.Add(encodeSessions(*testSession(), storage.Session{}, *testSession()))
	f.Add(AppendRedemptions(nil, []Redemption{{Observation: 1<<64 - 1}, {}}))
	f.Add(AppendEnded(nil, []Ended{{}, {Key: storage.SessionKey{ExpiresAt: testTime}}}))
	f.Add([]byte{})
	f.Add([]byte{version})
	f.Add([]byte{version + 1, 1, 2})
	f.Add([]byte{version, 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}) // a length of 2^63-1
	f.Add([]byte{version, 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{version, 0x0b, 0x08, 0x01, 0x0c})                   // a group
	f.Add([]byte{version, 0x0b, 0x0b, 0x0b, 0x0c})                   // groups that do not end
	f.Add([]byte{version, 0x62, 1, 'a'})                             // a name without a value
	f.Add([]byte{version, 0x2a, 3, 1, 2, 3})                         // an address of 3 bytes
	f.Add([]byte{version, 0x0d, 1, 2, 3, 4})                         // 4 fixed bytes
	f.Add([]byte{version, 0x19, 1, 2, 3, 4, 5, 6, 7})                // 7 of 8 fixed bytes
	f.Add([]byte{version, 0xfa, 0xff, 0xff, 0xff, 0x0f, 0})          // the highest field number
	f.Add([]byte{version, 0x02, 0})                                  // field number 0
	f.Add([]byte{version, 0x90, 0x01, 0x80, 0x80, 0x80, 0x80, 0x00}) // a number longer than it need be
}

// FuzzToken proves that no bytes make decoding panic; that what decodes encodes
// to something that decodes to the same; and that the generated code reads the
// same from it.
func FuzzToken(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := bytes.Clone(b)
		var x storage.Token
		err := Token(storage.TokenID{1}, b, &x)
		if !bytes.Equal(b, kept) {
			t.Fatal("decoding wrote into its input")
		}
		var m storagev1.Token
		read := len(b) > 0 && b[0] == version && proto.Unmarshal(b[1:], &m) == nil
		if err != nil {
			// Whatever a store has written can be read.
			if own, _ := (proto.MarshalOptions{Deterministic: true}).Marshal(&m); read && bytes.Equal(own, b[1:]) && fits(&m) {
				t.Fatalf("%v, but the generated code reads %v", err, &m)
			}
			return
		}
		again := encodeToken(&x)
		var y storage.Token
		if err := Token(x.ID, again, &y); err != nil {
			t.Fatalf("encoded anew: %v", err)
		}
		if !reflect.DeepEqual(canonical(&x), canonical(&y)) {
			t.Fatalf("encoded anew:\n%+v, was\n%+v", y, x)
		}
		if read && (m.Tenant != x.Tenant || m.Issuer != x.Issuer || m.MaxUses != x.MaxUses || m.IssuedEpoch != x.IssuedRevision.Epoch) {
			t.Fatalf("read %+v, the generated code %v", x, &m)
		}
	})
}

func fits(m *storagev1.Token) bool {
	ip := len(m.ClientIp)
	return (m.SecretHash == nil || len(m.SecretHash) == 32) && (ip == 0 || ip == 4 || ip == 16) && len(m.Attributes)%2 == 0 &&
		uint64(m.SessionTtl) <= uint64(math.MaxInt64/time.Millisecond)
}

func canonical(t *storage.Token) storage.Token {
	c := *t
	if len(c.UserAgent) == 0 {
		c.UserAgent = nil
	}
	return c
}

// FuzzSession proves the same of sessions.
func FuzzSession(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Session(storage.SessionID{1}, b)
		x, err := decodeSessions(b)
		if err != nil || len(x) == 0 {
			return
		}
		if slices.ContainsFunc(x, func(s storage.Session) bool { return s.AsOf != x[0].AsOf }) {
			return // no writer has an as-of revision in one row alone, as records of format 1 have it
		}
		y, err := decodeSessions(encodeSessions(x...))
		if err != nil {
			t.Fatalf("encoded anew: %v", err)
		}
		if len(x) != len(y) {
			t.Fatalf("%d sessions encoded anew are %d", len(x), len(y))
		}
		for i := range x {
			for _, s := range []*storage.Session{&x[i], &y[i]} {
				s.UserAgent, s.Origin, s.Certificate = nonEmpty(s.UserAgent), nonEmpty(s.Origin), nonEmpty(s.Certificate)
			}
			if !reflect.DeepEqual(x[i], y[i]) {
				t.Fatalf("encoded anew:\n%+v, was\n%+v", y[i], x[i])
			}
		}
	})
}

func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// FuzzRest proves of the other records that no bytes make decoding panic, and
// that what decodes encodes to something that decodes to the same.
func FuzzRest(f *testing.F) {
	seeds(f)
	e, _ := EncodeEntry(&storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "t"}, RequestID: "q"})
	f.Add(e)
	e, _ = EncodeClosed(&storage.Closed{Closed: 1, Lingering: 1, After: 1<<63 - 1})
	f.Add(e)
	e, _ = EncodeDeparted(&storage.Departed{Node: "n", Registered: 1, RemovedAt: testTime, Cause: "c", Acknowledged: storage.Progress{Through: 1<<64 - 1, Pending: []uint64{7}}})
	f.Add(e)
	f.Fuzz(func(t *testing.T, b []byte) {
		var uses, again []Redemption
		if Redemptions(b, func(r Redemption) { uses = append(uses, r) }) == nil {
			if err := Redemptions(AppendRedemptions(nil, uses), func(r Redemption) { again = append(again, r) }); err != nil || !reflect.DeepEqual(uses, again) {
				t.Fatalf("redemptions %v, then %v, %v", uses, again, err)
			}
		}
		var ended, endedAgain []Ended
		if EndedSessions(b, func(r Ended) { ended = append(ended, r) }) == nil {
			if err := EndedSessions(AppendEnded(nil, ended), func(r Ended) { endedAgain = append(endedAgain, r) }); err != nil || !reflect.DeepEqual(ended, endedAgain) {
				t.Fatalf("ended sessions %v, then %v, %v", ended, endedAgain, err)
			}
		}
		r := storage.Revision{Epoch: 1, Sequence: 2}
		if x, err := Entry(r, b); err == nil {
			again, err := EncodeEntry(&x)
			if err != nil {
				t.Fatal(err)
			}
			if y, err := Entry(r, again); err != nil || !reflect.DeepEqual(x, y) {
				t.Fatalf("entry %+v, then %+v, %v", x, y, err)
			}
		}
		if x, err := Lock(1, storage.LockID{1}, b); err == nil {
			again, err := EncodeLock(&x)
			if err != nil {
				t.Fatal(err)
			}
			if y, err := Lock(1, x.ID, again); err != nil || !reflect.DeepEqual(x, y) {
				t.Fatalf("lock %+v, then %+v, %v", x, y, err)
			}
		}
		if x, err := Progress(b); err == nil {
			again, err := EncodeProgress(&x)
			if err != nil {
				t.Fatal(err)
			}
			if y, err := Progress(again); err != nil || !x.Equal(&y) {
				t.Fatalf("progress %+v, then %+v, %v", x, y, err)
			}
		}
		if x, err := Departed(9, storage.InstanceID{1}, b); err == nil {
			again, err := EncodeDeparted(&x)
			if err != nil {
				t.Fatal(err)
			}
			if y, err := Departed(9, x.ID, again); err != nil || !reflect.DeepEqual(x, y) {
				t.Fatalf("departed %+v, then %+v, %v", x, y, err)
			}
		}
		if x, err := Closed(2, b); err == nil {
			again, err := EncodeClosed(&x)
			if err != nil {
				t.Fatal(err)
			}
			if y, err := Closed(2, again); err != nil || x != y {
				t.Fatalf("closed %+v, then %+v, %v", x, y, err)
			}
		}
		_, _ = Instance(storage.InstanceID{}, b)
		_, _ = Credential("", b)
		_, _ = EdgeKey(1, b)
	})
}
