package authority_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestRefusalsAreSampled proves of promise 8 that refusals beyond a rate are
// counted by reason and told, and that grants all have their lines.
func TestRefusalsAreSampled(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) { r.MaxUses = 50 }).GetToken()
	for range 15 {
		items := make([]*pb.RedeemItem, 100)
		for i := range items {
			items[i] = n.item(issued)
		}
		n.batch(items...)
	}
	count := func(outcome string) (lines int, skipped float64) {
		for _, l := range f.lines() {
			switch {
			case l["outcome"] == outcome && l["action"] == "Redeem":
				lines++
				if before, ok := l["skipped_before"].(float64); ok {
					skipped += before
				}
			case l["outcome"] == outcome && l["action"] == "Skipped":
				skipped += l["lines"].(float64)
			}
		}
		return lines, skipped
	}
	lines, _ := count("ok")
	f.equal("lines of grants", lines, 50)
	lines, skipped := count("token_used")
	f.equal("lines of refusals", fmt.Sprint(lines, skipped), "1000 0")
	f.clock.advance(10 * time.Millisecond) // room for one more
	n.batch(n.item(issued))
	n.batch(n.item(issued))
	lines, skipped = count("token_used")
	f.equal("lines of refusals", fmt.Sprint(lines, skipped), "1001 450")
	f.ok(f.service.Tend(f.ctx))
	lines, skipped = count("token_used")
	f.equal("lines and what they tell", fmt.Sprint(lines, skipped), "1001 451")
	f.equal("the line of those that no refusal told of", f.lastLine("Skipped"), "caller=authority lines=1 of=Redeem outcome=token_used")
	n.batch(n.item(issued))
	f.stop()
	if got := f.audit.String(); strings.Count(got, `"of":"Redeem","lines":1,"caller":"authority","outcome":"token_used"`) != 2 {
		t.Error("what was skipped just before the end is not told")
	}
}
