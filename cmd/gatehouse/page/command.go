package page

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// commandViews quotes commands and leaves out those that can't be pasted.
func commandViews(commands []Command) []commandView {
	views := make([]commandView, 0, len(commands))
	for _, c := range commands {
		if line, ok := shellLine(c.Args); ok {
			views = append(views, commandView{c.Title, line})
		}
	}
	return views
}

// shellLine is args as a POSIX shell reads them back. It is not ok where a
// character is not printable: a terminal takes some, pasted, for keys, even
// inside quotes.
func shellLine(args []string) (line string, ok bool) {
	words := make([]string, len(args))
	for i, a := range args {
		if !utf8.ValidString(a) || strings.ContainsFunc(a, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return "", false
		}
		words[i] = shellWord(a)
	}
	return strings.Join(words, " "), len(args) > 0
}

// shellWord quotes s where a shell would read it as anything but itself.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:@,+", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
