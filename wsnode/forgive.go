package wsnode

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// forgivable are the reasons why a message is refused that a route may forgive.
var forgivable = []pb.Reason{pb.Reason_REASON_INVALID_JSON, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, pb.Reason_REASON_TOO_COMPLEX}

// refusedMessage tells a peer why its message went nowhere. Its places hold names
// that the schemas have, and nothing that the peer wrote.
type refusedMessage struct {
	Gatehouse string `json:"gatehouse"`
	Reason    string `json:"reason"`
	Pointer   string `json:"pointer,omitempty"` // in the message; empty for all of it
	Keyword   string `json:"keyword,omitempty"` // in the schema of its type
}

// forgive drops a refused message and goes on, if the route has it so and the
// session has strikes left; else it returns err, which closes. Only what the
// message says is forgiven: not that its type is beyond the token's scopes, and
// not what is binary.
func (p *peer) forgive(kind string, err error, out []byte) ([]byte, error) {
	var why *schema.Error
	policy := p.route.Messages.Policy(kind)
	if !errors.As(err, &why) || policy == schema.Close || p.route.Messages.Strikes == 0 {
		return out, err
	}
	m := p.needMore()
	if m.strikes >= p.route.Messages.Strikes {
		return out, err
	}
	m.strikes++
	reason := closeFor(err).reason
	p.n.metrics.forgiven[reason].Inc()
	p.n.log.Log(context.Background(), slog.LevelInfo, "message refused", "session_id", p.handshakeID(), "token_id", p.token.String(),
		"reason", reason.Label(), "detail", why.Error(), "type", kind, "strikes", m.strikes)
	if policy == schema.Drop {
		return out, nil
	}
	_, keyword, _ := strings.Cut(why.Keyword, "#")
	text, err := json.Marshal(refusedMessage{"refused", reason.Label(), why.Pointer, keyword})
	if err != nil { // of strings
		return out, err
	}
	return wsconn.AppendFrame(out, ws.OpText, text), nil
}
