package authority_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/token"
)

// BenchmarkRedeemBatch64 is a node that redeems 64 fresh tokens a message, 16
// messages under way, from an authority that does all it does in service: mTLS,
// the durable store, the audit trail in a file. The node is a process of its
// own, so that cpu-µs/token is the authority's alone.
func BenchmarkRedeemBatch64(b *testing.B) {
	dir := b.TempDir()
	f := newFixture(b, func(f *fixture) {
		f.clock.since = time.Now() // sessions are stored by their end: it must move
		var err error
		f.store, err = boltstore.Open(filepath.Join(dir, "gatehouse.db"), boltstore.Options{})
		f.ok(err)
	})
	f.insertForBench(64 * b.N)

	b.ReportAllocs()
	cpu, began, run := redeemElsewhere(f, b.N)
	b.ResetTimer()
	run()
	elapsed := time.Since(began())
	b.StopTimer()
	tokens := float64(64 * b.N)
	b.ReportMetric(cpu().Seconds()*1e6/tokens, "cpu-µs/token")
	b.ReportMetric(tokens/elapsed.Seconds(), "tokens/s")
	f.equal("live sessions", f.store.Stats().Sessions, 64*b.N)
}

// benchWork is what the other process is told to do.
type benchWork struct {
	Address, Dir string
	Instance     []byte
	Batches      int
}

// secretAt is the secret of the nth benchmark token, and tokenAt its id: both
// processes know them.
func secretAt(n int) (s token.Secret) {
	copy(s[:], fmt.Sprintf("benchmark %d", n))
	return s
}

func tokenAt(n int) token.ID {
	id, err := token.NewID(benchExpiry, strings.NewReader(fmt.Sprintf("%010d", n)))
	if err != nil {
		panic(err)
	}
	return id
}

// benchExpiry is when the benchmark's tokens expire.
var benchExpiry = start.Add(time.Hour)

func (f *fixture) insertForBench(n int) {
	f.Helper()
	for at := 0; at < n; {
		var batch []*storage.Token
		for ; len(batch) < 4096 && at < n; at++ {
			secret := secretAt(at)
			digest := secret.Digest()
			batch = append(batch, &storage.Token{
				ID: storage.TokenID(tokenAt(at)), SecretHash: digest.Hash(), Tenant: "acme", Subject: fmt.Sprint("user-", at), Audience: "chat",
				IPBinding: storage.IPOff, UserAgent: []byte(chromeOnLinux), Browser: "Chrome", OS: "Linux", UserAgentBinding: storage.UserAgentClass,
				MaxUses: 1, IssuedAt: start, NotBefore: start, SessionTTL: 12 * time.Hour, Issuer: "login",
			})
		}
		_, err := f.store.Insert(f.ctx, batch)
		f.ok(err)
	}
}

// redeemElsewhere starts the other process. run lets it redeem and returns when
// it has; cpu is then what this process has used meanwhile.
func redeemElsewhere(f *fixture, batches int) (cpu func() time.Duration, began func() time.Time, run func()) {
	n := f.node("node-1")
	dir := filepath.Join(f.TempDir(), "node")
	key, csr := f.request()
	cert, err := f.ca.SignClient(csr, "node-1", 1, 0)
	f.ok(err)
	f.ok(pki.Bundle{Key: key, Cert: pki.EncodeCertificate(cert), CA: f.ca.Bundle()}.Write(dir, false))
	work, err := json.Marshal(benchWork{f.address, dir, n.id[:], batches})
	f.ok(err)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestBenchNode$")
	cmd.Env = append(os.Environ(), "GATEHOUSE_BENCH_NODE="+string(work))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	f.ok(err)
	stdout, err := cmd.StdoutPipe()
	f.ok(err)
	f.ok(cmd.Start())
	lines := bufio.NewScanner(stdout)
	wait := func(want string) {
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		f.Fatalf("the node's process ended: %v", cmd.Wait())
	}
	wait("ready")
	var before, used time.Duration
	var start time.Time
	return func() time.Duration { return used }, func() time.Time { return start }, func() {
		before, start = processCPU(f), time.Now()
		_, err := io.WriteString(stdin, "go\n")
		f.ok(err)
		wait("done")
		used = processCPU(f) - before
		f.ok(stdin.Close())
		_, _ = io.Copy(io.Discard, stdout)
		f.ok(cmd.Wait())
	}
}

func processCPU(f *fixture) time.Duration {
	var u syscall.Rusage
	f.ok(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestBenchNode is not a test: it is the other process of a benchmark.
func TestBenchNode(t *testing.T) {
	var work benchWork
	if text := os.Getenv("GATEHOUSE_BENCH_NODE"); text == "" {
		t.Skip("only for BenchmarkRedeemBatch64, in a process of its own")
	} else if err := json.Unmarshal([]byte(text), &work); err != nil {
		t.Fatal(err)
	}
	ok := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
	}
	cfg, err := tlsfile.Client(filepath.Join(work.Dir, "ca.crt"), filepath.Join(work.Dir, "tls.crt"), filepath.Join(work.Dir, "tls.key"),
		func() time.Time { return start }, nil)
	ok(err)
	conn, err := grpc.NewClient(work.Address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	ok(err)
	defer conn.Close()
	stream, err := pb.NewNodeServiceClient(conn).Redeem(context.Background())
	ok(err)
	ok(stream.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: work.Instance}}))
	_, err = stream.Recv()
	ok(err)
	batch := func(n int) *pb.RedeemRequest {
		req := &pb.RedeemRequest{Items: make([]*pb.RedeemItem, 64)}
		for i := range req.Items {
			id, secret := tokenAt(64*n+i), secretAt(64*n+i)
			digest := secret.Digest()
			session := make([]byte, 16)
			_, _ = rand.Read(session)
			req.Items[i] = &pb.RedeemItem{TokenId: id[:], Digest: digest[:], SessionId: session, Audience: "chat", Observed: &pb.Observation{
				Ip: []byte{198, 51, 100, 9}, UserAgent: []byte(chromeOnLinux), Origin: []byte("https://app.example.com"),
			}}
		}
		return req
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	window := make(chan struct{}, 16)
	go func() {
		for n := range work.Batches {
			window <- struct{}{}
			ok(stream.Send(batch(n)))
		}
	}()
	for range work.Batches {
		resp, err := stream.Recv()
		ok(err)
		for _, r := range resp.GetResults() {
			if r.GetGrant() == nil {
				ok(fmt.Errorf("refused: %v", r.GetRefusal()))
			}
		}
		<-window
	}
	fmt.Println("done")
}

// BenchmarkIssueToken is one unary call after the other, as far as the handler
// and the interceptors go; bench/ has the whole of it.
func BenchmarkIssueToken(b *testing.B) { benchIssueToken(b) }

// BenchmarkIssueTokenTraced is the same with traces, of which a sampler takes
// none or all: what an authority without a collector is spared.
func BenchmarkIssueTokenTraced(b *testing.B) {
	for name, sampler := range map[string]sdk.Sampler{"none": sdk.NeverSample(), "all": sdk.AlwaysSample()} {
		b.Run(name, func(b *testing.B) {
			benchIssueToken(b, func(f *fixture) {
				f.traces = sdk.NewTracerProvider(sdk.WithSampler(sampler), sdk.WithBatcher(tracetest.NewNoopExporter()))
			})
		})
	}
}

func benchIssueToken(b *testing.B, edits ...func(*fixture)) {
	f := newFixture(b, edits...)
	client := f.tokens("login")
	req := request(func(r *pb.IssueTokenRequest) {
		r.ClientIp, r.UserAgent, r.Origin = "192.0.2.7", []byte(chromeOnLinux), "https://app.example.com"
	})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := client.IssueToken(f.ctx, req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
