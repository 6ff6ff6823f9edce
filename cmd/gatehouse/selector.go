package main

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// selector says what a revocation or lock hits.
type selector struct {
	by     string // the flag that chose it
	value  string
	tenant string // of a subject; empty for the authority's choice
}

// wide reports whether it may hit more than one user.
func (s selector) wide() bool {
	return s.by == "tenant" || s.by == "ip-prefix" || s.by == "issuer" || s.by == allSubjects
}

func (s selector) String() string {
	if s.by == allSubjects {
		return s.value
	}
	text := strings.ReplaceAll(s.by, "-", " ") + " " + s.value
	if s.tenant != "" {
		text += " of tenant " + s.tenant
	}
	return text
}

// elsewhere says what else to look at when nothing is hit.
func (s selector) elsewhere() string {
	if s.by == "subject" && s.tenant == "" {
		return ", and --tenant, since subjects are of a tenant"
	}
	return ""
}

func (s selector) proto() *pb.Selector {
	switch s.by {
	case "token":
		return &pb.Selector{By: &pb.Selector_TokenId{TokenId: s.value}}
	case "session":
		return &pb.Selector{By: &pb.Selector_SessionId{SessionId: s.value}}
	case "subject":
		return &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: s.tenant, Subject: s.value}}}
	case "tenant":
		return &pb.Selector{By: &pb.Selector_Tenant{Tenant: s.value}}
	case "ip-prefix":
		return &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: s.value}}
	case allSubjects:
		return &pb.Selector{By: &pb.Selector_AllSubjects{AllSubjects: true}}
	}
	return &pb.Selector{By: &pb.Selector_Issuer{Issuer: s.value}}
}

func (s selector) lockProto() *pb.LockSelector {
	switch s.by {
	case "subject":
		return &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: s.tenant, Subject: s.value}}}
	case "tenant":
		return &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: s.value}}
	case "ip-prefix":
		return &pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: s.value}}
	}
	return &pb.LockSelector{By: &pb.LockSelector_Issuer{Issuer: s.value}}
}

// selectorHelp are the flags that choose a selector, in the order of help.
var selectorHelp = []struct{ flag, help string }{
	{"token", "the token with this id, and the sessions it opened"},
	{"session", "the session with this id"},
	{"subject", "all tokens and sessions of a user, of --tenant if given"},
	{"tenant", "all tokens and sessions of a tenant"},
	{"ip-prefix", "all tokens and sessions of addresses in this CIDR prefix"},
	{"issuer", "all tokens that this credential issued, and their sessions"},
	{allSubjects, "all tokens and sessions of everyone, in every tenant"},
}

// allSubjects is the flag that hits everyone, who must be meant.
const allSubjects = "all-subjects"

var everyone = selector{by: allSubjects, value: "all subjects"}

// selectorFlags declares the flags for all selectors but those in without.
func selectorFlags(f *pflag.FlagSet, without ...string) {
	for _, s := range selectorHelp {
		switch {
		case slices.Contains(without, s.flag):
		case s.flag == allSubjects:
			f.Bool(s.flag, false, s.help)
		default:
			f.String(s.flag, "", s.help)
		}
	}
}

// parseSelector reads the one selector that was given. beside names a flag that
// counts as a selector too and is none of these; if it was given alone, found
// is false.
func parseSelector(cmd *cobra.Command, beside string) (s selector, found bool, err error) {
	var known, given []string
	for _, h := range selectorHelp {
		f := cmd.Flags().Lookup(h.flag)
		if f == nil {
			continue
		}
		known = append(known, "--"+h.flag)
		if !f.Changed {
			continue
		}
		given = append(given, "--"+h.flag)
		switch v := f.Value.String(); {
		case h.flag == allSubjects && v != "true":
			return s, false, usagef("--%s=%s does not say what to hit", h.flag, v)
		case v == "":
			return s, false, usage("an unset shell variable, perhaps", "--%s is empty: say what to hit", h.flag)
		}
		if h.flag == "tenant" && s.by == "subject" {
			s.tenant = f.Value.String()
			given = given[:len(given)-1]
			continue
		}
		s.by, s.value = h.flag, f.Value.String()
	}
	if s.by == allSubjects {
		s = everyone
	}
	if beside != "" {
		known = append(known, "--"+beside)
		if cmd.Flags().Changed(beside) {
			given = append(given, "--"+beside)
		}
	}
	hint := cmd.CommandPath() + " --help has examples"
	switch {
	case len(given) == 0:
		return s, false, usage(hint, "say what to hit with exactly one of %s", strings.Join(known, ", "))
	case len(given) > 1:
		return s, false, usage(hint, "%s were given: say what to hit with exactly one of %s", strings.Join(given, " and "), strings.Join(known, ", "))
	case s.by == "":
		return s, false, nil
	}
	return s, true, s.check()
}

// check finds values that can't be meant before anything is asked or done.
func (s *selector) check() error {
	switch s.by {
	case "token":
		id, err := token.ParseID(s.value)
		if err != nil {
			return usage("gatehouse token list shows ids; gatehouse revoke --token-stdin reads tokens' texts", "--token: %q is %w", s.value, err)
		}
		s.value = id.String()
	case "session":
		if !isID(s.value) {
			return usage("gatehouse session list shows ids", "%q is not a session id: want 32 hexadecimal digits", s.value)
		}
	case "ip-prefix":
		return checkPrefix(s.value)
	}
	return nil
}

// isID reports whether v has the form of a session's, a lock's or an instance's id.
func isID(v string) bool {
	id, err := hex.DecodeString(v)
	return err == nil && len(id) == 16
}

func checkPrefix(v string) error {
	_, err := netip.ParsePrefix(v)
	if _, single := netip.ParseAddr(v); err != nil && single != nil {
		return usagef("--ip-prefix: %q is neither a CIDR prefix such as 203.0.113.0/24 nor an address", v)
	}
	return nil
}

// checkFilters refuses filters of a list that were given and filter nothing: an
// empty one would list everything.
func checkFilters(cmd *cobra.Command, prefix string) error {
	var err error
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && f.Value.String() == "" && err == nil {
			err = usage("an unset shell variable, perhaps", "--%s is empty: leave it out to list all", f.Name)
		}
	})
	if err == nil && prefix != "" {
		err = checkPrefix(prefix)
	}
	return err
}

// selectorOf reads what the authority says that a revocation hits.
func selectorOf(in *pb.Selector) selector {
	switch by := in.GetBy().(type) {
	case *pb.Selector_TokenId:
		return selector{by: "token", value: by.TokenId}
	case *pb.Selector_SessionId:
		return selector{by: "session", value: by.SessionId}
	case *pb.Selector_Subject:
		return selector{by: "subject", value: by.Subject.GetSubject(), tenant: by.Subject.GetTenant()}
	case *pb.Selector_Tenant:
		return selector{by: "tenant", value: by.Tenant}
	case *pb.Selector_IpPrefix:
		return selector{by: "ip-prefix", value: by.IpPrefix}
	case *pb.Selector_Issuer:
		return selector{by: "issuer", value: by.Issuer}
	case *pb.Selector_AllSubjects:
		return everyone
	}
	return selector{by: "unknown"}
}

// lockSelectorOf reads what the authority says that a lock denies.
func lockSelectorOf(in *pb.LockSelector) selector {
	switch by := in.GetBy().(type) {
	case *pb.LockSelector_Subject:
		return selector{by: "subject", value: by.Subject.GetSubject(), tenant: by.Subject.GetTenant()}
	case *pb.LockSelector_Tenant:
		return selector{by: "tenant", value: by.Tenant}
	case *pb.LockSelector_IpPrefix:
		return selector{by: "ip-prefix", value: by.IpPrefix}
	case *pb.LockSelector_Issuer:
		return selector{by: "issuer", value: by.Issuer}
	}
	return selector{by: "unknown"}
}
