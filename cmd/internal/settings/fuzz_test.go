package settings

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzFile proves that no file makes Load panic, that errors stay printable,
// and that Load(Print(cfg)) is cfg for every cfg that loads.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "name: x\n", "limits: {message_bytes: 1, handshake_timeout: 1h, ratio: -0.0, weight: 255, shift: -128}",
		"routes:\n- path: /\n  origins: [a, \"b\\n\"]\n-\n", "labels: {\"\": \" \", a: \"\\t# x\", \"<<\": y, ~x: \"~\"}",
		"labels:\n  a: |2-\n      x\n     y\n  b: >+\n    z\n\n", "listen: \"[fe80::1%eth0]:1\"\ntrusted: [::/0]",
		"a: &a [*a, *a]\n", "? {a: b}\n: c\n", "<<: {a: b}", "--- x\n--- y", "\xef\xbb\xbfname: x", "\xff\xfen\x00", "!!map {}", "name: *x", "%YAML 1.1\n---\nname: x",
		strings.Repeat("[", 200), strings.Repeat("a: {", 200), "name: \"\\ud800\"", "labels: {\"\\u0085\": \"\\u2028\\ufeff\\x7f\"}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		cfg, from, err := loadText(testDefaults(), []byte(file))
		if err != nil {
			if !utf8.ValidString(err.Error()) {
				t.Fatalf("%q", err)
			}
			return
		}
		cfg.Store = testStore{}
		if got := reload(t, cfg, PrintOptions{Help: true, Origins: from}); !reflect.DeepEqual(got, cfg) {
			t.Fatalf("%q\nloads as  %+v\nthen as   %+v", file, cfg, got)
		}
	})
}

// FuzzValue proves that variables and flags of any text are read or refused,
// and that what was read is printed as itself.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{"", "0", "-0", "010", "+1", "255", "256", "-129", "1e400", "0x1p-2", "inf", "5", "5s", "-1h", "true", "[::1]:1", "10.0.0.0/33", "debug", "\x00", "\xff", "\u0085", "#", "'", "\"", ": ", "? ", "[secret]"} {
		f.Add(seed)
	}
	leaves := leavesOf(reflect.TypeFor[testConfig]())
	f.Fuzz(func(t *testing.T, text string) {
		for _, leaf := range leaves {
			cfg, _, err := Load(testDefaults(), Source{Environ: []string{leaf.env() + "=" + text}})
			if err != nil || leaf.secret {
				continue
			}
			cfg.Store = testStore{}
			if got := reload(t, cfg, PrintOptions{}); !reflect.DeepEqual(got, cfg) {
				t.Fatalf("%s=%q\nloads as  %+v\nthen as   %+v", leaf.env(), text, cfg, got)
			}
		}
	})
}
