package limit

import "time"

// Rule names a limit. Its text is the key of its configuration, and a metric
// label.
type Rule uint8

// The rules, in the order in which they are checked.
const (
	NoRule Rule = iota
	Sockets
	Unauthenticated
	// TableFull refuses an address for which there is no room in the table. It
	// bounds the node's memory, so it has no dry_run.
	TableFull
	UnauthenticatedPerAddress
	NewPerAddress
	AuthenticatedPerAddress
	ruleCount
)

var ruleNames = [ruleCount]string{
	"", "sockets", "unauthenticated", "addresses", "unauthenticated_per_address", "new_per_address", "authenticated_per_address",
}

// String is the rule's key in the configuration.
func (r Rule) String() string {
	if r >= ruleCount {
		return "unknown"
	}
	return ruleNames[r]
}

// Rules is a set of rules.
type Rules uint8

// Has reports whether r is in the set.
func (rs Rules) Has(r Rule) bool { return rs&(1<<r) != 0 }

// Decision answers for one socket. The zero Decision refuses.
type Decision struct {
	Allow bool
	// Rule is the one that refused; NoRule where Allow is set.
	Rule Rule
	// Action is what the refused socket meets.
	Action Action
	// RetryAfter is how long until NewPerAddress would let the address in; zero
	// for rules that wait for other sockets to go.
	RetryAfter time.Duration
	// Dry holds the rules that would have refused, were they not in dry_run.
	Dry Rules
}

// exceeded notes that rule r is broken, and reports whether that refuses.
func (d *Decision) exceeded(r Rule, action Action, dryRun bool) bool {
	if dryRun {
		d.Dry |= 1 << r
		return false
	}
	d.Rule, d.Action = r, action
	return true
}

// over checks that one more fits under a ceiling, and reports whether not.
func (d *Decision) over(c *Ceiling, r Rule, have uint32) bool {
	return int64(have) >= int64(c.Max) && d.exceeded(r, c.Action, c.DryRun)
}
