package authority_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
)

// traced makes the authority of a fixture give its spans to what it returns.
func traced() (*tracetest.InMemoryExporter, func(*fixture)) {
	spans := tracetest.NewInMemoryExporter()
	return spans, func(f *fixture) { f.traces = sdk.NewTracerProvider(sdk.WithSyncer(spans)) }
}

// within calls from a span of the caller's, whose tracestate and baggage say
// text.
func (f *fixture) within(text string) context.Context {
	return metadata.AppendToOutgoingContext(f.ctx, "traceparent", "00-"+callersTrace+"-"+callersSpan+"-01",
		"tracestate", "vendor="+text, "baggage", "key="+text)
}

// spanOf waits for a span that has ended.
func (f *fixture) spanOf(spans *tracetest.InMemoryExporter, name string) tracetest.SpanStub {
	f.Helper()
	var found tracetest.SpanStub
	f.eventually("span "+name, func() bool {
		for _, s := range spans.GetSpans() {
			if s.Name == name {
				found = s
			}
		}
		return found.Name != ""
	})
	return found
}

// describe tells of a span what it counts, and how it ended.
func describe(s tracetest.SpanStub) string {
	var out []string
	for _, a := range s.Attributes {
		if strings.HasPrefix(string(a.Key), "gatehouse.") {
			out = append(out, fmt.Sprintf("%s=%v", a.Key, a.Value.AsInt64()))
		}
	}
	return strings.Join(append(out, s.Status.Code.String()+s.Status.Description), " ")
}

// TestSpans proves that a call is one trace with what it waits for, from the
// caller's span on; that batches of a stream are traces of their own; and that a
// receipt is a span of the revocation's trace, as long as it took.
func TestSpans(t *testing.T) {
	spans, on := traced()
	f := newFixture(t, on)
	issued, err := f.tokens("login").IssueToken(f.within("x"), request())
	f.ok(err)
	call := f.spanOf(spans, "gatehouse.authority.v1.TokenService/IssueToken")
	f.equal("trace", []any{call.SpanContext.TraceID(), call.Parent.SpanID()}, []any{callersTrace, callersSpan})
	wait := f.spanOf(spans, "store.Insert")
	f.equal("wait", []any{wait.SpanContext.TraceID(), wait.Parent.SpanID(), describe(wait)}, []any{callersTrace, call.SpanContext.SpanID(), "gatehouse.items=1 Unset"})

	a := f.node("node-1")
	waits := append(bytes.Repeat([]byte{7}, 16), bytes.Repeat([]byte{8}, 8)...)
	a.grant(a.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Span = waits }))
	batch := f.spanOf(spans, "redeem batch")
	f.equal("batch", []any{batch.Parent.IsValid(), len(batch.Links), describe(batch)}, []any{false, 2, "gatehouse.tokens=1 Unset"})
	node := batch.Links[1].SpanContext
	f.equal("the node's span", []any{node.TraceID(), node.SpanID(), node.IsRemote(), node.IsSampled()},
		[]any{strings.Repeat("07", 16), strings.Repeat("08", 8), true, true})
	f.equal("its wait", f.spanOf(spans, "store.Redeem").Parent.SpanID(), batch.SpanContext.SpanID())

	_, err = f.revocations("admin").Revoke(f.within("x"), &pb.RevokeRequest{Selector: bySubject("acme", "ada"), Reason: "test"})
	f.ok(err)
	head, _ := f.store.Head()
	f.clock.advance(time.Second)
	a.acknowledge(&pb.Revision{Epoch: head.Epoch, Sequence: head.Sequence})
	receipt := f.spanOf(spans, "receipt")
	f.equal("receipt", []any{receipt.SpanContext.TraceID(), describe(receipt), receipt.EndTime.Sub(receipt.StartTime)},
		[]any{callersTrace, "gatehouse.revision=1 gatehouse.nodes=1 Unset", time.Second})
	f.equal("its parent's parent", f.spanOf(spans, "store.Append").Parent.SpanID(), receipt.Parent.SpanID())

	// The trail says which trace a line belongs to.
	for action, want := range map[string]any{"IssueToken": callersTrace, "Revoke": callersTrace, "Redeem": batch.SpanContext.TraceID(), "ReceiptComplete": nil} {
		f.ok(f.service.Tend(f.ctx))
		line := f.linesOf(action, "ok")
		f.equal("lines of "+action, len(line), 1)
		f.equal("trace of "+action, line[0]["trace_id"], want)
	}

	// A request that is repeated has one receipt, and one span of it.
	spans.Reset()
	again := func() {
		_, err = f.revocations("admin").Revoke(f.within("x"), &pb.RevokeRequest{Selector: bySubject("acme", "ada"), Reason: "test", RequestId: "0123456789abcdef"})
		f.ok(err)
	}
	again()
	first := f.spanOf(spans, "store.Append").Parent.SpanID()
	again()
	a.acknowledge(&pb.Revision{Epoch: head.Epoch, Sequence: head.Sequence + 1})
	f.equal("parent", f.spanOf(spans, "receipt").Parent.SpanID(), first)

	spans.Reset()
	f.ok(f.service.Tend(f.ctx))
	f.equal("of housekeeping", len(spans.GetSpans()), 0)
}

// TestSpansTellNothingOfPeers proves of promise 1 that what a peer writes is in
// no span: no token, and no subject either. A canary proves that the search
// would find it.
func TestSpansTellNothingOfPeers(t *testing.T) {
	spans, begun := tracetest.NewInMemoryExporter(), tracetest.NewSpanRecorder()
	f := newFixture(t, func(f *fixture) {
		f.traces = sdk.NewTracerProvider(sdk.WithSyncer(spans), sdk.WithSpanProcessor(begun))
	})
	text := f.issue(func(r *pb.IssueTokenRequest) {
		r.Subject, r.Tenant, r.Audience, r.UserAgent = "canary-subject", "canary-tenant", "canary-audience", []byte("canary-agent")
		r.Attributes, r.Scopes, r.UserAgentBinding = map[string]string{"canary-key": "canary-value"}, []string{"canary-scope"}, pb.UserAgentBinding_USER_AGENT_BINDING_OFF
	}).GetToken()
	n := f.node("node-1")
	it := n.item(text, func(it *pb.RedeemItem) {
		it.Audience, it.Observed.UserAgent, it.Observed.Origin = "canary-audience", []byte("canary-agent"), []byte("https://canary-origin")
	})
	n.grant(it)
	n.refusal(it)
	for _, text := range []string{text, "canary-text"} {
		ctx := f.within(text)
		_, _ = f.tokens("login").IntrospectToken(ctx, &pb.IntrospectTokenRequest{Token: text})
		_, _ = f.tokens("login").IssueToken(ctx, &pb.IssueTokenRequest{Subject: text, Audience: strings.Repeat(text, 100)})
		_, _ = f.revocations("admin").Revoke(ctx, &pb.RevokeRequest{Selector: bySubject("canary-tenant", text), Reason: "canary-reason", RequestId: "canary-request-id"})
		_, _ = f.revocations("admin").Unlock(ctx, &pb.UnlockRequest{LockId: text, Reason: text})
		_, _ = f.credentials("admin").DisableCredential(ctx, &pb.DisableCredentialRequest{Name: text, Reason: text})
		_ = f.conn("admin").Invoke(ctx, "/gatehouse.authority.v1.TokenService/"+text, &pb.RevokeRequest{}, &pb.RevokeResponse{})
		stream, err := f.conn("admin").NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+text+"/Watch")
		f.ok(err)
		f.ok(stream.CloseSend())
		if err := stream.RecvMsg(&pb.RevokeResponse{}); err == nil || err == io.EOF {
			t.Errorf("an unknown method answers %v", err)
		}
	}
	n.end()
	f.spanOf(spans, "gatehouse.authority.v1.NodeService/Redeem")
	f.stop() // all spans have ended
	f.equal("spans begun", len(begun.Started()), len(spans.GetSpans()))
	shown, err := json.Marshal(spans.GetSpans())
	f.ok(err)
	for _, name := range []string{"IntrospectToken", "Unlock", "DisableCredential", "Attach", "redeem batch", "store.Append"} {
		if !strings.Contains(string(shown), name) {
			t.Errorf("no span of %s was looked at", name)
		}
	}
	for _, canary := range []string{"canary", text[:20]} {
		if at := strings.Index(string(shown), canary); at >= 0 {
			t.Errorf("a span tells %q: %s", canary, shown[max(at-200, 0):min(at+100, len(shown))])
		}
	}
	if found := findSecret(string(shown), []string{text}); found != "" {
		t.Error(found)
	}
	if findSecret(string(shown)+text, []string{text}) == "" {
		t.Error("a canary is not found")
	}
}

// TestLogsNameTheTrace proves that a line of a call that is traced says which
// trace it belongs to.
func TestLogsNameTheTrace(t *testing.T) {
	_, on := traced()
	want := `"trace_id":"` + callersTrace + `"`
	for _, c := range []struct {
		rule string
		edit func(*fixture)
		want int
	}{
		{"traced", on, 1},
		{"not traced", func(*fixture) {}, 0},
	} {
		f := newFixture(t, c.edit, func(f *fixture) { f.store = &panickingStore{f.store} })
		if _, err := f.tokens("admin").GetToken(f.within("x"), &pb.GetTokenRequest{TokenId: "01JD8Z0Q4M3T5V7X9ZABCDEFGH"}); err == nil {
			t.Errorf("%s: the call succeeds", c.rule)
		}
		for _, message := range []string{`"msg":"panic"`, `"msg":"call failed"`} {
			found := ""
			for line := range strings.Lines(f.log.String()) {
				if strings.Contains(line, message) {
					found = line
				}
			}
			if n := strings.Count(found, want); found == "" || n != c.want {
				t.Errorf("%s: %d ids in %q, want %d", c.rule, n, found, c.want)
			}
		}
	}
}
