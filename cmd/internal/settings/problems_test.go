package settings

import (
	"errors"
	"strings"
	"testing"
)

func TestProblemsNameLineKeyAndFix(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"unknown key, near one of its section", "\nlimits:\n  mesage_bytes: 1", "node.yaml:3: limits.mesage_bytes: unknown key; did you mean message_bytes?"},
		{"unknown key, dashes for underscores", "limits: {dry-run: true}", "node.yaml:1: limits.dry-run: unknown key; did you mean dry_run?"},
		{"unknown key, letters swapped", "nmae: x", "node.yaml:1: nmae: unknown key; did you mean name?"},
		{"unknown key of another section", "message_bytes: 1", "node.yaml:1: message_bytes: unknown key here; did you mean limits.message_bytes?"},
		{"unknown key, near none", "log: {colour: red}", "node.yaml:1: log.colour: unknown key; known here: level"},
		{"unknown key in a list", "routes:\n- path: /\n- pth: /", "node.yaml:3: routes[1].pth: unknown key; did you mean path?"},
		{"unknown key in a map", "backends:\n  a.b:\n    adress: x", "node.yaml:3: backends[a.b].adress: unknown key; did you mean address?"},
		{"unknown key with control characters", `"a\e[31m\nb": x`, `node.yaml:1: "a\x1b[31m\nb": unknown key; known here: name, limits, log, listen, trusted, routes, labels, backends, store`},
		{"a section twice", "limits: {ratio: 1}\nname: x\nlimits: {ratio: 2}", "node.yaml:3: limits: set twice; first in line 1"},
		{"a key twice", "limits:\n  ratio: 1\n  \"ratio\": 2", "node.yaml:3: limits.ratio: set twice; first in line 2"},
		{"an unknown key twice", "x: 1\nx: 2", "node.yaml:1: x: unknown key; known here: name, limits, log, listen, trusted, routes, labels, backends, store\nnode.yaml:2: x: set twice; first in line 1"},
		{"a map's key twice", "labels:\n  a.b: 1\n  a.b: 2", "node.yaml:3: labels[a.b]: set twice; first in line 2"},
		{"a duration without unit", "limits:\n\n  handshake_timeout: 5", `node.yaml:3: limits.handshake_timeout: "5" is not a duration; write 5s`},
		{"no duration", "limits: {handshake_timeout: soon}", `node.yaml:1: limits.handshake_timeout: "soon" is not a duration; write 30s, 5m or 12h`},
		{"no number", "limits: {message_bytes: 64k}", `node.yaml:1: limits.message_bytes: "64k" is not a whole number; write it in decimal digits, as 10`},
		{"octal", "limits: {message_bytes: 010}", `node.yaml:1: limits.message_bytes: "010" is not a whole number; write it in decimal digits, as 10`},
		{"above an int8", "limits: {shift: 128}", `node.yaml:1: limits.shift: "128" is out of range; write a whole number from -128 to 127`},
		{"below an uint8", "limits: {weight: -1}", `node.yaml:1: limits.weight: "-1" is out of range; write a whole number from 0 to 255`},
		{"infinity", "limits: {ratio: .inf}", `node.yaml:1: limits.ratio: ".inf" is not a number that fits here; write 0.5`},
		{"not a number", "limits: {ratio: nan}", `node.yaml:1: limits.ratio: "nan" is not a number that fits here; write 0.5`},
		{"YAML 1.1's yes", "limits: {dry_run: yes}", `node.yaml:1: limits.dry_run: "yes" is not a switch; write true or false`},
		{"an address without host", "listen: :8443", `node.yaml:1: listen: ":8443" is not an address and port; write 127.0.0.1:8443 or [::]:8443`},
		{"a prefix without length", "trusted: [10.0.0.1]", `node.yaml:1: trusted[0]: "10.0.0.1" is not an address prefix; write 10.0.0.0/8 or fd00::/8`},
		{"what UnmarshalText refuses", "log: {level: loud}", `node.yaml:1: log.level: "loud" is not accepted: no level is called "loud"`},
		{"a long value", "log: {level: " + strings.Repeat("x", 100) + "}", `node.yaml:1: log.level: "` + strings.Repeat("x", 64) + `"... is not accepted: no level is called "` + strings.Repeat("x", 100) + `"`},
		{"a list for a value", "name:\n- x", "node.yaml:1: name: is a list; write a single value"},
		{"a section for a value", "name: {x: y}", "node.yaml:1: name: is a section of keys; write a single value"},
		{"a value for a section", "limits: 3", "node.yaml:1: limits: is a single value; write keys below it"},
		{"a value for a list", "trusted: 10.0.0.0/8", "node.yaml:1: trusted: is a single value; write a list, as [a, b]"},
		{"a list for a map", "labels: [a]", "node.yaml:1: labels: is a list; write keys and values below it"},
		{"a list for everything", "- a", "node.yaml:1: is a list; write keys below it"},
		{"no value", "\nname:", `node.yaml:2: name: has no value; write one, or "" for empty text, or remove the key`},
		{"null", "name: ~", `node.yaml:1: name: has no value; write one, or "" for empty text, or remove the key`},
		{"no list", "trusted:", "node.yaml:1: trusted: has no value; write [] for none, or remove the key"},
		{"no map", "labels: null", "node.yaml:1: labels: has no value; write {} for none, or remove the key"},
		{"an anchor", "name: &a x", "node.yaml:1: name: " + noAlias},
		{"an alias", "labels: {a: &a x}\nname: *a", "node.yaml:1: labels[a]: " + noAlias + "\nnode.yaml:2: name: " + noAlias},
		{"an unknown alias", "labels: {}\nname: *a", "node.yaml:2: " + noAlias},
		{"a merge key", "limits: {<<: {ratio: 1}}", "node.yaml:1: limits: merge keys are not supported; write the values out"},
		{"a tag", "name: !!binary aGk=", "node.yaml:1: name: type tags are not supported; quote a value that begins with !"},
		{"a list as key", "? [a]\n: b", "node.yaml:1: a key must be plain text"},
		{"a second document", "name: x\n---\nname: y", "node.yaml:2: a second document begins here; a configuration is one"},
		{"a tab", "limits:\n\tratio: 1", "node.yaml:2: not YAML: found character that cannot start any token"},
		{"a tab before a key", "name: x\n\tb: c\n", "node.yaml:2: not YAML: found a tab character that violates indentation"},
		{"a list that does not end", "name: [", "node.yaml:1: not YAML: did not find expected node content"},
		{"braces that do not end", "name: x\nlog: {level: info\nlimits: 1\n", "node.yaml:2: not YAML: did not find expected ',' or '}'"},
		{"keys out of line", "name: x\nlimits:\n   ratio: 1\n weight: 1\n", "node.yaml:4: not YAML: did not find expected key"},
		{"no colon", "limits:\n  ratio: 1\n  weight\n  shift: 1\n", "node.yaml:3: not YAML: could not find expected ':'"},
		{"two colons in the first line", "name: x: y", "node.yaml:1: not YAML: mapping values are not allowed in this context"},
		{"not UTF-8", "\nname: \xff", "node.yaml:2: is not UTF-8"},
		{"cut UTF-8", "name: \xef\xbfx", "node.yaml:1: is not UTF-8"},
		{"U+FFFD", "name: \ufffd\nx: y", "node.yaml:2: x: unknown key; known here: name, limits, log, listen, trusted, routes, labels, backends, store"},
		{"UTF-16", "\xff\xfen\x00", "node.yaml:1: is not UTF-8"},
		{"a control character", "name: x\n\n# \a", "node.yaml:3: holds the control character U+0007"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, c.file, nil)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	got, _, err := load(t, "limits: {ratio: x, weight: 7}\nnmae: y\n", []string{
		"GATEHOUSE_LIMITS_SHIFT=far", "GATEHOUSE_LIMIT_WEIGHT=1", "GATEHOUSE_ROUTES=/", "GATEHOUSE_COLOUR=red",
	}, "--limits-message-bytes=many", "--limits-dry-run=perhaps")
	want := `node.yaml:1: limits.ratio: "x" is not a number that fits here; write 0.5
node.yaml:2: nmae: unknown key; did you mean name?
GATEHOUSE_LIMITS_SHIFT: "far" is not a whole number; write it in decimal digits, as 10
GATEHOUSE_COLOUR: unknown variable; variables are named GATEHOUSE_<SECTION>_<KEY>
GATEHOUSE_LIMIT_WEIGHT: unknown variable; did you mean GATEHOUSE_LIMITS_WEIGHT?
GATEHOUSE_ROUTES: routes is a section, list or map: only the file can set it
--limits-message-bytes: "many" is not a whole number; write it in decimal digits, as 10
--limits-dry-run: "perhaps" is not a switch; write true or false`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if got.Limits.Weight != 7 {
		t.Error("what could be read was not")
	}
	var p *Problem
	if !errors.As(err, &p) || p.Line != 1 || p.Column != 10 || p.Key != "limits.ratio" {
		t.Errorf("first problem %+v", p)
	}
}

func TestSecretsAppearInNoError(t *testing.T) {
	const canary = "hunter2"
	for name, file := range map[string]string{
		"a number":            "store: {pin: hunter2}",
		"a type's own error":  "store: {level: hunter2}",
		"a list":              "store: {keys: hunter2}",
		"a section":           "store: {password: {a: hunter2}}",
		"a scalar for all":    "store: hunter2",
		"an alias":            "store: {password: *hunter2 }",
		"an alias to nothing": "store:\n  password: *hunter2",
		"an anchor":           "store:\n  password: &hunter2 x",
		"a tag":               "store:\n  password: !hunter2 x",
		"an unknown key":      "store: {pasword: hunter2}",
		"a second colon":      "store:\n  password: hunter2: x",
		"no colon":            "store:\n  password hunter2\n  pin: 1",
		"an open quote":       "store:\n  password: \"hunter2",
		"a bad escape":        "store:\n  password: \"\\hunter2\"",
		"a percent sign":      "store:\n  password: %hunter2",
		"a backquote":         "store:\n  password: `hunter2`",
		"twice":               "store: {password: hunter2, password: hunter2}",
	} {
		_, _, err := load(t, file, []string{"GATEHOUSE_STORE_PIN=" + canary, "GATEHOUSE_STORE_LEVEL=" + canary, "GATEHOUSE_STORE_PASWORD=" + canary})
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
		if n := strings.Count(err.Error(), "\n"); n < 3 {
			t.Errorf("%s: only %d problems, so the test proves little: %v", name, n+1, err)
		}
	}
}

func TestLocateNamesWhereAKeyWasSet(t *testing.T) {
	_, from, err := load(t, "limits: {ratio: 2}\nroutes:\n- path: /a\n-\n  message_bytes: 1\n", []string{"GATEHOUSE_NAME=x"})
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("name: is short")
	got := from.Locate(errors.Join(
		cause,
		errors.Join(errors.New("limits.ratio: 2 is above 1"), errors.New("limits.weight: 1 is odd")),
		errors.New("routes[1].path: is missing"),
		errors.New("routes: /b is missing"),
		errors.New("something else"),
	))
	want := `GATEHOUSE_NAME: name: is short
node.yaml:1: limits.ratio: 2 is above 1
limits.weight: 1 is odd
node.yaml:5: routes[1].path: is missing
node.yaml:2: routes: /b is missing
something else`
	if got.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", got, want)
	}
	if !errors.Is(got, cause) {
		t.Error("the cause is lost")
	}
	if from.Locate(nil) != nil {
		t.Error("no error became one")
	}
}

// A struct that cannot be loaded must fail in its first test, not in service.
func TestUnfitStructsPanic(t *testing.T) {
	type loop struct {
		Next []loop `yaml:"next"`
	}
	for name, load := range map[string]func(){
		"no tag": func() { tryLoad(struct{ A int }{}) },
		"an upper-case tag": func() {
			tryLoad(struct {
				A int `yaml:"A"`
			}{})
		},
		"a pointer": func() {
			tryLoad(struct {
				A *int `yaml:"a"`
			}{})
		},
		"a channel in a list": func() {
			tryLoad(struct {
				A []chan int `yaml:"a"`
			}{})
		},
		"a map of numbers": func() {
			tryLoad(struct {
				A map[int]string `yaml:"a"`
			}{})
		},
		"a key twice": func() {
			tryLoad(struct {
				A int `yaml:"a"`
				B int `yaml:"a"`
			}{})
		},
		"a struct in itself": func() { tryLoad(loop{}) },
		"two keys with one flag": func() {
			tryLoad(struct {
				A struct {
					B int `yaml:"b_c"`
				} `yaml:"a"`
				C struct {
					D int `yaml:"c"`
				} `yaml:"a_b"`
			}{})
		},
		"the flag --config": func() {
			tryLoad(struct {
				A int `yaml:"config"`
			}{})
		},
		"text that cannot be written": func() {
			tryLoad(struct {
				A readOnly `yaml:"a"`
			}{})
		},
	} {
		func() {
			defer func() {
				if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "settings: ") {
					t.Errorf("%s: %q, want a panic that explains it", name, text)
				}
			}()
			load()
		}()
	}
}

func tryLoad[T any](cfg T) { Load(cfg, Source{}) }

type readOnly int

func (*readOnly) UnmarshalText([]byte) error { return nil }

func TestBesideTellsFormAndMeaningOnce(t *testing.T) {
	o := Origins{"a": "f.yaml:1", "list[0]": "f.yaml:2", "f": "f.yaml:9"}
	meaning := errors.Join(errors.New("a: is wrong"), errors.Join(errors.New("list[0].x: is missing"), errors.New("b: required")))
	form := func(p ...Problem) error {
		var all []error
		for i := range p {
			all = append(all, &p[i])
		}
		return errors.Join(all...)
	}
	for _, c := range []struct {
		rule string
		form error
		want string
	}{
		{"nothing of form", nil, "f.yaml:1: a: is wrong\nf.yaml:2: list[0].x: is missing\nb: required"},
		{"another key", form(Problem{Source: "f.yaml", Line: 3, Key: "c", Text: "t"}), "f.yaml:3: c: t\nf.yaml:1: a: is wrong\nf.yaml:2: list[0].x: is missing\nb: required"},
		{"the same key, and the element around one", form(Problem{Source: "f.yaml", Line: 1, Key: "a", Text: "t"}, Problem{Source: "f.yaml", Line: 2, Key: "list", Text: "t"}),
			"f.yaml:1: a: t\nf.yaml:2: list: t\nb: required"},
		{"a variable and a flag", form(Problem{Source: "GATEHOUSE_B", Text: "t"}, Problem{Source: "--b", Text: "t"}), "GATEHOUSE_B: t\n--b: t\nf.yaml:1: a: is wrong\nf.yaml:2: list[0].x: is missing\nb: required"},
		{"a file that is none", form(Problem{Source: "f.yaml", Line: 3, Text: "not YAML"}), "f.yaml:3: not YAML"},
	} {
		if got := o.Beside(c.form, meaning); got.Error() != c.want {
			t.Errorf("%s:\n%v\nwant:\n%s", c.rule, got, c.want)
		}
	}
	const once = "f.yaml:1: a: is wrong\nf.yaml:2: list[0].x: is missing\nb: required\nc: one\nc: two"
	if got := o.Beside(nil, meaning, errors.Join(errors.New("list[0]: can't be used"), errors.New("c: one"), errors.New("c: two"))); got.Error() != once {
		t.Errorf("a second look:\n%v\nwant:\n%s", got, once)
	}
	if err := o.Beside(nil, nil); err != nil {
		t.Errorf("nothing wrong: %v", err)
	}
}
