package wsnode

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func TestForNode(t *testing.T) {
	for text, want := range map[string]bool{
		`{"gatehouse":"renew"}`: true, ` { "gatehouse" :1}`: true, `{"gatehouse`: false, `{"gatehouse"`: true, `{"Gatehouse":1}`: false,
		`{"type":"chat"}`: false, `{"token":"x","gatehouse":"renew"}`: false, `["gatehouse"]`: false, `"gatehouse"`: false, ``: false, ` `: false,
	} {
		payload := []byte(text)
		if got := forNode(payload); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		if n := testing.AllocsPerRun(100, func() { forNode(payload) }); n != 0 {
			t.Errorf("%q: %v allocations", text, n)
		}
	}
}

// A message that is no renewal costs nothing from the socket to the handler.
func TestMessageAllocs(t *testing.T) {
	b := newBench(t)
	h := b.open(echoPath)
	b.handler = deliver.Echo{}
	frame := wstest.Frame(ws.OpText, []byte(`{"type":"chat","text":"hello"}`))
	in, out := make([]byte, len(frame)), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(1000, func() {
		copy(in, frame)
		out = h.m.Feed(in, h.now, out[:0])
	}); n != 0 {
		t.Errorf("%v allocations a message, want 0", n)
	}
	if !bytes.Contains(out, []byte("hello")) {
		t.Errorf("%q is no echo", out)
	}
	b.handler = b.calls
	h.gone(nil)
}

func FuzzParseRenewal(f *testing.F) {
	for _, seed := range []string{
		renewal("gh1_" + strings.Repeat("A", 80)), renewal(""), ` { "gatehouse" : "renew" , "token" : "x" } `,
		`{"gatehouse":"renew","token":"\u0067"}`, `{"gatehouse":"renew","token":"a"}}`, `{"gatehouse":"renew","token":"a","token":"b"}`,
		`{"gatehouse":"renew","token":"` + "\x00" + `"}`, `{"gatehouse":"renew","token":"`, `{"gatehouse":"renew"}`, "{\"gatehouse\":\"renew\",\"token\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		text, ok := parseRenewal(b)
		if !utf8.Valid(b) { // no text message is
			return
		}
		var want struct{ Gatehouse, Token string }
		err := json.Unmarshal(b, &want)
		if ok && (!forNode(b) || err != nil || want.Gatehouse != "renew") {
			t.Fatalf("%q is taken for a renewal: %v", b, err)
		}
		if ok && string(text) != want.Token {
			t.Fatalf("%q has the token %q, not %q", b, want.Token, text)
		}
		if again, ok := parseRenewal([]byte(renewal(want.Token))); err == nil && !strings.ContainsFunc(want.Token, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) && (!ok || string(again) != want.Token) {
			t.Fatalf("the token %q comes back as %q", want.Token, again)
		}
	})
}
