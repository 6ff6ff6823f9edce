package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type testConfig struct {
	Name   string     `yaml:"name" help:"how the node calls itself"`
	Limits testLimits `yaml:"limits" help:"What a peer may use."`
	Log    struct {
		Level testLevel `yaml:"level" help:"debug or info"`
	} `yaml:"log"`
	testInline `yaml:",inline"`
	Routes     []testRoute            `yaml:"routes" help:"where sockets may connect"`
	Labels     map[string]string      `yaml:"labels"`
	Backends   map[string]testBackend `yaml:"backends"`
	Store      testStore              `yaml:"store"`
	Now        func() time.Time       `yaml:"-"`
}

type testLimits struct {
	MessageBytes     int           `yaml:"message_bytes" help:"the largest message | of any route"`
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	Ratio            float64       `yaml:"ratio"`
	DryRun           bool          `yaml:"dry_run"`
	Weight           uint8         `yaml:"weight"`
	Shift            int8          `yaml:"shift"`
}

type testInline struct {
	Listen  netip.AddrPort `yaml:"listen"`
	Trusted []netip.Prefix `yaml:"trusted"`
}

type testRoute struct {
	Path         string   `yaml:"path"`
	Origins      []string `yaml:"origins"`
	MessageBytes int      `yaml:"message_bytes" help:"the largest message"`
}

func (r *testRoute) SetDefaults() { r.MessageBytes = 4096 }

type testBackend struct {
	Address string `yaml:"address"`
}

type testStore struct {
	Password string    `yaml:"password" secret:"true"`
	Pin      int       `yaml:"pin" secret:"true"`
	Level    testLevel `yaml:"level" secret:"true"`
	Keys     []string  `yaml:"keys" secret:"true"`
}

type testLevel int

func (l testLevel) MarshalText() ([]byte, error) { return []byte([]string{"info", "debug"}[l]), nil }

func (l *testLevel) UnmarshalText(text []byte) error {
	switch string(text) {
	case "info":
		*l = 0
	case "debug":
		*l = 1
	default:
		return fmt.Errorf("no level is called %q", text)
	}
	return nil
}

func testDefaults() testConfig {
	var c testConfig
	c.Name = "node"
	c.Limits = testLimits{MessageBytes: 65536, HandshakeTimeout: 5 * time.Second, Ratio: 0.5, Weight: 1}
	c.Listen = netip.MustParseAddrPort("127.0.0.1:8443")
	c.Labels = map[string]string{"region": "eu"}
	return c
}

// load writes file to node.yaml in a folder of its own, and loads it from there.
func load(t *testing.T, file string, environ []string, args ...string) (testConfig, Origins, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("node.yaml", []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	src := Source{Path: "node.yaml", Environ: environ, Flags: pflag.NewFlagSet("node", pflag.ContinueOnError)}
	src.BindFlags(testDefaults())
	if err := src.Flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(testDefaults(), src)
}

func TestLoadReadsEveryKind(t *testing.T) {
	got, _, err := load(t, `
# a comment
name: "7"
limits:
  message_bytes: 100
  handshake_timeout: 1m30s
  ratio: 0.25
  dry_run: true
  weight: '255'
  shift: -128
log: {level: debug}
listen: '[::1]:443'
trusted: [10.0.0.0/8, fd00::/8]
routes:
  - path: /chat
    origins:
      - https://example.com
  - {path: /feed, message_bytes: 9}
labels:
  chat.message: a.b
  "yes": no
backends:
  echo:
    address: localhost
store:
  password: 0123
  pin: 42
  level: debug
  keys: [a, b]
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := testConfig{
		Name:       "7",
		Limits:     testLimits{100, 90 * time.Second, 0.25, true, 255, -128},
		testInline: testInline{netip.MustParseAddrPort("[::1]:443"), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
		Routes:     []testRoute{{"/chat", []string{"https://example.com"}, 4096}, {"/feed", nil, 9}},
		Labels:     map[string]string{"chat.message": "a.b", "yes": "no"},
		Backends:   map[string]testBackend{"echo": {"localhost"}},
		Store:      testStore{"0123", 42, 1, []string{"a", "b"}},
	}
	want.Log.Level = 1
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestLaterLayersWin(t *testing.T) {
	const file = "limits: {message_bytes: 2, ratio: 0.1, weight: 2}\n"
	got, from, err := load(t, file, []string{
		"GATEHOUSE_LIMITS_RATIO=0.2", "GATEHOUSE_LIMITS_WEIGHT=3", "GATEHOUSE_NAME=", "PATH=/bin",
	}, "--limits-weight", "4", "--limits-dry-run", "--log-level=debug")
	if err != nil {
		t.Fatal(err)
	}
	want := testDefaults()
	want.Limits = testLimits{MessageBytes: 2, HandshakeTimeout: 5 * time.Second, Ratio: 0.2, Weight: 4, DryRun: true}
	want.Name = ""
	want.Log.Level = 1
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	wantFrom := Origins{
		"name": "GATEHOUSE_NAME", "limits.message_bytes": "node.yaml:1", "limits.ratio": "GATEHOUSE_LIMITS_RATIO",
		"limits.weight": "--limits-weight", "limits.dry_run": "--limits-dry-run", "log.level": "--log-level",
	}
	if !reflect.DeepEqual(from, wantFrom) {
		t.Fatalf("origins %v, want %v", from, wantFrom)
	}
}

func TestListsAndMapsReplaceTheDefault(t *testing.T) {
	def := testDefaults()
	def.Routes = []testRoute{{Path: "/default"}}
	for file, want := range map[string]int{"labels: {a: b}\nroutes: [{path: /a}]": 1, "labels: {}\nroutes: []": 0} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		got, _, err := Load(def, Source{Path: path})
		if err != nil || len(got.Labels) != want || got.Labels["region"] != "" || len(got.Routes) != want {
			t.Errorf("%s: %v, %v, %v", file, got.Labels, got.Routes, err)
		}
	}
	if len(def.Labels) != 1 || def.Routes[0].Path != "/default" {
		t.Error("loading changed the defaults")
	}
}

func TestWhatIsNoConfigurationLeavesTheDefaults(t *testing.T) {
	for name, file := range map[string]string{
		"an empty file": "", "comments alone": "# nothing\n", "an empty document": "---\n", "an empty map": "{}",
		"a section with its keys commented out": "limits:\n  # message_bytes: 1\n",
	} {
		got, _, err := load(t, file, nil)
		if err != nil || !reflect.DeepEqual(got, testDefaults()) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

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

func TestForeignVariablesAreIgnored(t *testing.T) {
	src := Source{Ignore: []string{"GATEHOUSE_STORE_PATH", "GATEHOUSE_E2E_*"}, Environ: []string{
		"GATEHOUSE_STORE_PATH=x", "GATEHOUSE_E2E_BROWSER=x", "GATEHOUSEKEEPER=x", "gatehouse_x=y",
		// What Kubernetes adds for a service called gatehouse-authority.
		"GATEHOUSE_AUTHORITY_SERVICE_HOST=10.0.0.1", "GATEHOUSE_AUTHORITY_SERVICE_PORT=8443", "GATEHOUSE_AUTHORITY_SERVICE_PORT_GRPC=8443",
		"GATEHOUSE_AUTHORITY_PORT=tcp://10.0.0.1:8443", "GATEHOUSE_AUTHORITY_PORT_8443_TCP=tcp://10.0.0.1:8443",
		"GATEHOUSE_AUTHORITY_PORT_8443_TCP_PROTO=tcp", "GATEHOUSE_AUTHORITY_PORT_8443_TCP_ADDR=10.0.0.1",
	}}
	if _, _, err := Load(testDefaults(), src); err != nil {
		t.Error(err)
	}
	src.Environ = []string{"GATEHOUSE_STORE_PATHS=x", "GATEHOUSE_AUTHORITY_PORT=8443"}
	if _, _, err := Load(testDefaults(), src); err == nil || strings.Count(err.Error(), "unknown variable") != 2 {
		t.Errorf("%v, want two unknown variables", err)
	}
}

func TestEnvNames(t *testing.T) {
	got := strings.Join(EnvNames(testBackend{}), " ")
	if want := "GATEHOUSE_CONFIG GATEHOUSE_ADDRESS"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestWhichFile(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"default", "env", "flag"} {
		if err := os.WriteFile(name, []byte("name: "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, path, env, flag string
		want, wantErr         string
	}{
		{name: "the default path", path: "default", want: "default"},
		{name: "the variable over the default path", path: "default", env: "env", want: "env"},
		{name: "the flag over the variable", path: "default", env: "env", flag: "flag", want: "flag"},
		{name: "a default path that is missing", path: "missing", want: "node"},
		{name: "no path", want: "node"},
		{name: "a variable that names a missing file", env: "missing", wantErr: "missing: no such file or directory (named by GATEHOUSE_CONFIG)"},
		{name: "a flag that names a missing file", path: "default", flag: "missing", wantErr: "missing: no such file or directory (named by --config)"},
		{name: "a folder", path: ".", wantErr: ".: is a directory"},
	} {
		src := Source{Path: c.path, Flags: pflag.NewFlagSet("node", pflag.ContinueOnError)}
		if c.env != "" {
			src.Environ = []string{"GATEHOUSE_CONFIG=" + c.env}
		}
		src.BindFlags(testDefaults())
		if c.flag != "" {
			if err := src.Flags.Parse([]string{"--config", c.flag}); err != nil {
				t.Fatal(err)
			}
		}
		got, _, err := Load(testDefaults(), src)
		if err != nil {
			if err.Error() != c.wantErr {
				t.Errorf("%s: %v, want %s", c.name, err, c.wantErr)
			}
		} else if got.Name != c.want || c.wantErr != "" {
			t.Errorf("%s: read %s, want %s%s", c.name, got.Name, c.want, c.wantErr)
		}
	}
}

func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	for _, size := range []int{maxFileBytes, maxFileBytes + 1} {
		if err := os.WriteFile(path, []byte(strings.Repeat("#", size)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := Load(testDefaults(), Source{Path: path})
		if (err != nil) != (size > maxFileBytes) {
			t.Errorf("%d bytes: %v", size, err)
		}
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

func TestSecretsHaveNoFlag(t *testing.T) {
	src := Source{Flags: pflag.NewFlagSet("node", pflag.ContinueOnError)}
	src.BindFlags(testDefaults())
	if src.Flags.Lookup("store-password") != nil {
		t.Error("a secret can be given where a process listing shows it")
	}
	got, _, err := load(t, "", []string{"GATEHOUSE_STORE_PASSWORD=pw"})
	if err != nil || got.Store.Password != "pw" {
		t.Errorf("password %q, %v", got.Store.Password, err)
	}
}

func TestFlagUsage(t *testing.T) {
	src := Source{Path: "/etc/gatehouse/node.yaml", Flags: pflag.NewFlagSet("node", pflag.ContinueOnError)}
	src.BindFlags(testDefaults())
	usage := src.Flags.FlagUsages()
	for _, want := range []string{
		`--config string                       the configuration file (GATEHOUSE_CONFIG) (default "/etc/gatehouse/node.yaml")`,
		`--limits-handshake-timeout duration    (default 5s)`,
		`--limits-message-bytes number         the largest message | of any route (default 65536)`,
		"--limits-dry-run                      \n",
		`--listen address                       (default 127.0.0.1:8443)`,
	} {
		if !strings.Contains(usage, want) {
			t.Errorf("usage lacks %q:\n%s", want, usage)
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

// A file means the same from whatever folder a program is started in.
func TestPathsInAFileAreRelativeToIt(t *testing.T) {
	type files struct {
		Cert string `yaml:"cert" path:"true"`
		Name string `yaml:"name"`
	}
	type config struct {
		State   string           `yaml:"state" path:"true"`
		Schemas string           `yaml:"schemas" path:"true"`
		Empty   string           `yaml:"empty" path:"true"`
		Inner   files            `yaml:"inner"`
		Many    []files          `yaml:"many"`
		Named   map[string]files `yaml:"named"`
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "x.yaml")
	text := "state: /abs\nempty: ''\ninner: {cert: ../a.crt, name: n}\nmany: [{cert: b.crt, name: n}]\nnamed: {x: {cert: ./c.crt, name: n}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	want := config{
		State: "/abs", Schemas: at("."), Inner: files{at("../a.crt"), "n"},
		Many: []files{{at("b.crt"), "n"}}, Named: map[string]files{"x": {at("c.crt"), "n"}},
	}
	got, _, err := Load(config{Schemas: "."}, Source{Path: file})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	want.Inner.Cert = "d.crt" // of where the program runs
	if got, _, err := Load(config{Schemas: "."}, Source{Path: file, Environ: []string{"GATEHOUSE_INNER_CERT=d.crt"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	if got, _, err := Load(config{Schemas: "."}, Source{Path: at("none.yaml")}); err != nil || got.Schemas != "." {
		t.Errorf("without a file: %+v, %v", got, err)
	}
}

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
	if err := o.Beside(nil, nil); err != nil {
		t.Errorf("nothing wrong: %v", err)
	}
}
