//go:build e2e

package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// rounds of the kill test; ./test --long asks for more.
func rounds() int {
	if os.Getenv("GATEHOUSE_TEST_LONG") != "" {
		return 60
	}
	return 6
}

// TestKilledUnderLoad proves promise 3 by kill -9 under issue, redeem and revoke
// load, many times over on one file: no acknowledged token is unknown, none is
// redeemed twice, none that was revoked is admitted.
func TestKilledUnderLoad(t *testing.T) {
	s := prepare(t)
	s.extra = "tokens: {default_ttl: 30m, max_ttl: 1h}\nfleet: {heartbeat_interval: 50ms}\n"
	s.writeConfig()
	s.startAuthority()
	n := s.addNode("node-1", "")
	url := "ws://" + n.plain + "/chat"

	type fate struct {
		id       string
		text     string
		opened   int
		revoked  bool // acknowledged
		doubtful bool // a revocation or handshake was under way when the authority died
	}
	var mu sync.Mutex
	var fates []*fate
	for round := range rounds() {
		conn := s.dial("")
		tokens, revocations := pb.NewTokenServiceClient(conn), pb.NewRevocationServiceClient(conn)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					resp, err := tokens.IssueToken(ctx, &pb.IssueTokenRequest{Subject: "u", Audience: "chat"})
					if err != nil {
						continue
					}
					secrets.add(resp.GetToken())
					f := &fate{id: resp.GetTokenId(), text: resp.GetToken()}
					mu.Lock()
					fates = append(fates, f)
					mu.Unlock()
					switch rand.N(3) {
					case 0:
						sock, err := open(t, offer{url: url, bearer: f.text})
						var refused *errStatus
						switch {
						case err == nil:
							f.opened++
							_ = sock.nc.Close()
						case errors.As(err, &refused):
							f.doubtful = true // 503: the node does not know whether it was granted
						default:
							f.doubtful = true
						}
					case 1:
						_, err := revocations.Revoke(ctx, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: f.id}}})
						f.revoked, f.doubtful = err == nil, err != nil
					}
				}
			})
		}
		time.Sleep(time.Duration(100+rand.N(400)) * time.Millisecond)
		s.authority.kill()
		cancel()
		wg.Wait()
		s.startAuthority()
		_, sock := s.admitted(s.dial(""), n)
		_ = sock.nc.Close()
		t.Logf("round %d: %d tokens acknowledged so far", round, len(fates))
	}
	conn := s.dial("")
	tokens := pb.NewTokenServiceClient(conn)
	if len(fates) < 100 {
		t.Fatalf("only %d tokens under load", len(fates))
	}
	for i, f := range fates {
		resp, err := tokens.GetToken(context.Background(), &pb.GetTokenRequest{TokenId: f.id})
		if err != nil {
			t.Fatalf("acknowledged token %s: %v", f.id, err)
		}
		uses, state := resp.GetToken().GetUses(), resp.GetToken().GetState()
		if int(uses) < f.opened || uses > 1 {
			t.Errorf("token %s opened %d sockets, the store knows %d", f.id, f.opened, uses)
		}
		if f.revoked && state != pb.TokenState_TOKEN_STATE_REVOKED {
			t.Errorf("token %s: its revocation was acknowledged, its state is %v", f.id, state)
		}
		if i%25 != 0 && !f.revoked || f.doubtful {
			continue
		}
		_, err = open(t, offer{url: url, bearer: f.text})
		if (f.revoked || f.opened > 0) && err == nil {
			t.Errorf("token %s opened a socket again (opened %d, revoked %v)", f.id, f.opened, f.revoked)
		}
		if !f.revoked && f.opened == 0 && err != nil {
			t.Errorf("an unused token is refused: %v", err)
		}
	}
}

// needs skips nothing: what the tests need is installed by ./test.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing: run ./test e2e, which installs it", program)
	}
}

// An error of the sync stops the authority: it acknowledges nothing more, and
// ends with the cause.
func TestFailedSyncStopsTheAuthority(t *testing.T) {
	needs(t, "strace")
	s := prepare(t)
	// The first syncs are the start's own. From a later one on, all fail.
	s.under = []string{"strace", "-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=12+", "-o", newLog(t, "strace")}
	s.startAuthority()
	tokens := pb.NewTokenServiceClient(s.dial(""))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var acknowledged []string
	var err error
	for range 1000 {
		var resp *pb.IssueTokenResponse
		if resp, err = tokens.IssueToken(ctx, &pb.IssueTokenRequest{Subject: "u", Audience: "chat", Ttl: durationOf(time.Hour)}); err != nil {
			break
		}
		secrets.add(resp.GetToken())
		acknowledged = append(acknowledged, resp.GetTokenId())
	}
	if status.Code(err) != codes.Unavailable {
		t.Fatalf("after the failed sync: %v, want UNAVAILABLE", err)
	}
	if code := s.authority.wait(); code == 0 {
		t.Fatal("the authority ended with exit code 0")
	}
	if !strings.Contains(s.authority.output(), "input/output error") {
		t.Errorf("the cause is not said:\n%s", tail(s.authority.output(), 5))
	}
	s.under = nil
	s.startAuthority()
	after := pb.NewTokenServiceClient(s.dial(""))
	for _, id := range acknowledged {
		if _, err := after.GetToken(ctx, &pb.GetTokenRequest{TokenId: id}); err != nil {
			t.Errorf("acknowledged token %s: %v", id, err)
		}
	}
}

// A full disk refuses what does not fit and goes on when there is room again.
func TestFullDisk(t *testing.T) {
	s := prepare(t)
	disk := smallDisk(t, filepath.Join(s.dir, "disk"), "48m")
	if out, err := exec.Command("cp", "-a", s.state+"/.", disk).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v %s", err, out)
	}
	s.state = disk
	s.extra = "tokens: {default_ttl: 1h, max_ttl: 1h}\n"
	s.writeConfig()
	s.startAuthority()
	tokens := pb.NewTokenServiceClient(s.dial(""))
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	ballast := filepath.Join(disk, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	issue := func() error {
		req := &pb.IssueTokensRequest{}
		for range 256 {
			req.Requests = append(req.Requests, &pb.IssueTokenRequest{Subject: "u", Audience: "chat", Attributes: map[string]string{"pad": strings.Repeat("x", 1000)}})
		}
		resp, err := tokens.IssueTokens(ctx, req)
		for _, r := range resp.GetResults() {
			secrets.add(r.GetToken().GetToken())
			acknowledged = append(acknowledged, r.GetToken().GetTokenId())
		}
		return err
	}
	var err error
	for range 1000 {
		if err = issue(); err != nil {
			break
		}
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "full") {
		t.Fatalf("on a full disk: %v, want UNAVAILABLE that says so", err)
	}
	if code, _ := get("http://" + s.admin + "/livez"); code != http.StatusOK {
		t.Error("the authority is not alive on a full disk")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "issue again once there is room", func() bool { return issue() == nil })
	s.authority.stop()
	s.startAuthority()
	after := pb.NewTokenServiceClient(s.dial(""))
	for _, id := range acknowledged {
		if _, err := after.GetToken(ctx, &pb.GetTokenRequest{TokenId: id}); err != nil {
			t.Fatalf("acknowledged token %s: %v", id, err)
		}
	}
	t.Logf("%d tokens acknowledged around the full disk", len(acknowledged))
}

// smallDisk mounts one at path.
func smallDisk(t *testing.T, path, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting a small disk needs root: run as root, as CI does")
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size+",mode=0700", "tmpfs", path).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", path).Run() })
	return path
}

// fill takes the disk's room but for three megabytes.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := make([]byte, 1<<20)
	size := int64(0)
	for {
		n, err := f.Write(chunk)
		size += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			return f.Truncate(max(0, size-3<<20))
		}
		if err != nil {
			return err
		}
	}
}
