package settings

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func fullConfig() testConfig {
	c := testDefaults()
	c.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	c.Routes = []testRoute{{"/chat", []string{"https://example.com"}, 1}, {Path: "/feed"}}
	c.Labels = map[string]string{"b": "null", "a.b": "x: y # z", "": "line\nbreak"}
	c.Backends = map[string]testBackend{"echo": {"localhost"}}
	return c
}

func TestPrint(t *testing.T) {
	c := fullConfig()
	c.Store = testStore{Password: "hunter2", Pin: 4711, Level: 1, Keys: []string{"hunter2"}}
	var out bytes.Buffer
	err := Print(&out, c, PrintOptions{Help: true, Origins: Origins{
		"name": "GATEHOUSE_NAME", "limits.weight": "--limits-weight", "trusted": "node.yaml:3", "trusted[0]": "node.yaml:4", "store.pin": "node.yaml:5",
	}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "print.yaml", out.Bytes())
	if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), "4711") {
		t.Error("a secret was printed")
	}
}

func TestReference(t *testing.T) {
	c := fullConfig()
	c.Store.Password = "hunter2"
	var out bytes.Buffer
	if err := Reference(&out, c); err != nil {
		t.Fatal(err)
	}
	golden(t, "reference.md", out.Bytes())
	if strings.Contains(out.String(), "hunter2") {
		t.Error("a secret was printed")
	}
}

func TestMaskedSecretsAreRefused(t *testing.T) {
	c := fullConfig()
	c.Store = testStore{Password: "hunter2", Pin: 4711, Level: 1, Keys: []string{"hunter2"}}
	var out bytes.Buffer
	if err := Print(&out, c, PrintOptions{}); err != nil {
		t.Fatal(err)
	}
	_, _, err := load(t, out.String(), []string{"GATEHOUSE_STORE_PASSWORD=[secret]"})
	if err == nil || strings.Count(err.Error(), "holds the mask of a printed configuration; write the secret itself") != 5 {
		t.Errorf("%v, want five masks refused", err)
	}
}

// loadText is Load of a file that holds text.
func loadText(defaults testConfig, text []byte) (testConfig, Origins, error) {
	l := loader{origins: Origins{}}
	v := reflect.ValueOf(&defaults).Elem()
	d := decoder{l: &l, name: "c.yaml", top: v.Type()}
	d.document(text, v)
	return defaults, l.origins, errors.Join(l.problems...)
}

// reload loads what Print writes of cfg.
func reload(t *testing.T, cfg testConfig, opts PrintOptions) testConfig {
	t.Helper()
	var out bytes.Buffer
	if err := Print(&out, cfg, opts); err != nil {
		t.Fatal(err)
	}
	got, _, err := loadText(testConfig{Name: "another"}, out.Bytes())
	if err != nil {
		t.Fatalf("%v in what was printed:\n%s", err, &out)
	}
	return got
}

func TestLoadReadsWhatPrintWrites(t *testing.T) {
	zero, extreme := testConfig{}, fullConfig()
	extreme.Limits = testLimits{math.MinInt, math.MinInt64, math.SmallestNonzeroFloat64, true, 255, -128}
	for _, want := range []testConfig{zero, testDefaults(), fullConfig(), extreme} {
		for _, opts := range []PrintOptions{{}, {Help: true, Origins: Origins{"name": "a", "routes": "b", "limits.shift": "c"}}} {
			if got := reload(t, want, opts); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		}
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", time.Minute: "1m", 90 * time.Second: "1m30s", 10 * time.Minute: "10m",
		time.Hour: "1h", 20 * time.Hour: "20h", time.Hour + time.Second: "1h0m1s", time.Hour + time.Minute: "1h1m", -time.Hour: "-1h", 1500 * time.Millisecond: "1.5s",
	} {
		got := durationText(d)
		if back, err := time.ParseDuration(got); got != want || back != d || err != nil {
			t.Errorf("%v is written %s and read as %v, %v; want %s", d, got, back, err, want)
		}
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorsAreReturned(t *testing.T) {
	if err := Print(brokenWriter{}, testDefaults(), PrintOptions{}); err == nil {
		t.Error("Print lost a write error")
	}
	if err := Reference(brokenWriter{}, testDefaults()); !errors.Is(err, errBroken) {
		t.Errorf("Reference: %v", err)
	}
}
