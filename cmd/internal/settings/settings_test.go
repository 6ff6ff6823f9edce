package settings

import (
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
	if err := os.WriteFile("other", []byte("another_programs: 1"), 0o600); err != nil {
		t.Fatal(err)
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
		{name: "another program's file", flag: "other", wantErr: "other:1: another_programs: unknown key; known here: name, limits, log, listen, trusted, routes, labels, backends, store"},
		{name: "another program's file by the variable, which all read", env: "other", wantErr: "other:1: another_programs: unknown key; known here: name, limits, log, listen, trusted, routes, labels, backends, store\n" +
			"other: named by GATEHOUSE_CONFIG, which every program of Gatehouse reads; if it is another program's, name this one's by --config"},
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
