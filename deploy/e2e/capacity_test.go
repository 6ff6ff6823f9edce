//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// A node that may open few files says at its start how many sockets that is, and
// refuses those above, while it has descriptors enough to do so.
func TestCapacity(t *testing.T) {
	const files, sockets = 400, 44 // 100 are left to what else is open, and 256 to sockets that are being refused
	s := newSystem(t)
	s.underNode = []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", files, files)}
	n := s.addNode("node-1", "")
	for _, line := range []string{
		fmt.Sprintf(`"msg":"the limit on open files allows fewer sockets than limits.sockets.max: raise it, or start more nodes","configured":100000,"sockets_max":%d`, sockets),
		fmt.Sprintf(`"sockets_max":%d,"routes"`, sockets),
	} {
		n.says(line)
	}
	admin := s.dial("")
	next := func() offer {
		return offer{url: "ws://" + n.plain + "/chat", bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()}
	}
	var open []*socket
	for range sockets {
		open = append(open, mustOpen(t, next()))
	}
	for range 3 {
		wantStatus(t, next(), http.StatusServiceUnavailable)
	}
	for _, sock := range open {
		sock.echo(hello)
	}
	_ = open[0].nc.Close()
	eventually(t, "the place of who has gone is free", func() bool {
		_, metrics := get("http://" + n.admin + "/metrics")
		return strings.Contains(metrics, fmt.Sprintf("\ngatehouse_node_sockets %d\n", sockets-1))
	})
	mustOpen(t, next()).echo(hello)
}
