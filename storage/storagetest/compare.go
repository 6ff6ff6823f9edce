package storagetest

import (
	"bytes"
	"slices"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// normal is t with nil for what is empty, to compare.
func normal(t *storage.Token) storage.Token {
	n := *t
	if len(n.UserAgent) == 0 {
		n.UserAgent = nil
	}
	if len(n.Attributes) == 0 {
		n.Attributes = nil
	}
	if len(n.Scopes) == 0 {
		n.Scopes = nil
	}
	n.IssuedAt, n.NotBefore = n.IssuedAt.UTC(), n.NotBefore.UTC()
	return n
}

func normalSession(s *storage.Session) storage.Session {
	n := *s
	if len(n.UserAgent) == 0 {
		n.UserAgent = nil
	}
	if len(n.Origin) == 0 {
		n.Origin = nil
	}
	if len(n.Certificate) == 0 {
		n.Certificate = nil
	}
	n.StartedAt, n.ExpiresAt = n.StartedAt.UTC(), n.ExpiresAt.UTC()
	return n
}

func sortIDs(ids []storage.TokenID) {
	slices.SortFunc(ids, func(a, b storage.TokenID) int { return bytes.Compare(a[:], b[:]) })
}
