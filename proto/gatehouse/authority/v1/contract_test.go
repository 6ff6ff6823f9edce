package authorityv1

import (
	"regexp"
	"testing"
)

func TestCheckVersion(t *testing.T) {
	for v, want := range map[string]bool{
		Version: true, "0.0.9": true, "0.2.0": true,
		"0.3.0": false, "1.1.0": false, "": false, "0.1": false, "0.1.x": false, "0.1.0.0": false, "-0.1.0": false,
		"0.99999999999999999999.0": false,
	} {
		if got := CheckVersion(v) == nil; got != want {
			t.Errorf("%q: works %v, want %v", v, got, want)
		}
	}
}

func TestLabelsAreMetricLabels(t *testing.T) {
	ok := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	seen := map[string]bool{}
	for n := range Reason_name {
		l := Reason(n).Label()
		if !ok.MatchString(l) || seen[l] {
			t.Errorf("%d: label %q", n, l)
		}
		seen[l] = true
	}
	if got := Reason_REASON_TOKEN_USED.Label(); got != "token_used" {
		t.Errorf("label %q", got)
	}
	if got := Reason(9999).Label(); got != "unspecified" {
		t.Errorf("label of an unknown number %q", got)
	}
}
