// Package shell writes command lines for people to paste.
package shell

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is args as a POSIX shell reads them back. It is not ok where a
// character is not printable: a terminal takes some, pasted, for keys, even
// inside quotes.
func Line(args []string) (line string, ok bool) {
	words := make([]string, len(args))
	for i, a := range args {
		if !utf8.ValidString(a) || strings.ContainsFunc(a, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return "", false
		}
		words[i] = Word(a)
	}
	return strings.Join(words, " "), len(args) > 0
}

// Word quotes s where a shell would read it as anything but itself.
func Word(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:@,+", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
