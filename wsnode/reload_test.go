package wsnode

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// lockedFiles tells whether the lock is held while a file is opened.
type lockedFiles struct {
	fs.FS
	opened func()
}

func (f lockedFiles) Open(name string) (fs.File, error) {
	f.opened()
	return f.FS.Open(name)
}

// Of two reloads at once, the one that reads first must not store last.
func TestReloadsTakeTurns(t *testing.T) {
	var n *Node
	free, opened := 0, 0
	files := lockedFiles{fstest.MapFS{"chat.json": {Data: []byte(`{}`)}}, func() {
		if n == nil { // the start
			return
		}
		if opened++; n.reloading.TryLock() {
			n.reloading.Unlock()
			free++
		}
	}}
	edit := func(c *Config, _ *wstest.Authority) {
		c.Schemas = files
		for i := range c.Routes {
			if r := &c.Routes[i]; r.Path == chatPath {
				r.Messages.Types = []schema.Type{{Name: "chat", Schema: "chat.json"}}
			}
		}
	}
	inLab(t, edit, func(l *lab) {
		n = l.Node
		if err := l.ReloadSchemas(); err != nil || opened == 0 {
			t.Fatalf("%v, %d files opened", err, opened)
		}
		if free > 0 {
			t.Errorf("%d of %d files were opened while another reload could begin", free, opened)
		}
	})
}

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
		told := func(want ...any) {
			t.Helper()
			var got []any
			for _, line := range l.logs.lines(t, "schemas changed") {
				got = append(got, line["files"])
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the log names %v as changed, want %v", got, want)
			}
		}
		echo(kept, short)
		if err := l.ReloadSchemas(); err != nil {
			t.Fatal(err)
		}
		told()

		files["chat.json"] = &fstest.MapFile{Data: []byte(`{"properties":{"text":{"maxLength":50}}}`)}
		if err := l.ReloadSchemas(); err != nil {
			t.Fatal(err)
		}
		echo(kept, long)
		told([]any{"chat.json"})

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
		told([]any{"chat.json"}) // what failed has changed nothing
		files["other.json"] = &fstest.MapFile{Data: []byte(`true`)}
		if err := l.ReloadSchemas(); err != nil {
			t.Fatal(err)
		}
		told([]any{"chat.json"}, []any{"chat.json", "other.json"})
		kept.Send(short)
		kept.WantClose(1008, "message not allowed")
		kept.WantEnd()
		if ok, failed := l.metric("reloads_total", "ok"), l.metric("reloads_total", "failed"); ok != 3 || failed != 2 {
			t.Errorf("%v reloads and %v that failed are counted, want 3 and 2", ok, failed)
		}
	})
}

// A file of several routes is named once, and of very many some.
func TestChangedSchemasAreTold(t *testing.T) {
	book := &logbook{}
	n := &Node{log: slog.New(slog.NewJSONHandler(book, nil))}
	n.logChanged(nil)
	n.logChanged([]string{"b.json", "a.json", "b.json"})
	var many []string
	for i := range maxFilesTold + 3 {
		many = append(many, fmt.Sprintf("%02d.json", i))
	}
	n.logChanged(many)
	lines := book.lines(t, "schemas changed")
	if len(lines) != 2 || !reflect.DeepEqual(lines[0]["files"], []any{"a.json", "b.json"}) || lines[0]["and_more"] != nil {
		t.Fatalf("%v", lines)
	}
	if files := lines[1]["files"].([]any); len(files) != maxFilesTold || files[0] != "00.json" || lines[1]["and_more"] != 3.0 {
		t.Errorf("%v", lines[1])
	}
}

// Limits, origins and trusted proxies are exchanged under open sockets, all of
// them or none; what else a configuration says is left as it was.
func TestReload(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { trust(xff, clientaddr.XFF)(c, nil) }, func(l *lab) {
		cfg := l.cfg
		cfg.Routes = slices.Clone(cfg.Routes)
		read := func() (Config, error) { return cfg, nil }
		status := func(from string, o wstest.Opening) int {
			t.Helper()
			p := l.dialFrom(from)
			o.Bearer = l.token()
			p.Write(o.Bytes())
			resp, _ := p.Response()
			return resp.StatusCode
		}
		kept := l.open(chatPath, wstest.Token{})
		const other = "https://other.example"
		browser := wstest.Opening{Target: chatPath, Origin: other}
		proxied := wstest.Opening{Target: echoPath, Fields: []string{"X-Forwarded-For: 192.0.2.7"}}
		if got := status("192.0.2.9", browser); got != 403 {
			t.Fatalf("%s: %d before, want 403", other, got)
		}

		for i := range cfg.Routes {
			if cfg.Routes[i].Path == chatPath {
				cfg.Routes[i].Origins = []string{other}
			}
		}
		slices.Reverse(cfg.Routes) // they are known by their path
		cfg.Routes = append(cfg.Routes, Route{Path: "/new", Audience: "test", MissingOrigin: AllowMissing, Unchecked: true, Messages: schema.Default(), Tunnels: CloseTunnels})
		cfg.Limits.AuthenticatedPerAddress.Max = 1
		cfg.Limits.Messages = limit.Messages{PerSecond: 1, Burst: 1}
		cfg.TrustedProxies = []clientaddr.Trusted{{Networks: []string{forwarded}, Mode: clientaddr.Forwarded}}
		cfg.Sockets.MessageBytes = 125 // not for now
		if err := l.Reload(read); err != nil {
			t.Fatal(err)
		}
		kept.Send(`{"type":"chat","text":"still here"}`)
		kept.Want(ws.OpText, `{"type":"chat","text":"still here"}`)
		if got := status("192.0.2.9", browser); got != 101 {
			t.Errorf("%s: %d, want 101", other, got)
		}
		if got := status("192.0.2.10", wstest.Opening{Target: chatPath, Origin: appOrigin}); got != 403 {
			t.Errorf("%s: %d, want 403", appOrigin, got)
		}
		if got := status("192.0.2.1", wstest.Opening{Target: echoPath}); got != 429 {
			t.Errorf("a second socket of an address: %d, want 429", got)
		}
		if got := status(xff, proxied); got != 101 || l.calls.newest().Identity().ClientAddr.String() != xff {
			t.Errorf("%d for %v, want that %s is its own client now", got, l.calls.newest().Identity().ClientAddr, xff)
		}
		if got := status(forwarded, wstest.Opening{Target: echoPath, Fields: []string{"Forwarded: for=192.0.2.7"}}); got != 101 || l.calls.newest().Identity().ClientAddr.String() != "192.0.2.7" {
			t.Errorf("%d for %v, want that %s is believed", got, l.calls.newest().Identity().ClientAddr, forwarded)
		}
		if got := status("192.0.2.11", wstest.Opening{Target: "/new"}); got != 404 {
			t.Errorf("a new route: %d, want 404", got)
		}
		fresh := l.dialFrom("192.0.2.12")
		fresh.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
		fresh.Send(strings.Repeat("x", 200))
		fresh.Want(ws.OpText, strings.Repeat("x", 200))
		fresh.Send("too fast")
		fresh.WantClose(4029, "too many messages")

		before := l.live.Load()
		cfg.Limits.Sockets.Max = 0
		cfg.Limits.AuthenticatedPerAddress.Max = 100
		if err := l.Reload(read); err == nil || !strings.Contains(err.Error(), "limits.sockets.max: 0 is below 1") {
			t.Errorf("%v, want what is wrong", err)
		}
		cfg.Limits.Sockets.Max = 1000
		broken := errors.New("no such file")
		if err := l.Reload(func() (Config, error) { return cfg, broken }); err != broken {
			t.Errorf("%v, want what read says", err)
		}
		l.cfg.Schemas = fstest.MapFS{}
		if err := l.Reload(read); err == nil || !strings.Contains(err.Error(), "chat.json: file does not exist") {
			t.Errorf("%v, want that a schema is missing", err)
		}
		if l.live.Load() != before {
			t.Error("a configuration that is wrong was put into force")
		}
		if ok, failed := l.metric("reloads_total", "ok"), l.metric("reloads_total", "failed"); ok != 1 || failed != 3 {
			t.Errorf("%v reloads and %v that failed are counted, want 1 and 3", ok, failed)
		}
	})
}
