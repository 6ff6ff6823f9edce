package authority_test

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/gatehouse-ws/gatehouse/authority"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// method is an RPC as its descriptor has it.
func method(t testing.TB, full string) protoreflect.MethodDescriptor {
	t.Helper()
	name := strings.ReplaceAll(strings.TrimPrefix(full, "/"), "/", ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.MethodDescriptor)
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return mt.New().Interface()
}

// callEmpty calls a method with an empty request, or without any where it takes
// a stream of them.
func callEmpty(ctx context.Context, t testing.TB, conn *grpc.ClientConn, full string) error {
	m := method(t, full)
	out := newMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return conn.Invoke(ctx, full, newMessage(m.Input()), out)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, full)
	if err != nil {
		return err
	}
	if !m.IsStreamingClient() {
		if err := stream.SendMsg(newMessage(m.Input())); err != nil && err != io.EOF {
			return err // of io.EOF RecvMsg tells the cause
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(out); err != io.EOF {
		return err
	}
	return nil
}

// TestProtoStatesTheRules proves that the Callers of each RPC's comment are
// those of the table, word for word.
func TestProtoStatesTheRules(t *testing.T) {
	files, err := filepath.Glob("../proto/gatehouse/authority/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatal("no protos", err)
	}
	rpc := regexp.MustCompile(`(?m)((?:^  //.*\n)+)  rpc (\w+)\(`)
	callers := regexp.MustCompile(`Callers: (.*?)\. Errors: `)
	service := regexp.MustCompile(`(?m)^service (\w+) \{`)
	found := map[string]bool{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := service.FindSubmatch(text)
		for _, m := range rpc.FindAllSubmatch(text, -1) {
			full := "/gatehouse.authority.v1." + string(name[1]) + "/" + string(m[2])
			found[full] = true
			comment := strings.Join(strings.Fields(strings.ReplaceAll(string(m[1]), "//", "")), " ")
			said := callers.FindStringSubmatch(comment)
			if said == nil {
				t.Errorf("%s: the comment names no callers", full)
				continue
			}
			var want []string
			for part := range strings.SplitSeq(said[1], ";") {
				want = append(want, strings.TrimRight(strings.Fields(part)[0], ","))
			}
			var got []string
			for _, r := range authority.Rules[full] {
				got = append(got, authority.RoleName(r))
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: the rule allows %v, the comment %v", full, got, want)
			}
		}
	}
	for full := range authority.Rules {
		if !found[full] {
			t.Errorf("%s: no proto has it", full)
		}
	}
}

func TestMethodWithoutRuleStopsTheStart(t *testing.T) {
	f := newFixture(t)
	services := f.server.GetServiceInfo()
	f.ok(authority.CheckRules(services))

	services["gatehouse.authority.v1.TokenService"] = grpc.ServiceInfo{Methods: append(
		slices.Clone(services["gatehouse.authority.v1.TokenService"].Methods), grpc.MethodInfo{Name: "BurnTokens"})}
	if err := authority.CheckRules(services); err == nil || !strings.Contains(err.Error(), "/gatehouse.authority.v1.TokenService/BurnTokens has no rule") {
		t.Errorf("a method without a rule: %v", err)
	}
	services = f.server.GetServiceInfo()
	delete(services, "gatehouse.authority.v1.SessionService")
	if err := authority.CheckRules(services); err == nil || !strings.Contains(err.Error(), "which no service has") {
		t.Errorf("a rule without a method: %v", err)
	}
}

// TestWhoMayCall goes through every method as every kind of caller.
func TestWhoMayCall(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.backup = backupOf(nil)
		f.compact = func(context.Context, func(int64, int64)) (storage.Compacted, error) { return storage.Compacted{}, nil }
	})
	keys := map[string]*grpc.ClientConn{}
	for name, role := range map[string]pb.Role{"key-issuer": pb.Role_ROLE_ISSUER, "key-admin": pb.Role_ROLE_ADMIN, "key-viewer": pb.Role_ROLE_VIEWER} {
		resp, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: &pb.Credential{Name: name, Role: role}})
		f.ok(err)
		conn := f.dial(f.clientTLS("", 0), grpc.WithPerRPCCredentials(apiKey(resp.GetIssued().GetApiKey())))
		defer conn.Close()
		keys[name] = conn
	}
	roles := map[string]storage.Role{
		"admin": storage.Admin, "viewer": storage.Viewer, "login": storage.Issuer, "acme": storage.Issuer, "node-1": storage.Node,
		"key-issuer": storage.Issuer, "key-admin": storage.Admin, "key-viewer": storage.Viewer,
	}
	for name, role := range roles {
		conn := keys[name]
		if conn == nil {
			conn = f.conn(name)
		}
		for full, allowed := range authority.Rules {
			err := callEmpty(f.ctx, t, conn, full)
			got := failed(err)
			if slices.Contains(allowed, role) {
				if c := status.Code(err); c != codes.OK && c != codes.InvalidArgument {
					t.Errorf("%s as %s: %s", full, name, got)
				}
				continue
			}
			want := "PermissionDenied permission_denied: " + authority.RoleName(role) + " " + name + " may not call " + full + " (permission denied)"
			if got != want {
				t.Errorf("%s as %s:\n got %s\nwant %s", full, name, got, want)
			}
			action := string(method(t, full).Name())
			if m := method(t, full); m.IsStreamingClient() || m.IsStreamingServer() {
				action += "Stream"
			}
			if got, want := f.lastLine(action), "caller="+name+" outcome=permission_denied"; got != want {
				t.Errorf("%s as %s: audit line %s, want %s", full, name, got, want)
			}
		}
		if _, err := healthpb.NewHealthClient(conn).Check(f.ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("health as %s: %v", name, err)
		}
	}
}

// TestStrangersMayCallNothing goes through every method without a credential
// that counts.
func TestStrangersMayCallNothing(t *testing.T) {
	f := newFixture(t)
	create := func(name string, role pb.Role) string {
		resp, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: &pb.Credential{Name: name, Role: role}})
		f.ok(err)
		return resp.GetIssued().GetApiKey()
	}
	disabled, key := create("disabled", pb.Role_ROLE_ADMIN), create("key", pb.Role_ROLE_ADMIN)
	_, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "disabled", Reason: "test"})
	f.ok(err)
	const (
		none    = "Unauthenticated unauthenticated: no credential: call with a client certificate or an API key"
		unknown = "Unauthenticated unauthenticated: unknown credential"
	)
	bearer := func(v ...string) context.Context {
		ctx := f.ctx
		for _, s := range v {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", s)
		}
		return ctx
	}
	other := key[:len(key)-1] + string(rune(key[len(key)-1]^1))
	for _, c := range []struct {
		name       string
		cert       string
		generation uint32
		ctx        context.Context
		want, line string
	}{
		{"no credential", "", 0, f.ctx, none, "outcome=unauthenticated"},
		{"an unknown name", "nobody", 1, f.ctx, unknown, "outcome=unauthenticated"},
		{"an older generation", "admin", 0, f.ctx, unknown, "outcome=unauthenticated"},
		{"a generation to come", "admin", 2, f.ctx, unknown, "outcome=unauthenticated"},
		{"a certificate of a credential that has an API key", "key", 1, f.ctx, unknown, "outcome=unauthenticated"},
		{"an unknown certificate beside a good API key", "nobody", 1, bearer("Bearer " + key), unknown, "outcome=unauthenticated"},
		{"an unknown API key", "", 0, bearer("Bearer " + other), unknown, "outcome=unauthenticated"},
		{"an API key cut short", "", 0, bearer("Bearer " + key[:20]), none, "outcome=unauthenticated"},
		{"an API key by another scheme", "", 0, bearer("Basic " + key), none, "outcome=unauthenticated"},
		{"an API key without a scheme", "", 0, bearer(key), none, "outcome=unauthenticated"},
		{"two API keys", "", 0, bearer("Bearer "+key, "Bearer "+key), none, "outcome=unauthenticated"},
		{"a disabled credential", "", 0, bearer("Bearer " + disabled),
			"PermissionDenied credential_disabled: credential disabled is disabled (credential disabled)", "caller=disabled outcome=credential_disabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := f.dial(f.clientTLS(c.cert, c.generation))
			defer conn.Close()
			for _, full := range slices.Sorted(maps.Keys(authority.Rules)) {
				if got := failed(callEmpty(c.ctx, t, conn, full)); got != c.want {
					t.Errorf("%s:\n got %s\nwant %s", full, got, c.want)
				}
			}
			if _, err := healthpb.NewHealthClient(conn).Check(c.ctx, &healthpb.HealthCheckRequest{}); failed(err) != c.want {
				t.Errorf("health:\n got %s\nwant %s", failed(err), c.want)
			}
			for _, action := range []string{"IssueToken", "RedeemStream", "CreateCredential", "Check"} {
				if got := f.lastLine(action); got != c.line {
					t.Errorf("audit line of %s: %s, want %s", action, got, c.line)
				}
			}
		})
	}
	if got := f.audit.String(); strings.Contains(got, key) || strings.Contains(got, disabled) {
		t.Error("an API key is in the audit trail")
	}
	if n := strings.Count(f.audit.String(), `"outcome":"unauthenticated"`); n > 1000 {
		t.Errorf("%d audit lines of calls that anyone can make", n)
	}
}

// TestStrangersDoNotFillTheTrail proves that calls which need no credential get
// so many lines a second, and that what is left out is counted.
func TestStrangersDoNotFillTheTrail(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(f.clientTLS("", 0))
	defer conn.Close()
	call := func() { _, _ = pb.NewTokenServiceClient(conn).IssueToken(f.ctx, &pb.IssueTokenRequest{}) }
	for range 1100 {
		call()
	}
	lines := func() int {
		f.trail.Flush()
		return strings.Count(f.audit.String(), `"outcome":"unauthenticated"`)
	}
	f.equal("lines", lines(), 1000)
	f.clock.advance(10 * time.Millisecond) // room for one more
	call()
	call()
	f.equal("lines", lines(), 1001)
	f.equal("the line", f.lastLine("IssueToken"), "outcome=unauthenticated skipped_before=100")
}
