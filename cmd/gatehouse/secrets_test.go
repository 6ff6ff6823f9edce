package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Text that was given as an argument is refused without being repeated, before
// anything is parsed, read or called.
func TestTokensAreNoArguments(t *testing.T) {
	c := newCaller(t)
	_, text := testToken(1)
	for i, args := range [][]string{
		{text}, {"token", "show", text}, {"token", text}, {"token", "introspect", text}, {"token", "list", "--subject", text},
		{"revoke", "--token", text}, {"revoke", "--token=" + text}, {"revoke", "--token=" + text[:60]}, {"revoke", "--token-stdin", "x" + text + "y"},
		{"revoke", "--subject", "u", "--reason", "leaked: " + text}, {"token", "show", "--" + text}, {"-o", text}, {"token", "show", strings.ToUpper(text)},
		{"token", "issue", "--attribute", "t=" + text}, {"help", text}, {"node", "list", "--api-key-file", testAPIKey}, {"--config", text},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			at := 0
			for j, arg := range args {
				if holdsSecret(arg) {
					at = j + 1
				}
			}
			c.check(c.run("", args...), exitUsage, "", fmt.Sprintf("gatehouse: error: argument %d holds the text of a token or an API key\n", at)+
				"gatehouse: hint: arguments show in ps and stay in the shell's history: pass tokens on standard input "+
				"(gatehouse token show -, gatehouse revoke --token-stdin), and revoke this one\n")
			got := c.run("", append(args, "-ojson")...)
			if got.code != exitUsage || strings.Contains(strings.ToLower(got.stdout+got.stderr), strings.ToLower(text[:24])) {
				t.Errorf("%+v", got)
			}
		})
	}
	if len(c.authority.requests) != 0 {
		t.Error("calls were made")
	}
}

// Whatever an error, a hint, a note or the progress is made of, no token text
// and no API key passes to standard error.
func TestStderrIsScrubbed(t *testing.T) {
	c := newCaller(t)
	_, text := testToken(1)
	c.authority.errs["ListNodes"] = withReason(codes.Internal, pb.Reason_REASON_INTERNAL, "odd: "+text+" and "+testAPIKey+" and "+text[:30])
	for _, args := range [][]string{{"node", "list"}, {"node", "list", "-ojson"}} {
		got := c.run("", args...)
		for _, secret := range []string{text[4:], text[4:20], testAPIKey[5:], testAPIKey[5:20]} {
			if strings.Contains(got.stderr, secret) {
				t.Errorf("%v repeats %s: %s", args, secret, got.stderr)
			}
		}
		if !strings.Contains(got.stderr, "odd: gh1_[scrubbed] and ghk1_[scrubbed] and gh1_[scrubbed]") {
			t.Error(got.stderr)
		}
	}

	file := filepath.Join(c.dir, "config.yaml")
	for _, yaml := range []string{"address: " + text, text + ": x", "api_key: " + testAPIKey, "address: \"" + text + "\n", testAPIKey} {
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		got := c.with("GATEHOUSE_ADDRESS=").run("", "node", "list", "--config", file)
		if got.code != exitUsage || strings.Contains(got.stderr, text[4:20]) || strings.Contains(got.stderr, testAPIKey[5:20]) {
			t.Errorf("%q: %+v", yaml[:20], got)
		}
	}
}

func TestScrubbingWriterTakesAll(t *testing.T) {
	var out bytes.Buffer
	in := "a gh1_" + strings.Repeat("A", 80) + " b ghk1_" + strings.Repeat("k", 43) + " c\n"
	if n, err := (scrubbingWriter{&out}).Write([]byte(in)); n != len(in) || err != nil {
		t.Errorf("%d of %d, %v", n, len(in), err)
	}
	if out.String() != "a gh1_[scrubbed] b ghk1_[scrubbed] c\n" {
		t.Error(out.String())
	}
	if _, err := (scrubbingWriter{&fullDisk{}}).Write([]byte("x")); err == nil {
		t.Error("a failed write is hidden")
	}
}

func TestAPIKeyPrintsAsNothing(t *testing.T) {
	k := apiKey("ghk1_secret")
	for _, verb := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
		if s := fmt.Sprintf(verb, k); strings.Contains(s, "secret") {
			t.Errorf("%s: %s", verb, s)
		}
	}
	if !k.RequireTransportSecurity() {
		t.Error("the key would go over plain connections")
	}
}

// FuzzScrub proves that nothing that holds a token's or an API key's text is
// left in what was scrubbed.
func FuzzScrub(f *testing.F) {
	_, text := testToken(1)
	f.Add([]byte(text + testAPIKey))
	f.Add([]byte("gh1_ghk1_gh1_" + text))
	f.Add([]byte("ghk1_gh1_" + text[4:]))
	f.Add([]byte("gh1_ghk1_" + testAPIKey[5:]))
	f.Fuzz(func(t *testing.T, in []byte) {
		if out := scrub(bytes.Clone(in)); holdsSecret(string(out)) {
			t.Fatalf("%q becomes %q", in, out)
		}
	})
}
