//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// testssl.sh finds nothing to blame in how a node speaks TLS. Its certificate is
// of the system's own CA, which testssl.sh can't know; that is left out.
func TestTestssl(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	report := filepath.Join(s.dir, "testssl.json")
	// Its exit code counts what it finds, weighed; the report says more.
	out, err := exec.Command("testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none",
		"--protocols", "--std", "--pfs", "--vulnerable", "--jsonfile", report, n.wss).CombinedOutput()
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatalf("no report: %v, %v\n%s", readErr, err, out)
	}
	var found []struct{ ID, Severity, Finding string }
	if err := json.Unmarshal(text, &found); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	fine := map[string]bool{}
	for _, f := range found {
		switch {
		case f.ID == "engine_problem": // of the openssl that testssl.sh itself uses
		case f.Severity == "OK", f.Severity == "INFO":
			fine[f.ID] = true
		default:
			t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	for _, id := range []string{"TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "cipherlist_AVERAGE", "PFS", "heartbleed", "secure_client_renego", "ROBOT", "LUCKY13"} {
		if !fine[id] {
			t.Errorf("%s was not looked at", id)
		}
	}
}
