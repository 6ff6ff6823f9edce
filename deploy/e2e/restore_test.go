//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// maintain runs a command of gatehouse-authority on the system's state.
func (s *system) maintain(args ...string) result {
	s.t.Helper()
	return command(s.t, "", nil, bin("gatehouse-authority"), append(args, "--config", s.config)...)
}

// A restored backup starts a new history: what was issued before it counts no
// more, before or after the backup, and on no node; what is issued then does.
func TestRestore(t *testing.T) {
	s := prepare(t)
	s.extra = "tokens: {default_ttl: 30m, max_ttl: 1h}\nfleet: {heartbeat_interval: 50ms}\n"
	s.writeConfig()
	s.startAuthority()
	n := s.addNode("node-1", "")
	url := "ws://" + n.plain + "/chat"
	issue := func(subject string) *pb.IssueTokenResponse {
		return s.issue(s.dial(""), &pb.IssueTokenRequest{Subject: subject})
	}

	before := mustOpen(t, offer{url: url, bearer: issue("before").GetToken()})
	before.echo(hello)
	unused := issue("unused")
	s.cli("lock", "--subject", "locked", "--reason", "test").want(t, 0)

	// The backup is taken while tokens are issued.
	ctx, stop := context.WithCancel(context.Background())
	tokens := pb.NewTokenServiceClient(s.dial(""))
	issued := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if resp, err := tokens.IssueToken(ctx, &pb.IssueTokenRequest{Subject: "load", Audience: "chat"}); err == nil {
				secrets.add(resp.GetToken())
				issued++
			}
		}
	})
	backup := filepath.Join(s.dir, "gatehouse.backup")
	var told struct {
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}
	s.cli("backup", "--out", backup, "-o", "json").want(t, 0).decode(t, &told)
	stop()
	wg.Wait()
	if info, err := os.Stat(backup); err != nil || info.Size() != told.Bytes || len(told.SHA256) != 64 || issued == 0 {
		t.Fatalf("a backup of %d bytes, told as %+v, while %d tokens were issued", info.Size(), told, issued)
	}
	s.maintain("backup", "--out", backup+"2").want(t, 0) // through the authority that runs
	s.maintain("restore", "--from", backup, "--yes").want(t, 1)

	since := issue("since")
	after := mustOpen(t, offer{url: url, bearer: issue("after").GetToken()})
	after.echo(hello)
	var lost struct {
		Revision string `json:"revision"`
	}
	s.cli("revoke", "--subject", "nobody", "--reason", "test", "-o", "json").want(t, 0).decode(t, &lost)

	s.authority.kill()
	r := s.maintain("restore", "--from", backup, "--yes").want(t, 0)
	if !strings.Contains(r.stdout, "every token of before is revoked") {
		t.Errorf("it says %s", r.stdout)
	}
	s.startAuthority()
	before.wantClose(1013, "node has lost its authority")
	after.wantClose(1013, "node has lost its authority")
	s.await(n.admin)
	for _, tok := range []*pb.IssueTokenResponse{unused, since} {
		wantStatus(t, offer{url: url, bearer: tok.GetToken()}, 401)
	}
	if got := s.cli("token", "show", unused.GetTokenId()).want(t, 0); !strings.Contains(got.stdout, "revoked") {
		t.Errorf("a token of before: %s", got.stdout)
	}
	s.cli("token", "show", since.GetTokenId()).want(t, 3)
	if got := s.cli("locks").want(t, 0); !strings.Contains(got.stdout, "locked") {
		t.Errorf("the lock is gone: %s", got.stdout)
	}
	s.cli("revocation", "show", lost.Revision).want(t, 3)

	fresh := issue("fresh")
	sock := mustOpen(t, offer{url: url, bearer: fresh.GetToken()})
	sock.echo(hello)
	s.cli("revoke", "--token", fresh.GetTokenId()).want(t, 0)
	sock.wantClose(4501, "token revoked")

	// Compaction changes nothing that anyone could see.
	kept := issue("kept")
	s.authority.stop()
	if got := s.maintain("compact").want(t, 0); !strings.Contains(got.stdout, "compacted: ") {
		t.Errorf("it says %s", got.stdout)
	}
	s.startAuthority()
	s.await(n.admin)
	sock = mustOpen(t, offer{url: url, bearer: kept.GetToken()})
	kept = issue("kept")
	if got := s.maintain("compact").want(t, 1); !strings.Contains(got.stderr, "gatehouse compact") {
		t.Errorf("while the authority runs it says %s", got.stderr)
	}
	if got := s.cli("compact").want(t, 0); !strings.Contains(got.stdout, "compacted: ") {
		t.Errorf("it says %s", got.stdout)
	}
	sock.echo(hello)
	mustOpen(t, offer{url: url, bearer: kept.GetToken()}).echo(hello)
	s.authority.kill()
	s.startAuthority()
	_, sock = s.admitted(s.dial(""), n)
	sock.echo(hello)
	wantStatus(t, offer{url: url, bearer: kept.GetToken()}, 401) // it is used, and that was kept
}
