package wsnode

import (
	"context"
	"log/slog"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
)

// TunnelPolicy is what a socket meets in whose messages another protocol was
// found. Empty is CloseTunnels.
type TunnelPolicy string

const (
	// CloseTunnels ends the session; it is the default.
	CloseTunnels TunnelPolicy = "close"
	// ThrottleTunnels lets the peer go on at throttledBytes a second.
	ThrottleTunnels TunnelPolicy = "throttle"
	// LogTunnels tells the log and the metrics alone.
	LogTunnels TunnelPolicy = "log"
)

func (t TunnelPolicy) known() bool {
	return t == "" || t == CloseTunnels || t == ThrottleTunnels || t == LogTunnels
}

// What a socket may send that is throttled: enough to type by, and for a message
// that was taken for a tunnel's by mistake.
const (
	throttledBytes = 4 << 10 // a second
	throttledBurst = 64 << 10
	// messageCost is what a message counts for beside its bytes.
	messageCost = 256
)

// lookForTunnel looks whether a message that may pass completes the evidence of a
// tunnel. An error ends the session.
func (p *peer) lookForTunnel(op ws.OpCode, payload []byte) error {
	f, ok := p.tunnel.Look(op == ws.OpBinary, payload)
	if !ok {
		return nil
	}
	p.n.metrics.tunnels.WithLabelValues(p.route.Path, f.Signature.String()).Inc()
	policy := p.route.Tunnels
	if policy == "" {
		policy = CloseTunnels
	}
	p.n.log.LogAttrs(context.Background(), slog.LevelWarn, "tunnel found", slog.String("session_id", p.handshakeID()),
		slog.String("token_id", p.token.String()), slog.String("signature", f.Signature.String()), slog.String("carried", f.Carriage.String()),
		slog.String("route", p.route.Path), slog.String("policy", string(policy)), slog.String("tenant", p.party.tenant),
		slog.String("subject", p.subject), slog.String("client_ip", p.addr.String()))
	switch policy {
	case CloseTunnels:
		return errTunnel
	case ThrottleTunnels:
		r := limit.NewRate(throttledBytes, throttledBurst)
		p.needMore().throttle = &r
	}
	return nil
}

// throttled reports whether the session is throttled and sends too much. Others
// pay for one look at what the peer's record has.
func (p *peer) throttled(payload []byte) bool {
	if !p.tunnel.Found() {
		return false
	}
	m := p.more.Load()
	return m != nil && m.throttle != nil && !m.throttle.Allow(p.now, messageCost+len(payload))
}
