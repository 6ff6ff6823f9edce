package main

import (
	"io"
	"regexp"

	"github.com/gatehouse-ws/gatehouse/token"
)

var (
	// secretText finds token text and API keys, whole or cut: 20 characters show
	// none of a token's secret yet.
	secretText = regexp.MustCompile(`(?i)(gh1_|ghk1_)[A-Za-z0-9_-]{20}`)
	apiKeyText = regexp.MustCompile(`(?i)ghk1_[A-Za-z0-9_-]{4,}`)
)

// holdsSecret reports whether s holds the text of a token or an API key.
func holdsSecret(s string) bool { return secretText.MatchString(s) }

// scrub replaces token text and API keys in s.
func scrub(s []byte) []byte {
	return apiKeyText.ReplaceAllLiteral(token.Scrub(s), []byte("ghk1_[scrubbed]"))
}

// scrubbingWriter scrubs what passes through it, write by write.
type scrubbingWriter struct{ w io.Writer }

func (s scrubbingWriter) Write(b []byte) (int, error) {
	if _, err := s.w.Write(scrub(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}
