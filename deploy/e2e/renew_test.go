//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// A client of others renews its token on an open socket: the socket is the new
// token's then, for revocations and for lists, and its messages go on.
func TestForeignClientsRenew(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	for i, f := range foreigners(t) {
		t.Run(f.name, func(t *testing.T) {
			subject := "renewer-" + string(rune('a'+i))
			issue := func(ttl time.Duration) *pb.IssueTokenResponse {
				return s.issue(admin, &pb.IssueTokenRequest{Subject: subject, SessionTtl: durationOf(ttl)})
			}
			first, second := issue(10*time.Minute), issue(2*time.Hour)
			c := f.start(t, asked{
				URL: "wss://localhost:" + port(n.wss) + "/chat", CA: filepath.Join(s.state, "ca", "ca.crt"),
				Protocols: []string{"gatehouse.v1", "gatehouse.token." + first.GetToken()}, Origin: "https://app.example.com",
				Send: []string{hello, `{"gatehouse": "renew", "token": "` + second.GetToken() + `"}`, hello}, Last: true,
			})
			c.want("open")
			echoes, renewed := 0, ""
			for range 3 { // the answer to the renewal holds up no message
				if m := c.want("message"); m.Data == hello {
					echoes++
				} else {
					renewed = m.Data
				}
			}
			var answer struct {
				Gatehouse string    `json:"gatehouse"`
				ExpiresAt time.Time `json:"expires_at"`
			}
			if err := json.Unmarshal([]byte(renewed), &answer); err != nil || echoes != 2 || answer.Gatehouse != "renewed" ||
				time.Until(answer.ExpiresAt) < time.Hour {
				t.Fatalf("%d echoes and the answer %q", echoes, renewed)
			}
			var list struct {
				Sessions []struct {
					TokenID string `json:"token_id"`
				} `json:"sessions"`
			}
			wantOne := func(what string) {
				t.Helper()
				eventually(t, what, func() bool {
					s.cli("session", "list", "--subject", subject, "-o", "json").want(t, 0).decode(t, &list)
					return len(list.Sessions) == 1 && list.Sessions[0].TokenID == second.GetTokenId()
				})
			}
			wantOne("the session of the new token alone")
			s.cli("revoke", "--token", first.GetTokenId()).want(t, 0) // with its receipt
			wantOne("the same session after the old token was revoked")
			s.cli("revoke", "--token", second.GetTokenId()).want(t, 0)
			if got := c.want("close"); got.Code != 4501 || got.Reason != "token revoked" {
				t.Errorf("closed with %d %q", got.Code, got.Reason)
			}
		})
	}
}
