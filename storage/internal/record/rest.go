package record

import (
	"math"
	"net/netip"
	"time"

	storagev1 "github.com/gatehouse-ws/gatehouse/proto/gatehouse/storage/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// EncodeEntry gives the record of an entry of the log; its sequence is its key.
func EncodeEntry(e *storage.Entry) ([]byte, error) {
	return marshal(&storagev1.Entry{
		Kind:        uint32(e.Kind),
		Selector:    selectorOut(&e.Selector),
		LockId:      idOut(e.Lock),
		Reason:      e.Reason,
		Actor:       e.Actor,
		CommittedAt: millis(e.CommittedAt),
		KeepUntil:   millis(e.KeepUntil),
		RequestId:   e.RequestID,
		Grace:       e.Grace.Milliseconds(),
	})
}

// Entry reads the record of the entry with this revision.
func Entry(r storage.Revision, b []byte) (storage.Entry, error) {
	var m storagev1.Entry
	if err := unmarshal("log entry", b, &m); err != nil {
		return storage.Entry{}, err
	}
	e := storage.Entry{
		Revision:    r,
		Kind:        storage.EntryKind(m.Kind),
		Reason:      m.Reason,
		Actor:       m.Actor,
		CommittedAt: timeOf(m.CommittedAt),
		KeepUntil:   timeOf(m.KeepUntil),
		RequestID:   m.RequestId,
		Grace:       time.Duration(m.Grace) * time.Millisecond,
	}
	ok := idIn(m.LockId, &e.Lock) && selectorIn(m.Selector, &e.Selector)
	if !ok {
		return storage.Entry{}, corrupt("log entry", "malformed id or prefix")
	}
	if m.Grace < 0 || m.Grace > math.MaxInt64/int64(time.Millisecond) {
		return storage.Entry{}, corrupt("log entry", "its grace is out of range")
	}
	return e, nil
}

// EncodeLock gives the record of a standing lock; its id is its key.
func EncodeLock(l *storage.Lock) ([]byte, error) {
	return marshal(&storagev1.Lock{
		Selector:    selectorOut(&l.Selector),
		Reason:      l.Reason,
		Actor:       l.Actor,
		CommittedAt: millis(l.CommittedAt),
		Sequence:    l.Revision.Sequence,
	})
}

// Lock reads the record of the lock with this id, in the history epoch.
func Lock(epoch uint64, id storage.LockID, b []byte) (storage.Lock, error) {
	var m storagev1.Lock
	if err := unmarshal("lock", b, &m); err != nil {
		return storage.Lock{}, err
	}
	l := storage.Lock{
		ID:          id,
		Reason:      m.Reason,
		Actor:       m.Actor,
		CommittedAt: timeOf(m.CommittedAt),
		Revision:    storage.Revision{Epoch: epoch, Sequence: m.Sequence},
	}
	if !selectorIn(m.Selector, &l.Selector) {
		return storage.Lock{}, corrupt("lock", "malformed id or prefix")
	}
	return l, nil
}

// EncodeInstance gives the record of a node instance; its id is its key.
func EncodeInstance(i *storage.Instance) ([]byte, error) {
	return marshal(&storagev1.Instance{
		Node:         i.Node,
		RegisteredAt: millis(i.RegisteredAt),
		Version:      i.Version,
		Address:      i.Address,
		Registered:   i.Registered,
		SessionFence: encodeFence(i.SessionFence),
		SocketLife:   encodeFence(i.SocketLife),
		Fresh:        i.Fresh,
	})
}

// Instance reads the record of the node instance with this id.
func Instance(id storage.InstanceID, b []byte) (storage.Instance, error) {
	var m storagev1.Instance
	if err := unmarshal("node instance", b, &m); err != nil {
		return storage.Instance{}, err
	}
	return storage.Instance{
		ID:           id,
		Node:         m.Node,
		RegisteredAt: timeOf(m.RegisteredAt),
		Version:      m.Version,
		Address:      m.Address,
		Registered:   m.Registered,
		SessionFence: fenceOf(m.SessionFence),
		SocketLife:   fenceOf(m.SocketLife),
		Fresh:        m.Fresh,
	}, nil
}

// endless is the session fence of a record for storage.NoFence.
const endless = -1

func encodeFence(d time.Duration) int64 {
	if d == storage.NoFence {
		return endless
	}
	return d.Milliseconds()
}

func fenceOf(ms int64) time.Duration {
	if ms < 0 || ms > storage.NoFence.Milliseconds() {
		return storage.NoFence
	}
	return time.Duration(ms) * time.Millisecond
}

// EncodeCredential gives the record of a credential; its name is its key.
func EncodeCredential(c *storage.Credential) ([]byte, error) {
	return marshal(&storagev1.Credential{
		Role:            uint32(c.Role),
		Tenants:         c.Tenants,
		Audiences:       c.Audiences,
		MaxTtl:          c.MaxTTL.Milliseconds(),
		TokensPerSecond: c.TokensPerSecond,
		Disabled:        c.Disabled,
		CreatedAt:       millis(c.CreatedAt),
		Generation:      c.Generation,
		ApiKeyHash:      c.APIKeyHash,
		SignedBy:        c.SignedBy,
		CertificateEnds: millis(c.CertificateEnds),
	})
}

// Credential reads the record of the credential with this name.
func Credential(name string, b []byte) (storage.Credential, error) {
	var m storagev1.Credential
	if err := unmarshal("credential", b, &m); err != nil {
		return storage.Credential{}, err
	}
	return storage.Credential{
		Name:            name,
		Role:            storage.Role(m.Role),
		Tenants:         m.Tenants,
		Audiences:       m.Audiences,
		MaxTTL:          time.Duration(m.MaxTtl) * time.Millisecond,
		TokensPerSecond: m.TokensPerSecond,
		Disabled:        m.Disabled,
		CreatedAt:       timeOf(m.CreatedAt),
		Generation:      m.Generation,
		APIKeyHash:      m.ApiKeyHash,
		SignedBy:        m.SignedBy,
		CertificateEnds: timeOf(m.CertificateEnds),
	}, nil
}

// EncodeEdgeKey gives the record of an edge key; its id is its key.
func EncodeEdgeKey(k *storage.EdgeKey) ([]byte, error) {
	return marshal(&storagev1.EdgeKey{
		Key:        k.Key[:],
		CreatedAt:  millis(k.CreatedAt),
		ActiveFrom: millis(k.ActiveFrom),
		RetiredAt:  millis(k.RetiredAt),
	})
}

// EdgeKey reads the record of the edge key with this id.
func EdgeKey(id uint16, b []byte) (storage.EdgeKey, error) {
	var m storagev1.EdgeKey
	if err := unmarshal("edge key", b, &m); err != nil {
		return storage.EdgeKey{}, err
	}
	k := storage.EdgeKey{
		ID:         id,
		CreatedAt:  timeOf(m.CreatedAt),
		ActiveFrom: timeOf(m.ActiveFrom),
		RetiredAt:  timeOf(m.RetiredAt),
	}
	if len(m.Key) != len(k.Key) {
		return storage.EdgeKey{}, corrupt("edge key", "its key is not 32 bytes")
	}
	copy(k.Key[:], m.Key)
	return k, nil
}

func selectorOut(s *storage.Selector) *storagev1.Selector {
	m := &storagev1.Selector{
		TokenId:     idOut(s.Token),
		SessionId:   idOut(s.Session),
		Tenant:      s.Tenant,
		Subject:     s.Subject,
		Issuer:      s.Issuer,
		AllSubjects: s.AllSubjects,
	}
	if s.Prefix.IsValid() {
		m.IpPrefix = s.Prefix.String()
	}
	return m
}

func selectorIn(m *storagev1.Selector, s *storage.Selector) bool {
	if m == nil {
		return true
	}
	s.Tenant, s.Subject, s.Issuer, s.AllSubjects = m.Tenant, m.Subject, m.Issuer, m.AllSubjects
	ok := idIn(m.TokenId, &s.Token) && idIn(m.SessionId, &s.Session)
	if m.IpPrefix != "" {
		p, err := netip.ParsePrefix(m.IpPrefix)
		if err != nil {
			return false
		}
		s.Prefix = p
	}
	return ok
}

// idOut leaves out the zero id.
func idOut[T ~[16]byte](id T) []byte {
	if id == (T{}) {
		return nil
	}
	return append([]byte(nil), id[:]...)
}

func idIn[T ~[16]byte](b []byte, id *T) bool {
	if len(b) == 0 {
		return true
	}
	if len(b) != len(*id) {
		return false
	}
	*id = T(b)
	return true
}
