package authority_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestEnforcementIsAudited proves that the trail says which node has closed what
// and when a receipt was complete, once each.
func TestEnforcementIsAudited(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	r := f.revoke(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "acme"}}).GetRevision()
	n.next()
	for range 3 {
		n.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 2, Lingering: 1})
	}
	n.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 3})
	f.eventually("two lines", func() bool { f.trail.Flush(); return strings.Count(f.audit.String(), `"action":"Enforced"`) == 2 })
	f.equal("line", f.lastLine("Enforced"), fmt.Sprintf("caller=node-1 closed=3 instance_id=%x lingering=0 node=node-1 outcome=ok revision=%d", n.id, r.GetSequence()))
	f.clock.advance(time.Second)
	f.ok(f.service.Tend(f.ctx))
	f.ok(f.service.Tend(f.ctx))
	f.equal("line", f.lastLine("ReceiptComplete"), fmt.Sprintf("after_ms=0 caller=authority closed=3 instances=1 outcome=ok revision=%d", r.GetSequence()))
	f.equal("lines", strings.Count(f.audit.String(), `"action":"ReceiptComplete"`), 1)
}
