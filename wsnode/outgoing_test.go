package wsnode

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// checkOutgoing has a route hold what the application sends against a schema.
func checkOutgoing(path string, edit func(*Outgoing)) func(*Config, *wstest.Authority) {
	return func(c *Config, _ *wstest.Authority) {
		c.Schemas = fstest.MapFS{
			"chat.json": testSchemas["chat.json"],
			"news.json": {Data: []byte(`{"type": "object", "required": ["type"], "properties": {"type": true, "n": {"type": "integer", "maximum": 5}}, "additionalProperties": false}`)},
		}
		for i := range c.Routes {
			if r := &c.Routes[i]; r.Path == path {
				r.Outgoing.Types = []OutgoingType{{Name: "news", Schema: "news.json"}}
				if edit != nil {
					edit(&r.Outgoing)
				}
			}
		}
	}
}

const (
	goodNews = `{"type":"news","n":5}`
	badNews  = `{"type":"news","n":6}`
)

// What the application sends is held against the schema of its type, and dropped
// if that does not allow it; the application is told, and the session goes on.
func TestOutgoingDropped(t *testing.T) {
	inLab(t, checkOutgoing(echoPath, nil), func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		for _, refused := range []string{badNews, `{"type":"other"}`, `{"n":5}`, "hello", `{"type":"news","n":5,"n":5}`} {
			p.Send(refused) // which the application echoes
			if err := l.calls.newest().Send([]byte(refused)); !errors.Is(err, deliver.ErrNotAllowed) {
				t.Errorf("%s: %v", refused, err)
			}
		}
		if err := l.calls.newest().SendBinary([]byte(goodNews)); !errors.Is(err, deliver.ErrNotAllowed) {
			t.Errorf("binary: %v", err)
		}
		p.Send(goodNews)
		p.Want(ws.OpText, goodNews) // the first that comes
		if err := l.calls.newest().Send([]byte(goodNews)); err != nil {
			t.Error(err)
		}
		p.Want(ws.OpText, goodNews)
		for reason, want := range map[string]float64{"invalid_json": 4, "message_not_allowed": 6, "binary_refused": 1, "too_complex": 0} {
			if got := l.metric("messages_unsent_total", reason); got != want {
				t.Errorf("%v are counted as %s, want %v", got, reason, want)
			}
		}

		const said = "the application sends what its schema does not allow"
		lines := l.logs.lines(t, said)
		if len(lines) != 1 || lines[0]["reason"] != "message_not_allowed" || lines[0]["type"] != "news" || lines[0]["route"] != echoPath || !strings.Contains(lines[0]["detail"].(string), "/n by news.json#/properties/n/maximum") {
			t.Errorf("%v", lines)
		}
		time.Sleep(time.Second) // of the bubble
		_ = l.calls.newest().Send([]byte(badNews))
		if lines := l.logs.lines(t, said); len(lines) != 2 {
			t.Errorf("a second later there are %d lines, want 2", len(lines))
		}

		q := l.open(binaryPath, wstest.Token{}) // which has no such schemas
		q.Send(badNews)
		q.Want(ws.OpText, badNews)
	})
}

func TestOutgoingCloses(t *testing.T) {
	inLab(t, checkOutgoing(echoPath, func(o *Outgoing) { o.OnRefusal = schema.Close }), func(l *lab) {
		p, other := l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{})
		p.Send(goodNews)
		p.Want(ws.OpText, goodNews)
		p.Send(badNews)
		p.WantClose(1011, "internal error")
		p.WantEnd()
		if err := l.calls.newest().Send([]byte(badNews)); !errors.Is(err, deliver.ErrNotAllowed) { // outside of a call
			t.Error(err)
		}
		other.WantClose(1011, "internal error")
		other.WantEnd()
		if err := l.calls.newest().Send([]byte(goodNews)); !errors.Is(err, deliver.ErrClosed) {
			t.Error(err)
		}
		if got := l.metric("sessions_closed_total", "internal"); got != 2 {
			t.Errorf("%v sessions are counted as closed by an error, want 2", got)
		}
	})
}

// Types that are not listed may pass; what has no type, or is no JSON, does not.
func TestOutgoingUnlisted(t *testing.T) {
	inLab(t, checkOutgoing(echoPath, func(o *Outgoing) { o.Unlisted = true }), func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		for _, refused := range []string{badNews, `{"n":5}`, "hello"} {
			p.Send(refused)
		}
		const other = `{"type":"other","n":"whatever"}`
		p.Send(other)
		p.Want(ws.OpText, other)
	})
}

// Binary messages of a route that has them are none that a schema sees, and what
// the node itself says is not the application's.
func TestOutgoingLeavesAlone(t *testing.T) {
	inLab(t, checkOutgoing(binaryPath, nil), func(l *lab) {
		p := l.open(binaryPath, wstest.Token{})
		if err := l.calls.newest().SendBinary([]byte("hello")); err != nil {
			t.Error(err)
		}
		p.Want(ws.OpBinary, "hello")
	})
	edit := func(c *Config, a *wstest.Authority) {
		checkOutgoing(chatPath, nil)(c, a)
		for i := range c.Routes {
			c.Routes[i].Messages.OnRefusal = schema.ErrorFrame
		}
	}
	inLab(t, edit, func(l *lab) {
		p := l.open(chatPath, wstest.Token{})
		p.Send(`{"type":"chat"}`)
		p.Want(ws.OpText, `{"gatehouse":"refused","reason":"message_not_allowed","keyword":"/$defs/chat/required"}`)
	})
}

// The schemas are read anew with the others, and stay with them if one is wrong.
func TestOutgoingReload(t *testing.T) {
	var files fstest.MapFS
	edit := func(c *Config, a *wstest.Authority) {
		checkOutgoing(echoPath, nil)(c, a)
		files = c.Schemas.(fstest.MapFS)
	}
	inLab(t, edit, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		files["news.json"] = &fstest.MapFile{Data: []byte(`{"maxLenght": 5}`)}
		if err := l.ReloadSchemas(); err == nil || !strings.Contains(err.Error(), "routes[0].outgoing: news.json#/maxLenght: maxLenght is no keyword") {
			t.Error(err)
		}
		p.Send(badNews)
		p.Send(goodNews)
		p.Want(ws.OpText, goodNews)
		files["news.json"] = &fstest.MapFile{Data: []byte(`{"properties": {"n": {"minimum": 6}}}`)}
		if err := l.ReloadSchemas(); err != nil {
			t.Fatal(err)
		}
		p.Send(goodNews)
		p.Send(badNews)
		p.Want(ws.OpText, badNews)
	})
}

func TestOutgoingConfig(t *testing.T) {
	for _, c := range []struct {
		rule string
		edit func(o *Outgoing)
		want string
	}{
		{"as it is by default, with a type", func(*Outgoing) {}, ""},
		{"no types, whatever else", func(o *Outgoing) { *o = Outgoing{} }, ""},
		{"closing", func(o *Outgoing) { o.OnRefusal = schema.Close }, ""},
		{"an error frame, which would go to the wrong side", func(o *Outgoing) { o.OnRefusal = schema.ErrorFrame }, `r.outgoing.on_refusal: "error_frame" is neither drop nor close`},
		{"no policy", func(o *Outgoing) { o.OnRefusal = "" }, `r.outgoing.on_refusal: "" is neither`},
		{"a name twice", func(o *Outgoing) { o.Types = append(o.Types, o.Types[0]) }, `r.outgoing.types[1].name: "news" is the name of types[0] too`},
		{"no discriminator", func(o *Outgoing) { o.Discriminator = "" }, "r.outgoing.discriminator: is empty"},
		{"no guard", func(o *Outgoing) { o.Guards.Depth = 0 }, "r.outgoing.guards.depth: 0 is not between"},
		{"a file outside", func(o *Outgoing) { o.Shared = []string{"../x.json"} }, "r.outgoing.shared[0]:"},
	} {
		r := Route{Path: "/x", Audience: "a"}
		r.SetDefaults()
		r.Unchecked = true
		r.Outgoing.Types = []OutgoingType{{Name: "news", Schema: "news.json"}}
		c.edit(&r.Outgoing)
		if err := r.validate("r"); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.rule, err, c.want)
		}
	}
}

// A message that may be sent costs no allocation for having been checked.
func TestOutgoingAllocs(t *testing.T) {
	b := newBench(t)
	checks, err := (&Outgoing{Types: []OutgoingType{{Name: "chat", Schema: "chat.json#/$defs/chat"}}, Discriminator: "type", OnRefusal: schema.Drop, Guards: schema.Default().Guards}).Compile(testSchemas)
	if err != nil {
		t.Fatal(err)
	}
	h := b.open(echoPath)
	p := h.m.(*peer)
	message := []byte(`{"type":"chat","text":"hello"}`)
	if got := testing.AllocsPerRun(100, func() {
		if err := p.allowSending(checks, deliver.Text, message); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
	h.gone(nil)
}
