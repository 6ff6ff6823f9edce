package wsnode

import (
	"strings"
	"testing"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// forgiving makes the route of chatPath forgive, ping by dropping.
func forgiving(c *Config, _ *wstest.Authority) {
	for i := range c.Routes {
		if m := &c.Routes[i].Messages; c.Routes[i].Path == chatPath {
			m.OnRefusal, m.Strikes = schema.ErrorFrame, 3
			m.Types[1].OnRefusal = schema.Drop
		}
	}
}

func TestErrorFrames(t *testing.T) {
	const fine = `{"type":"chat","text":"fine"}`
	for _, test := range []struct{ rule, in, answer string }{
		{"a wrong value", `{"type":"chat","text":"more than twenty characters"}`, `{"gatehouse":"refused","reason":"message_not_allowed","pointer":"/text","keyword":"/$defs/chat/properties/text/maxLength"}`},
		{"a missing property", `{"type":"chat"}`, `{"gatehouse":"refused","reason":"message_not_allowed","keyword":"/$defs/chat/required"}`},
		{"a name of the peer's", `{"type":"chat","text":"x","<secret>":1}`, `{"gatehouse":"refused","reason":"message_not_allowed","keyword":"/$defs/chat/additionalProperties"}`},
		{"no JSON", `{"type":`, `{"gatehouse":"refused","reason":"invalid_json"}`},
		{"a type that nobody knows", `{"type":"<secret>"}`, `{"gatehouse":"refused","reason":"message_not_allowed"}`},
		{"too complex", `{"type":"tree","tree":` + strings.Repeat("[", 25) + strings.Repeat("]", 25) + `}`, `{"gatehouse":"refused","reason":"too_complex"}`},
		{"a type whose policy is to drop", `{"type":"ping","<secret>":1}`, ""},
	} {
		t.Run(test.rule, func(t *testing.T) {
			inLab(t, forgiving, func(l *lab) {
				p := l.open(chatPath, wstest.Token{})
				for range 3 {
					p.Send(test.in)
					if test.answer != "" {
						p.Want(ws.OpText, test.answer)
					}
					p.Send(fine) // the handler's echo: only this reached it
					p.Want(ws.OpText, fine)
				}
				p.Send(test.in)
				p.WantClose(closeOf(test.in), textOf(test.in))
				p.WantEnd()
				var forgiven float64
				for _, r := range forgivable {
					forgiven += l.metric("messages_forgiven_total", r.Label())
				}
				if lines := l.logs.lines(t, "message refused"); forgiven != 3 || len(lines) != 3 || strings.Contains(l.logs.String(), "secret") {
					t.Errorf("%v forgiven, %d lines: %v", forgiven, len(lines), lines)
				}
			})
		})
	}
}

func closeOf(in string) ws.StatusCode {
	if strings.HasSuffix(in, "}") {
		return ws.StatusPolicyViolation
	}
	return ws.StatusInvalidFramePayloadData
}

func textOf(in string) string {
	if closeOf(in) == ws.StatusPolicyViolation {
		return "message not allowed"
	}
	return "message is not valid JSON"
}

// What a token does not allow is not forgiven, nor is a binary message.
func TestForgivenIsOnlyWhatMessagesSay(t *testing.T) {
	inLab(t, forgiving, func(l *lab) {
		p := l.open(chatPath, wstest.Token{Scopes: []string{"ping"}})
		p.Send(`{"type":"chat","text":"fine"}`)
		p.WantClose(1008, "message not allowed")
		p.WantEnd()
		p = l.open(chatPath, wstest.Token{})
		p.Write(wstest.Frame(ws.OpBinary, []byte("x")))
		p.WantClose(1008, "binary messages not allowed")
		p.WantEnd()
		if got := l.metric("messages_forgiven_total", pb.Reason_REASON_MESSAGE_NOT_ALLOWED.Label()); got != 0 {
			t.Errorf("%v are forgiven", got)
		}
	})
}
