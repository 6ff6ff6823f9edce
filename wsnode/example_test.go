package wsnode_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing/fstest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// greeter answers each message. Sessions share nothing of it but a channel, so that
// it needs no lock.
type greeter struct{ ended chan string }

func (greeter) Opened(deliver.Session) {}

// Message has a payload that the route's schema allows. It is the node's again once
// Message returns, as the answer is once Send does.
func (greeter) Message(s deliver.Session, _ deliver.Op, payload []byte) error {
	answer, err := json.Marshal(map[string]any{"to": s.Identity().Subject, "heard": len(payload)})
	if err != nil {
		return err // which closes the session
	}
	err = s.Send(answer)
	if errors.Is(err, deliver.ErrClosed) || errors.Is(err, deliver.ErrSlowReader) {
		return nil // the node closes the session, for a reason of its own
	}
	return err
}

func (g greeter) Closed(_ deliver.Session, _ uint16, reason string) {
	g.ended <- reason // it has room: a handler must not wait
}

// An application in the node's own process. Here the authority is one of tests, in
// memory. A program reaches its own with New, and gives it
//
//	cfg.Authority.Address = "authority.internal:8440"
//	cfg.Credentials, err = tlsfile.Credentials("ca.crt", "tls.crt", "tls.key", time.Now, cfg.Log)
//
// of the folder that "gatehouse-authority enroll node" made, and Serve the TLS
// configuration of tlsfile.Public.
func Example() {
	authority := wstest.NewAuthority()
	token := authority.Issue(wstest.Token{Subject: "ada", Audience: "chat"}).Text

	cfg := wsnode.DefaultConfig()
	cfg.Authority.Address = "in memory"
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Schemas = fstest.MapFS{"chat.json": {Data: []byte(`{
		"type": "object", "required": ["type", "text"], "additionalProperties": false,
		"properties": {"type": {"const": "chat"}, "text": {"type": "string", "maxLength": 100}}
	}`)}}
	route := wsnode.Route{Path: "/chat", Audience: "chat"}
	route.SetDefaults()
	route.Origins = []string{"https://app.example.com"}
	route.Messages.Types = []schema.Type{{Name: "chat", Schema: "chat.json"}}
	cfg.Routes = []wsnode.Route{route}

	app := greeter{ended: make(chan string, 1)}
	began := time.Now()
	node, err := wsnode.Over(authority.Client(), func() time.Duration { return time.Since(began) }, cfg, app)
	if err != nil {
		fmt.Println(err)
		return
	}
	node.Start()
	var onePath net.ListenConfig
	onePath.SetMultipathTCP(false)
	l, err := onePath.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(l, nil) }()
	for node.Ready() != nil {
		time.Sleep(time.Millisecond)
	}

	client := ws.Dialer{
		Protocols: []string{wsnode.Subprotocol, "gatehouse.token." + token},
		Header:    ws.HandshakeHeaderHTTP{"Origin": {"https://app.example.com"}},
	}
	conn, _, _, err := client.Dial(context.Background(), "ws://"+l.Addr().String()+"/chat")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := node.Broadcast(deliver.To{Route: "chat"}, deliver.Text, []byte(`{"news":"to all that are here"}`)); err != nil {
		fmt.Println(err)
	}
	news, err := wsutil.ReadServerText(conn)
	fmt.Printf("%s, %v\n", news, err)
	for _, text := range []string{`{"type":"chat","text":"hello"}`, `{"type":"chat","txt":"hello"}`} {
		if err := wsutil.WriteClientText(conn, []byte(text)); err != nil {
			fmt.Println(err)
		}
		answer, err := wsutil.ReadServerText(conn)
		fmt.Printf("%s, %v\n", answer, err)
	}
	_ = conn.Close()
	fmt.Println("the session ended:", <-app.ended)
	if err := errors.Join(node.Shutdown(context.Background()), <-served); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"news":"to all that are here"}, <nil>
	// {"heard":30,"to":"ada"}, <nil>
	// , ws closed: 1008 message not allowed
	// the session ended: message_not_allowed
}
