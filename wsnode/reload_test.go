package wsnode

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// Schemas are exchanged under open sockets, all of them or none.
func TestReloadSchemas(t *testing.T) {
	files := fstest.MapFS{
		"chat.json":  {Data: []byte(`{"properties":{"text":{"maxLength":5}}}`)},
		"other.json": {Data: []byte(`{}`)},
	}
	edit := func(c *Config, _ *wstest.Authority) {
		c.Schemas = files
		for i := range c.Routes {
			if r := &c.Routes[i]; r.Path == chatPath {
				r.Messages.Types = []schema.Type{{Name: "chat", Schema: "chat.json"}}
			} else if r.Path == closingPath {
				r.Unchecked = false
				r.Messages.Types = []schema.Type{{Name: "chat", Schema: "other.json"}}
			}
		}
	}
	inLab(t, edit, func(l *lab) {
		const long, short = `{"type":"chat","text":"longer than five"}`, `{"type":"chat","text":"five"}`
		kept := l.open(chatPath, wstest.Token{})
		echo := func(p *wstest.Peer, text string) {
			t.Helper()
			p.Send(text)
			p.Want(ws.OpText, text)
		}
		echo(kept, short)

		files["chat.json"] = &fstest.MapFile{Data: []byte(`{"properties":{"text":{"maxLength":50}}}`)}
		if err := l.ReloadSchemas(); err != nil {
			t.Fatal(err)
		}
		echo(kept, long)

		files["chat.json"] = &fstest.MapFile{Data: []byte(`{"properties":{"text":{"maxLength":3}}}`)}
		files["other.json"] = &fstest.MapFile{Data: []byte(`{"maxLenght":5}`)}
		err := l.ReloadSchemas()
		if err == nil || !strings.Contains(err.Error(), "routes[2].messages: other.json#/maxLenght: maxLenght is no keyword") {
			t.Errorf("%v, want what is wrong with other.json", err)
		}
		echo(kept, long) // chat.json alone would have been right

		delete(files, "other.json")
		if err := l.ReloadSchemas(); err == nil || !strings.Contains(err.Error(), "other.json: file does not exist") {
			t.Errorf("%v, want that other.json is missing", err)
		}
		files["other.json"] = &fstest.MapFile{Data: []byte(`{}`)}
		if err := l.ReloadSchemas(); err != nil {
			t.Fatal(err)
		}
		kept.Send(short)
		kept.WantClose(1008, "message not allowed")
		kept.WantEnd()
		if ok, failed := l.metric("schema_reloads_total", "ok"), l.metric("schema_reloads_total", "failed"); ok != 2 || failed != 2 {
			t.Errorf("%v reloads and %v that failed are counted, want 2 and 2", ok, failed)
		}
	})
}
