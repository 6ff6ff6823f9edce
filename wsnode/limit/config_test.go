package limit

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDefault(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.UnauthenticatedPerAddress.Max != 10 {
		t.Errorf("%d unauthenticated sockets an address, want 10", c.UnauthenticatedPerAddress.Max)
	}
	if c.Addresses <= c.Sockets.Max {
		t.Errorf("room for %d addresses, but for %d sockets", c.Addresses, c.Sockets.Max)
	}
	// On by default: no rule of the default is off or dry.
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		if f.IsZero() {
			t.Errorf("%s is off by default", name)
		}
		if f.Kind() == reflect.Struct && f.FieldByName("DryRun").Bool() {
			t.Errorf("%s is dry by default", name)
		}
	}
}

func TestEveryFieldHasKeyAndHelp(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Ceiling](), reflect.TypeFor[Window](), reflect.TypeFor[Messages]()} {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("yaml") == "" || f.Tag.Get("help") == "" {
				t.Errorf("%s.%s lacks its yaml key or help", typ.Name(), f.Name)
			}
		}
	}
}

func TestRuleNamesAreKeys(t *testing.T) {
	keys := map[string]bool{}
	for i := range reflect.TypeFor[Config]().NumField() {
		keys[reflect.TypeFor[Config]().Field(i).Tag.Get("yaml")] = true
	}
	for r := NoRule + 1; r < ruleCount; r++ {
		if !keys[r.String()] {
			t.Errorf("rule %d is called %q, which is no key of the configuration", r, r)
		}
	}
	if NoRule.String() != "" || ruleCount.String() != "unknown" {
		t.Errorf("%q, %q", NoRule, ruleCount)
	}
	if ruleCount > 8 {
		t.Error("Rules has no bits for that many rules")
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	for _, test := range []struct {
		edit func(c *Config)
		want []string
	}{
		{func(c *Config) { c.Sockets.Max = 0 }, []string{"sockets.max: 0 is below 1; to refuse nothing, set dry_run: true"}},
		{func(c *Config) { c.Unauthenticated.Max = -3 }, []string{"unauthenticated.max: -3 is below 1"}},
		{func(c *Config) { c.UnauthenticatedPerAddress.Max = 1<<24 + 1 }, []string{"unauthenticated_per_address.max: 16777217 is above 16777216; set 16777216 or less"}},
		{func(c *Config) { c.AuthenticatedPerAddress.Action = "ban" }, []string{`authenticated_per_address.action: "ban" is not reject`}},
		{func(c *Config) { c.NewPerAddress.Max = 0 }, []string{"new_per_address.max: 0 is below 1"}},
		{func(c *Config) { c.NewPerAddress.Length = time.Millisecond }, []string{"new_per_address.window: 1ms is not between 100ms and 24h"}},
		{func(c *Config) { c.NewPerAddress.Length = 25 * time.Hour }, []string{"new_per_address.window: 25h"}},
		{func(c *Config) { c.Messages.Burst = 0 }, []string{"messages.burst: 0 is below 1"}},
		{func(c *Config) { c.Messages.PerSecond = 1<<32 - 1 }, []string{"messages.per_second: 4294967295 is above 1000000000"}},
		{func(c *Config) { c.Messages = Messages{} }, nil}, // off is a choice
		{func(c *Config) { c.Addresses = 10 }, []string{"addresses: 10 is not between 1024 and 16777216"}},
		{func(c *Config) { *c = Config{} }, []string{
			"sockets.max:", "unauthenticated.max:", "unauthenticated_per_address.max:", "authenticated_per_address.max:", "new_per_address.max:",
			"sockets.action:", "unauthenticated.action:", "unauthenticated_per_address.action:", "authenticated_per_address.action:", "new_per_address.action:",
			"new_per_address.window:", "addresses:",
		}},
	} {
		c := Default()
		test.edit(&c)
		err := c.Validate()
		if (err == nil) != (test.want == nil) {
			t.Errorf("%v, want %q", err, test.want)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
		if err != nil && strings.Count(err.Error(), "\n")+1 != len(test.want) {
			t.Errorf("%d problems reported, want %d: %v", strings.Count(err.Error(), "\n")+1, len(test.want), err)
		}
	}
}
