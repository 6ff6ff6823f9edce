//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestPeersAreBounded proves promise 6 of a node as it comes: no setting is
// needed for a limit to be there.
func TestPeersAreBounded(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	offered := func(path string) offer {
		return offer{url: "ws://" + n.plain + path, bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()}
	}
	long := offered("/chat")
	long.header = http.Header{"X-Long": {strings.Repeat("x", 20_000)}}
	wantStatus(t, long, http.StatusRequestHeaderFieldsTooLarge)
	sock := mustOpen(t, offered("/raw"))
	sock.send(strings.Repeat("x", 65_537))
	sock.wantClose(1009, "message too big")
	sock = mustOpen(t, offered("/chat"))
	for range 300 {
		sock.send(hello)
	}
	sock.wantClose(4029, "too many messages")
}

// TestOnlyWhatSchemasAccept proves promise 7: what no schema accepts reaches no
// application, and a tunnel is not even opened.
func TestOnlyWhatSchemasAccept(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	offered := func() offer {
		return offer{url: "ws://" + n.plain + "/chat", bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()}
	}
	for text, code := range map[string]int{
		`{"type":"admin"}`: 1008, `{"type":"chat","text":1}`: 1008, `{"type":"chat","text":"a","to":"b"}`: 1008,
		`SSH-2.0-OpenSSH_9.9`: 1007, `{"type":"chat","type":"chat","text":"a"}`: 1007,
	} {
		sock := mustOpen(t, offered())
		sock.echo(hello)
		sock.send(text)
		got, err := sock.receive()
		if c, ok := err.(*errClosed); !ok || int(c.code) != code {
			t.Errorf("%s: %q, %v, want close %d", text, got, err, code)
		}
	}
	tunnel := offered()
	tunnel.header = http.Header{"Sec-WebSocket-Protocol": {"binary, base64"}} // websockify's
	wantStatus(t, tunnel, http.StatusForbidden)
}
