package authorityv1

import "strings"

// Domain is the domain of every google.rpc.ErrorInfo of Gatehouse.
const Domain = "gatehouse"

var labels = func() map[Reason]string {
	m := make(map[Reason]string, len(Reason_name))
	for n, name := range Reason_name {
		m[Reason(n)] = strings.ToLower(strings.TrimPrefix(name, "REASON_"))
	}
	return m
}()

// Label is the reason as metrics, logs and ErrorInfo write it: token_used for
// REASON_TOKEN_USED. A number out of the list is "unspecified".
func (r Reason) Label() string {
	if l, ok := labels[r]; ok {
		return l
	}
	return labels[Reason_REASON_UNSPECIFIED]
}
