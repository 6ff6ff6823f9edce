//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// A node whose log's disk is full serves as before, on either driver: it counts the
// lines that it has lost, and logs again once there is room.
func TestFullDiskOfALog(t *testing.T) {
	s := newSystem(t)
	disk := smallDisk(t, filepath.Join(s.dir, "logs"), "64k")
	admin := s.dial("")
	for _, driver := range []string{"auto", "portable"} {
		log, ballast := filepath.Join(disk, driver), filepath.Join(disk, "ballast")
		s.underNode = []string{"sh", "-c", `exec "$@" 2>>` + log, "sh"}
		n := s.addNode("node-"+driver, "\nsockets: {driver: "+driver+"}\n")
		meet := func() {
			t.Helper()
			for _, o := range []offer{{url: "ws://" + n.plain + "/chat"}, {url: "wss://" + n.wss + "/chat", tls: s.clientTLS()}} {
				o.bearer = s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()
				sock := mustOpen(t, o)
				sock.echo(hello)
				sock.send(`{"type":"admin"}`)
				sock.wantClose(1008, "message not allowed")
			}
		}
		lost := func() bool {
			_, text := get("http://" + n.admin + "/metrics")
			return !strings.Contains(text, "\ngatehouse_node_log_lines_lost_total 0\n")
		}
		if lost() {
			t.Error("lines are lost before the disk is full")
		}
		if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
		meet() // a line may fit yet
		eventually(t, "lines are lost", func() bool {
			meet()
			return lost()
		})
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the node logs again", func() bool {
			had, _ := os.ReadFile(log)
			meet()
			has, _ := os.ReadFile(log)
			return len(has) > len(had)
		})
		eventually(t, "nothing is left", func() bool {
			_, text := get("http://" + n.admin + "/metrics")
			return strings.Contains(text, "\ngatehouse_node_sockets 0\n") && strings.Contains(text, "\ngatehouse_node_outbound_queued_bytes 0\n")
		})
		n.stop()
	}
}
