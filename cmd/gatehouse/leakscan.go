package main

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"github.com/gatehouse-ws/gatehouse/token"
)

// idTextSize is the length of a token id's text.
var idTextSize = len(token.ID{}.String())

// leakScanner finds tokens and token ids in text of any kind, as secret
// scanners do: at every place where token.Parse accepts what stands there, and
// at every word that token.ParseID accepts. It passes on ids and line numbers
// only, so that whoever reports its findings can't repeat a token.
type leakScanner struct {
	found  func(id token.ID, line int) error
	broken func(line int) // a line that holds no token, or one that is cut or edited

	// Of the line that is being read.
	line     int // from 1
	begun    bool
	hits     int
	isBlank  bool // so far
	isCut    bool // it has a token's prefix without a token
	tokenEnd int  // in the text that scanText gets, of the last token found
	last     []token.ID
}

const (
	// scanBuffer is how much text is looked at at once. Lines may be longer.
	scanBuffer = 64 << 10
	// lastIDs is how many ids of a line are kept to tell repetitions: a token
	// beside its id is one.
	lastIDs = 16
)

// scan reads r to its end, or to the first error of found.
func (s *leakScanner) scan(r io.Reader, bufferSize int) error {
	buf := make([]byte, 0, max(bufferSize, 2*token.TextSize))
	s.startLine()
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest, scanErr := s.scanLines(buf)
		if scanErr != nil {
			return scanErr
		}
		if err == nil && len(rest) == cap(buf) {
			if rest, scanErr = s.scanPart(rest); scanErr != nil {
				return scanErr
			}
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		if errors.Is(err, io.EOF) {
			err := s.scanText(buf, len(buf))
			if s.begun && err == nil {
				s.endLine()
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}

// scanLines looks at all whole lines of buf and returns what follows them.
func (s *leakScanner) scanLines(buf []byte) ([]byte, error) {
	for {
		end := bytes.IndexByte(buf, '\n')
		if end < 0 {
			return buf, nil
		}
		if err := s.scanText(buf[:end], end); err != nil {
			return nil, err
		}
		s.endLine()
		buf = buf[end+1:]
	}
}

// scanPart looks at the beginning of a line that fills the buffer, and returns
// what must be looked at again with what follows: the last word, or if all is
// one word as much of it as may begin a token.
func (s *leakScanner) scanPart(buf []byte) ([]byte, error) {
	end := len(buf)
	for end > 0 && isWord(buf[end-1]) {
		end--
	}
	if end == 0 {
		end = len(buf) - token.TextSize + 1
	}
	err := s.scanText(buf, end)
	s.tokenEnd = max(0, s.tokenEnd-end)
	return buf[end:], err
}

func (s *leakScanner) startLine() {
	s.line++
	s.begun, s.hits, s.isBlank, s.isCut, s.tokenEnd, s.last = false, 0, true, false, 0, s.last[:0]
}

func (s *leakScanner) endLine() {
	if s.isCut || s.hits == 0 && !s.isBlank {
		s.broken(s.line)
	}
	s.startLine()
}

// scanText looks for what begins before end in text, which is a line's or a
// part of it that ends between words.
func (s *leakScanner) scanText(text []byte, end int) error {
	s.begun = s.begun || len(text) > 0
	s.isBlank = s.isBlank && len(bytes.TrimSpace(text)) == 0
	for at := 0; ; at++ {
		next := bytes.Index(text[at:], []byte(token.Prefix))
		if next < 0 || at+next >= end {
			break
		}
		at += next
		var t token.Token
		if len(text)-at < token.TextSize || token.Parse(text[at:at+token.TextSize], &t) != nil {
			s.isCut = s.isCut || at >= s.tokenEnd
			continue
		}
		s.tokenEnd = at + token.TextSize
		if err := s.hit(t.ID); err != nil {
			return err
		}
	}
	for at := 0; at < end; at++ {
		from := at
		for at < len(text) && isWord(text[at]) {
			at++
		}
		if at-from != idTextSize {
			continue
		}
		if id, err := token.ParseID(string(text[from:at])); err == nil {
			if err := s.hit(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *leakScanner) hit(id token.ID) error {
	s.hits++
	if slices.Contains(s.last, id) {
		return nil
	}
	if len(s.last) < lastIDs {
		s.last = append(s.last, id)
	}
	return s.found(id, s.line)
}

// isWord reports whether c may stand in a token's text.
func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
