package authority

import (
	"context"
	"time"
)

// maxHold is the longest that a receipt holds tokens up. A hundred nodes have
// enforced the entry by then; a silent one may not for an hour.
const maxHold = 10 * time.Millisecond

// hold has tokens wait while nodes enforce an entry. Each message to a node and
// each acknowledgement would stand in line with as many tokens as are asked for.
type hold struct {
	over context.Context
	end  context.CancelFunc
}

func newHold() *hold {
	over, end := context.WithTimeout(context.Background(), maxHold)
	return &hold{over, end}
}

// giveWay waits until the entry is enforced whose receipt was opened last, or for
// maxHold. What is opened meanwhile holds up only who comes later, so that no rate
// of revocations keeps tokens from being issued.
func (r *receipts) giveWay() {
	if h := r.newest.Load(); h != nil {
		<-h.over.Done()
	}
}
