package authority

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// redeemRequests are some of each shape: the codec reads the first by itself.
func redeemRequests() []*pb.RedeemRequest {
	full := func() *pb.RedeemItem {
		return &pb.RedeemItem{
			TokenId: make([]byte, 16), Digest: make([]byte, 32), SessionId: []byte("0123456789abcdef"), Audience: "chat",
			Observed:      &pb.Observation{Ip: []byte{192, 0, 2, 1}, UserAgent: []byte("Mozilla/5.0"), Origin: []byte("https://app.example.com"), ClientCertificateSha256: make([]byte, 32)},
			SingleUseOnly: true, RenewsSessionId: make([]byte, 16), Span: make([]byte, 24),
		}
	}
	other := full()
	other.Audience, other.Observed, other.SingleUseOnly = "game", &pb.Observation{}, false
	crowd := make([]*pb.RedeemItem, maxBatch+1)
	for i := range crowd {
		crowd[i] = &pb.RedeemItem{}
	}
	return []*pb.RedeemRequest{
		{Items: []*pb.RedeemItem{full(), other, {}, full()}},
		{Hello: &pb.RedeemHello{InstanceId: make([]byte, 16)}},
		{Hello: &pb.RedeemHello{}, Items: []*pb.RedeemItem{full()}},
		{Items: crowd},
		{},
	}
}

func redeemResponses() []*pb.RedeemResponse {
	grant := func(g *pb.Grant) *pb.RedeemResult { return &pb.RedeemResult{Outcome: &pb.RedeemResult_Grant{Grant: g}} }
	full := grant(&pb.Grant{
		Tenant: "acme", Subject: "ada", Scopes: []string{"chat", ""}, Attributes: map[string]string{"plan": "gold", "": "x", "y": ""},
		SessionExpiresAt: timestamppb.New(time.Unix(1_800_000_000, 5)), Issuer: "login", ClientIp: []byte{192, 0, 2, 1},
		IssuedRevision: &pb.Revision{Epoch: 1 << 63, Sequence: 7}, AsOf: &pb.Revision{},
	})
	many := make([]*pb.RedeemResult, 200) // above what grpc takes from its pool
	for i := range many {
		many[i] = full
	}
	return []*pb.RedeemResponse{
		{Results: many},
		{Results: []*pb.RedeemResult{full, grant(&pb.Grant{})}},
		{Results: append(many, grant(&pb.Grant{SessionExpiresAt: &timestamppb.Timestamp{Seconds: -1, Nanos: -1}}))},
		{Results: append(many, grant(&pb.Grant{Limits: &pb.SessionLimits{MessagesPerSecond: 5}}))},
		{Results: append(many, &pb.RedeemResult{Outcome: &pb.RedeemResult_Refusal{Refusal: &pb.Refusal{Reason: pb.Reason_REASON_TOKEN_USED, RetryAfter: durationpb.New(time.Second)}}})},
		{Results: append(many, &pb.RedeemResult{})},
		{Hello: &pb.Hello{Version: "1"}, Results: many},
		{Results: append(many, grant(&pb.Grant{Tenant: "\xff"}))},
		{},
	}
}

// TestCodecReadsByItself proves that what nodes send usually takes the short way.
func TestCodecReadsByItself(t *testing.T) {
	for i, req := range redeemRequests() {
		text, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := readRedeemRequest(text, &pb.RedeemRequest{}); got != (i == 0) {
			t.Errorf("request %d: %t", i, got)
		}
	}
	for i, resp := range redeemResponses()[:5] {
		if _, ok := sizeRedeemResponse(resp); ok != (i < 3) {
			t.Errorf("response %d: %t", i, ok)
		}
	}
}

// FuzzCodec compares the codec with grpc's own.
func FuzzCodec(f *testing.F) {
	for _, req := range redeemRequests() {
		text, _ := proto.Marshal(req)
		f.Add(text)
		f.Add(append(text, text...))
		f.Add(text[:len(text)/2])
	}
	for _, resp := range redeemResponses() {
		text, _ := proto.MarshalOptions{}.Marshal(resp)
		f.Add(text)
	}
	f.Add([]byte{0x12, 6, 0x2a, 4, 'c', 'h', 0xff, 't'})
	c := newCodec()
	f.Fuzz(func(t *testing.T, text []byte) {
		var got, want pb.RedeemRequest
		err, wantErr := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(text)}, &got), c.CodecV2.Unmarshal(mem.BufferSlice{mem.SliceBuffer(text)}, &want)
		if (err == nil) != (wantErr == nil) || err == nil && !proto.Equal(&got, &want) {
			t.Fatalf("read\n%v, %v, want\n%v, %v", &got, err, &want, wantErr)
		}
		var resp pb.RedeemResponse
		if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, &resp) == nil {
			checkWritten(t, c, &resp)
		}
	})
}

func TestCodecWrites(t *testing.T) {
	for _, resp := range redeemResponses() {
		checkWritten(t, newCodec(), resp)
	}
}

// TestCodecEncodesOnce proves that streams which send the same message share its
// encoding, and that who frees one spoils nothing for the others.
func TestCodecEncodesOnce(t *testing.T) {
	m := &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{Through: &pb.Revision{Epoch: 1, Sequence: 2}}}}
	want, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	many := newForMany(m)
	for range 3 {
		wire, err := newCodec().Marshal(many)
		if err != nil || !bytes.Equal(wire.Materialize(), want) {
			t.Fatalf("%x, %v, want %x", wire.Materialize(), err, want)
		}
		wire.Free()
	}
	first, _ := many.encode()
	if again, _ := many.encode(); &first[0] != &again[0] {
		t.Error("encoded again")
	}
}

// checkWritten proves that a response is read as what it was before it was
// written, and takes the bytes that it was said to.
func checkWritten(t *testing.T, c codec, resp *pb.RedeemResponse) {
	t.Helper()
	written, err := c.Marshal(resp)
	want, wantErr := proto.Marshal(resp)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("written %v, want %v", err, wantErr)
	}
	if err != nil {
		return
	}
	defer written.Free()
	var again pb.RedeemResponse
	if err := proto.Unmarshal(written.Materialize(), &again); err != nil || !proto.Equal(&again, resp) || written.Len() != len(want) {
		t.Fatalf("written in %d bytes, want %d: read as\n%v, %v, was\n%v", written.Len(), len(want), &again, err, resp)
	}
}
