package main

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// written are the messages that commands write as JSON.
var written = []proto.Message{
	&pb.Token{}, &pb.IssueTokenResponse{}, &pb.IntrospectTokenResponse{}, &pb.Session{}, &pb.Node{}, &pb.Credential{}, &pb.IssuedCredential{},
	&pb.Revocation{}, &pb.Lock{}, &pb.Receipt{}, &pb.ReceiptRow{}, &pb.UnlockResponse{}, &pb.SessionLimits{},
}

// Scripts may rely on every field to be there, whatever its value.
func TestJSONHasEveryField(t *testing.T) {
	for _, m := range written {
		var got map[string]any
		if err := json.Unmarshal(appendMessage(nil, m.ProtoReflect()), &got); err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		fields := m.ProtoReflect().Descriptor().Fields()
		var want []string
		for i := range fields.Len() {
			want = append(want, string(fields.Get(i).Name()))
		}
		for _, name := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%T: no %s", m, name)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%T: %v, want %v", m, got, want)
		}
	}
}

func TestJSONForms(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    proto.Message
		want string
	}{
		{"nothing is null, zero, or empty", &pb.Node{}, `{"name": "", "instance_id": "", "attached": false, "registered_at": null, "last_heartbeat_at": null, "applied": null, "sessions": 0, "version": "", "address": "", "state": "unspecified", "behind": 0}`},
		{"times are UTC", &pb.Revocation{CommittedAt: timestamppb.New(testNow.In(testZone).Add(120 * time.Millisecond)), Selector: &pb.Selector{By: &pb.Selector_Tenant{Tenant: "a"}}},
			`{"revision": null, "selector": {"tenant": "a"}, "reason": "", "actor": "", "committed_at": "2026-11-23T12:00:00.12Z", "grace_until": null}`},
		{"a certificate is named as x5t#S256", &pb.IssueTokenRequest{ClientCertificateSha256: bytes.Repeat([]byte{0xfb}, 32), Limits: &pb.SessionLimits{}},
			`{"subject": "", "tenant": "", "audience": "", "client_ip": "", "user_agent": "", "origin": "", "attributes": {}, "scopes": [], "limits": {"message_bytes": 0, "messages_per_second": 0, "sessions_per_subject": 0}, "max_uses": 0, "not_before": null, "ttl": null, "session_ttl": null, "ip_binding": "unspecified", "user_agent_binding": "unspecified", "client_certificate_sha256": "-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s"}`},
		{"an empty oneof", &pb.Selector{}, `{}`},
		{"counts are numbers, to the last one", &pb.RevokeResponse{Tokens: 1<<64 - 1}, `{"revision": null, "committed_at": null, "tokens": 18446744073709551615, "sessions": 0, "grace_until": null}`},
		{"revisions are what revocation show takes", &pb.UnlockResponse{Revision: &pb.Revision{Epoch: 1<<64 - 1, Sequence: 2}}, `{"revision": "18446744073709551615.2"}`},
		{"durations are seconds", &pb.ReceiptRow{After: durationpb.New(1500 * time.Microsecond)}, `{"node": "", "instance_id": "", "enforced": false, "closed": 0, "lingering": 0, "after": "0.0015s", "deadline": null, "departed": "", "in_grace": false}`},
		{"an enum's value of tomorrow is its number", &pb.Credential{Role: 99}, `{"name": "", "role": "99", "tenants": [], "audiences": [], "max_ttl": null, "tokens_per_second": 0, "disabled": false, "created_at": null, "api_key": false, "generation": 0}`},
		{"text stays text", &pb.Lock{Reason: "<a> & \"b\" \\ é \u202e \u009b \U000e0001 \x1b\n"},
			`{"lock_id": "", "selector": null, "reason": "<a> & \"b\" \\ é \u202e \u009b \udb40\udc01 \u001b\n", "actor": "", "committed_at": null, "revision": null}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := string(appendMessage(nil, tc.m.ProtoReflect()))
			if got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
			if !json.Valid([]byte(got)) {
				t.Error("not JSON")
			}
		})
	}
	var lock struct{ Reason string }
	m := &pb.Lock{Reason: "\u202e\u009b\U000e0001\x1b"}
	if err := json.Unmarshal(appendMessage(nil, m.ProtoReflect()), &lock); err != nil || lock.Reason != m.GetReason() {
		t.Errorf("%q comes back as %q, %v", m.GetReason(), lock.Reason, err)
	}
	maps := &pb.Token{Attributes: map[string]string{"b": "2", "a": "1", "c": "3"}, Scopes: []string{"x", "y"}, SessionIds: []string{testSession}}
	if got := string(appendMessage(nil, maps.ProtoReflect())); !strings.Contains(got, `"attributes": {"a": "1", "b": "2", "c": "3"}, "scopes": ["x", "y"]`) {
		t.Error(got)
	}
}

func TestSecondsText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "0s",
		1:                        "0.000000001s",
		-1:                       "-0.000000001s",
		500 * time.Millisecond:   "0.5s",
		-1500 * time.Millisecond: "-1.5s",
		10 * time.Second:         "10s",
		3099114865:               "3.099114865s", // as a float 3.0991148649999998
		100 * time.Hour:          "360000s",
		math.MaxInt64:            "9223372036.854775807s",
		math.MinInt64:            "-9223372036.854775808s",
	} {
		if got := secondsText(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// FuzzJSON proves that any text of a peer comes back as it was, but for what is
// not UTF-8, and that no hidden character reaches a terminal.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{"", "a\x1b[31m", "\u202ec", "\xff\xfe", "\"\\", "\U000e0001", "\u2028", "\x7f\u0085"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out := appendMessage(nil, (&pb.Session{UserAgent: []byte(text)}).ProtoReflect())
		if i := slices.IndexFunc([]rune(string(out)), hidden); i >= 0 {
			t.Fatalf("%q holds a hidden character", out)
		}
		var back struct {
			UserAgent string `json:"user_agent"`
		}
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if want := string([]rune(text)); back.UserAgent != want { // each odd byte becomes U+FFFD
			t.Fatalf("%q comes back as %q", text, back.UserAgent)
		}
	})
}

// FuzzPlain proves that a terminal shows what was made plain and nothing else.
func FuzzPlain(f *testing.F) {
	for _, seed := range []string{"", "a b", "\x1b[31m", "\xff", "\ufffd", "\u202e\t\n", `\x1b`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := plain(text)
		if i := slices.IndexFunc([]rune(got), hidden); i >= 0 {
			t.Fatalf("%q becomes %q", text, got)
		}
		if slices.IndexFunc([]rune(text), hidden) < 0 && strings.ToValidUTF8(text, "") == text && got != text {
			t.Fatalf("%q was plain and becomes %q", text, got)
		}
	})
}

func TestEnumLabels(t *testing.T) {
	var binding pb.IpBinding
	f := enumFlag[pb.IpBinding]{&binding}
	for _, l := range f.labels() {
		if err := f.Set(l); err != nil || f.String() != l || label(binding) != l {
			t.Errorf("%s: %v, %s", l, err, f.String())
		}
	}
	for _, bad := range []string{"", "unspecified", "UNSPECIFIED", "none"} {
		if err := f.Set(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if got := enumPrefix(pb.Reason(0).Descriptor()); got != "REASON_" {
		t.Error(got)
	}
	var _ protoreflect.Enum = binding
}
