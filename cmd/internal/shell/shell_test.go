package shell

import (
	"slices"
	"strings"
	"testing"
	"unicode"
)

func TestLine(t *testing.T) {
	for _, c := range []struct {
		rule string
		args []string
		want string
		ok   bool
	}{
		{"plain words stay as they are", []string{"go", "run", "./cmd/gatehouse", "--token", "01K_a-b.c:d@e,f+g"}, "go run ./cmd/gatehouse --token 01K_a-b.c:d@e,f+g", true},
		{"an empty argument stays one", []string{"x", ""}, "x ''", true},
		{"a space does not split", []string{"x", "a b"}, "x 'a b'", true},
		{"nothing is run", []string{"x", "$(reboot)", "`reboot`", "a;b", "a&b", "a|b", "!!"}, "x '$(reboot)' '`reboot`' 'a;b' 'a&b' 'a|b' '!!'", true},
		{"nothing is expanded", []string{"x", "~", "*", "$HOME", `\`, "a=b", "{a,b}", "#"}, `x '~' '*' '$HOME' '\' 'a=b' '{a,b}' '#'`, true},
		{"a quote does not end the quotes", []string{"x", "o'neil"}, `x 'o'\''neil'`, true},
		{"letters of all languages are quoted", []string{"x", "żółw"}, "x 'żółw'", true},
		{"a line break would run the line", []string{"x", "a\nreboot\n"}, "", false},
		{"an escape would end a bracketed paste", []string{"x", "\x1b[201~reboot"}, "", false},
		{"an override would show another line", []string{"x", "a\u202eb"}, "", false},
		{"a no-break space looks like another", []string{"x", "a\u00a0b"}, "", false},
		{"what is not UTF-8", []string{"x", "\xff"}, "", false},
		{"no command", nil, "", false},
	} {
		if got, ok := Line(c.args); got != c.want || ok != c.ok {
			t.Errorf("%s: %q, %v; want %q, %v", c.rule, got, ok, c.want, c.ok)
		}
	}
}

// readShell splits a line as a POSIX shell does, for lines of plain words,
// single quotes and backslashes. It is not ok where anything in the line means
// more than itself to a shell.
func readShell(line string) (args []string, ok bool) {
	var word []byte
	open, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch b := line[i]; {
		case quoted && b == '\'':
			quoted = false
		case quoted:
			word = append(word, b)
		case b == '\'':
			quoted, open = true, true
		case b == '\\' && i+1 < len(line):
			i++
			word, open = append(word, line[i]), true
		case b == ' ':
			if open {
				args, word, open = append(args, string(word)), nil, false
			}
		case strings.IndexByte("\t\n|&;<>()$`\\\"*?[]#~={}!", b) >= 0 || b >= 0x80:
			return nil, false
		default:
			word, open = append(word, b), true
		}
	}
	if open {
		args = append(args, string(word))
	}
	return args, !quoted
}

func FuzzLine(f *testing.F) {
	for _, seed := range []string{"demo-user", "", " ", "'", "''", `\`, `\'`, "a b", "$(x)", "żółw", "-", "\x1b", "\u202e", "\xff"} {
		f.Add(seed, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		args := []string{"gatehouse", a, b}
		line, ok := Line(args)
		if !ok {
			return
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q is not printable", line)
		}
		got, ok := readShell(line)
		if !ok || !slices.Equal(got, args) {
			t.Fatalf("a shell reads %q as %q, want %q", line, got, args)
		}
	})
}
