//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The audit trail of real programs, through a kill of the authority: who did
// what is told, and the files prove themselves without it.
func TestAuditTrail(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	token := strings.TrimSpace(s.cli("token", "issue", "--subject", "u42", "--audience", "chat").want(t, 0).stdout)
	secrets.add(token)
	offered := offer{url: "ws://" + n.plain + "/chat", bearer: token}
	sock := mustOpen(t, offered)
	s.cli("revoke", "--subject", "u42", "--reason", "lost laptop").want(t, 0)
	sock.wantClose(4501, "token revoked")
	wantStatus(t, offered, 401)

	var list struct {
		Records []struct {
			Action, Outcome, Caller, Peer string
			Fields                        map[string]string
		}
	}
	told := func(action, outcome string) bool {
		s.cli("audit", "list", "--oldest-first", "--action", action, "--outcome", outcome, "-o", "json").want(t, 0).decode(t, &list)
		return len(list.Records) > 0
	}
	for _, c := range [][2]string{{"AuditOpened", "ok"}, {"IssueToken", "ok"}, {"Redeem", "ok"}, {"Redeem", "token_used"}, {"Revoke", "ok"}, {"ReceiptComplete", "ok"}, {"SessionEnd", "token_revoked"}} {
		eventually(t, strings.Join(c[:], " "), func() bool { return told(c[0], c[1]) || c[1] == "token_used" && told(c[0], "token_revoked") })
	}
	eventually(t, "enforcement", func() bool { return told("Enforced", "ok") })
	if r := list.Records[0]; r.Caller != "node-1" || r.Peer == "" || r.Fields["closed"] != "1" || r.Fields["revision"] == "" {
		t.Errorf("%+v", r)
	}
	told("Revoke", "ok")
	if r := list.Records[len(list.Records)-1]; r.Fields["reason"] != "lost laptop" || r.Fields["subject"] != "u42" || r.Caller == "" || r.Peer == "" {
		t.Errorf("%+v", r)
	}

	config, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	path := string(regexp.MustCompile(`(?m)^audit_file: (.*)$`).FindSubmatch(config)[1])
	kept := filepath.Join(s.dir, "checkpoints.json")
	keep := func() {
		f, err := os.OpenFile(kept, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(s.cli("audit", "checkpoint", "-o", "json").want(t, 0).stdout); err != nil {
			t.Fatal(err)
		}
	}
	keep()
	starts := func() (n int) {
		for _, outcome := range []string{"ok", "unsealed"} {
			told("AuditOpened", outcome)
			n += len(list.Records)
		}
		return n
	}
	before := starts() // init is one
	s.authority.kill()
	s.startAuthority()
	eventually(t, "the start's line", func() bool { return starts() == before+1 })
	keep()
	if out := s.cli("audit", "verify", "--checkpoint", kept, path).want(t, 0).stdout; !strings.Contains(out, "2 checkpoints matched") {
		t.Errorf("while it runs: %s", out)
	}
	n.stop()
	s.authority.stop()
	s.cli("audit", "verify", "--checkpoint", kept, path).want(t, 0)

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(s.dir, "other.jsonl")
	write(t, other, strings.Replace(string(text), "lost laptop", "lost lapdog", 1))
	s.cli("audit", "verify", other).want(t, 1)
	firstSeal := regexp.MustCompile(`(?m)^\{"seal":1,.*\n`).FindIndex(text)[1]
	write(t, other, string(text[:firstSeal+20]))
	s.cli("audit", "verify", other).want(t, 1)
	write(t, other, string(text[:firstSeal]))
	s.cli("audit", "verify", other).want(t, 0)
	s.cli("audit", "verify", "--checkpoint", kept, other).want(t, 1)
}
