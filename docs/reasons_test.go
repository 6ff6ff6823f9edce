// Package docs has no code: its tests keep the pages true.
package docs

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-ws/gatehouse/authority"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode"
)

var update = flag.Bool("update", false, "write reasons.md, metrics.md and lint.md anew")

// reasons.md is what the three tables and the proto's comments say, and leaves
// no reason out.
func TestReasonsPage(t *testing.T) {
	page := reasonsPage(t)
	for number := range pb.Reason_name {
		if r := pb.Reason(number); r != 0 && !strings.Contains(page, "| `"+r.Label()+"` |") {
			t.Errorf("no table has the reason %s", r.Label())
		}
	}
	if *update {
		if err := os.WriteFile("reasons.md", []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile("reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != page {
		t.Error("reasons.md is out of date: go test ./docs -update")
	}
}

func reasonsPage(t *testing.T) string {
	meaning := meanings(t)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`# Reasons

Written by ` + "`go test ./docs -update`" + ` from the tables in the code.

Every refusal, close and failed call has one reason of this list. Logs, metrics and the audit trail name it as here. The peer of a refused handshake learns less: what a token can be wrong by looks all alike to it. The answer's field ` + "`Gatehouse-Handshake`" + ` is the id under which the node's log, and for what the authority decided its audit trail, have the exact reason.

Close codes 4000 to 4499 say that a client may come back; 4500 to 4999 that it must not.

## Refused opening handshakes

The peer is answered with an HTTP status and the words of the third column or, on routes with ` + "`refuse_by_close`" + `, with 101 and at once a close frame. "Again" says whether coming back may help, and the answer's ` + "`Retry-After`" + ` when; the same token will do unless the authority had been asked before, which only the log tells. Limits whose action is ` + "`drop`" + ` reset the connection instead, and a PROXY header at fault ends it without a word.

| reason | meaning | told | status | close code | again |
| --- | --- | --- | --- | --- | --- |`)
	for _, r := range wsnode.Refusals() {
		line("| `%s` | %s | `%s` | %d | %d | %s |", r.Reason.Label(), meaning[r.Reason], r.Text, r.Status, r.Code, yes(r.Again))
	}
	line("| `%s` | %s | nothing | | | yes |", pb.Reason_REASON_TLS_FAILED.Label(), meaning[pb.Reason_REASON_TLS_FAILED])
	line(`
## Closed sockets

"Again" says whether a client may come back, with a new token. Rows told ` + "`token_inactive` or `forbidden`" + ` are of renewals ([protocol.md](protocol.md)) that were refused: their peers learn no more than at an opening handshake.

| reason | meaning | close code | told | again |
| --- | --- | --- | --- | --- |`)
	for _, c := range wsnode.Closes() {
		code, text := fmt.Sprint(c.Code), "`"+c.Text+"`"
		switch {
		case c.Reason == pb.Reason_REASON_APPLICATION_CLOSED:
			code, text = "the application's", "what the application says"
		case c.Reason == pb.Reason_REASON_PEER_CLOSED:
			code, text = "the peer's", "nothing"
		case c.Reason == pb.Reason_REASON_DRAINING:
			text += " and a slot to come back in"
		case c.Code == 0:
			code, text = "none", "nothing"
		}
		line("| `%s` | %s | %s | %s | %s |", c.Reason.Label(), meaning[c.Reason], code, text, yes(c.Again))
	}
	line("| `%s` | %s | none | nothing | |", pb.Reason_REASON_RENEWED.Label(), meaning[pb.Reason_REASON_RENEWED])
	line(`
## Failed calls

The reason is that of the `+"`google.rpc.ErrorInfo`"+`, with the domain `+"`%s`"+`. "Again" says that the same call may succeed later; its `+"`google.rpc.RetryInfo`"+` says when. Calls that their caller gave up end with `+"`Canceled` or `DeadlineExceeded`"+` and no reason.

| reason | meaning | status code | again |
| --- | --- | --- | --- |`, pb.Domain)
	for _, f := range authority.Failures() {
		line("| `%s` | %s | `%s` | %s |", f.Reason.Label(), meaning[f.Reason], f.Code, yes(f.Again))
	}
	return b.String()
}

func yes(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

var value = regexp.MustCompile(`((?:  // .*\n)+)  (REASON_\w+) = (\d+);`)

// meanings are the comments of the proto's values.
func meanings(t *testing.T) map[pb.Reason]string {
	source, err := os.ReadFile("../proto/gatehouse/authority/v1/reason.proto")
	if err != nil {
		t.Fatal(err)
	}
	out := map[pb.Reason]string{}
	for _, m := range value.FindAllStringSubmatch(string(source), -1) {
		text := strings.ReplaceAll(strings.TrimSpace(m[1]), "\n  // ", " ")
		out[pb.Reason(pb.Reason_value[m[2]])] = strings.TrimPrefix(text, "// ")
	}
	if len(out) != len(pb.Reason_name) {
		t.Fatalf("%d of %d values have a comment that this test can read", len(out), len(pb.Reason_name))
	}
	return out
}
