package settings

import (
	"slices"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	type item struct {
		Name  string   `yaml:"name"`
		Names []string `yaml:"names"`
	}
	type common struct {
		Wait time.Duration `yaml:"wait"`
	}
	type config struct {
		A     int `yaml:"a"`
		Inner struct {
			B bool           `yaml:"b"`
			M map[string]int `yaml:"m"`
		} `yaml:"inner"`
		Items  []item `yaml:"items"`
		Hidden int    `yaml:"-"`
		common `yaml:",inline"`
	}
	base := func() config {
		c := config{A: 1, Items: []item{{"x", []string{"1"}}, {"y", nil}}}
		c.Inner.M = map[string]int{"k": 1}
		c.Wait = time.Second
		return c
	}
	for want, edit := range map[string]func(c *config){
		"":               func(c *config) { c.Hidden = 7 },
		"a":              func(c *config) { c.A = 2 },
		"inner.b":        func(c *config) { c.Inner.B = true },
		"inner.m":        func(c *config) { c.Inner.M = map[string]int{"k": 2} },
		"items":          func(c *config) { c.Items = c.Items[:1] },
		"items[1].name":  func(c *config) { c.Items = []item{c.Items[0], {"z", nil}} },
		"items[0].names": func(c *config) { c.Items = []item{{"x", []string{"1", "2"}}, c.Items[1]} },
		"wait":           func(c *config) { c.Wait = 0 },
	} {
		changed := base()
		edit(&changed)
		var keys []string
		if want != "" {
			keys = []string{want}
		}
		if got := Diff(base(), changed); !slices.Equal(got, keys) {
			t.Errorf("%v, want %v", got, keys)
		}
	}
	changed := base()
	changed.A, changed.Wait = 0, 0
	if got := Diff(base(), changed); !slices.Equal(got, []string{"a", "wait"}) {
		t.Errorf("%v, want a and wait", got)
	}
}
