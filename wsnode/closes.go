package wsnode

import (
	"errors"
	"slices"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// Close codes that IANA registered after RFC 6455.
const (
	codeServiceRestart ws.StatusCode = 1012
	codeTryAgainLater  ws.StatusCode = 1013
)

// Close codes of RFC 6455 section 7.4.2's private range. 4000 to 4499 may be
// retried, 4500 to 4999 must not.
const (
	codeSessionExpired ws.StatusCode = 4008
	codeLimit          ws.StatusCode = 4029
	codeTokenRevoked   ws.StatusCode = 4501
	codeLocked         ws.StatusCode = 4503
	codeForbidden      ws.StatusCode = 4504
	codeReplaced       ws.StatusCode = 4509
)

// Why the node itself ends a session.
var (
	errRevoked        = errors.New("token or session revoked")
	errReplaced       = errors.New("newer sessions of its subject are live, as many as may be")
	errLocked         = errors.New("subject, tenant, address or issuer locked")
	errSessionExpired = errors.New("session expired")
	errDraining       = errors.New("node drains")
	errFence          = errors.New("authority silent beyond the session fence")
	errBinary         = errors.New("binary message on a route without binary")
	errScope          = errors.New("message type not in the token's scopes")
	errTunnel         = errors.New("messages carry another protocol")
	errRate           = errors.New("messages come too fast")
	errSlowReader     = errors.New("peer does not read")
	errIdle           = errors.New("peer is silent")
	errApplication    = errors.New("closed by the application")
	errHandler        = errors.New("handler failed")
	errConnectionLost = errors.New("connection lost")
	errNodeMessage    = errors.New("message for the node that it does not know")
	errRenewalRate    = errors.New("renewals come too fast")
	errInternal       = errors.New("internal error")
)

// renewalRefused is the reason for which a renewal was refused.
type renewalRefused pb.Reason

func (r renewalRefused) Error() string { return "renewal refused: " + pb.Reason(r).Label() }

// closeRule is one row of closeTable: what ends a session, and what the peer is
// told. Reasons are fixed text of at most 123 bytes (RFC 6455 section 5.5).
type closeRule struct {
	err    error
	code   ws.StatusCode
	reason pb.Reason
	text   string
	// again says that a client may come back, with a new token.
	again bool
}

const (
	notJSON    = "message is not valid JSON"
	notAllowed = "message not allowed"
)

// closeTable is the only place that turns a cause into a close code. The first
// match wins; the last row is the default.
var closeTable = slices.Concat([]closeRule{
	{errRevoked, codeTokenRevoked, pb.Reason_REASON_TOKEN_REVOKED, "token revoked", false},
	{errLocked, codeLocked, pb.Reason_REASON_LOCKED, "locked", false},
	// Two clients that came back by themselves would close each other for ever.
	{errReplaced, codeReplaced, pb.Reason_REASON_SESSION_REPLACED, "opened elsewhere", false},
	{errSessionExpired, codeSessionExpired, pb.Reason_REASON_SESSION_EXPIRED, "session expired", true},
	{errDraining, codeServiceRestart, pb.Reason_REASON_DRAINING, "node restarts", true},
	{errFence, codeTryAgainLater, pb.Reason_REASON_FENCED, "node has lost its authority", true},
	{wsconn.ErrPeerClosed, 0, pb.Reason_REASON_PEER_CLOSED, "", true},
	{wsconn.ErrCloseTimeout, 0, pb.Reason_REASON_CONNECTION_LOST, "", true},
	{errConnectionLost, 0, pb.Reason_REASON_CONNECTION_LOST, "", true},
	{wsconn.ErrInvalidUTF8, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_UTF8, "text is not UTF-8", false},
	{wsconn.ErrMessageTooBig, ws.StatusMessageTooBig, pb.Reason_REASON_MESSAGE_TOO_BIG, "message too big", true},
	{wsconn.ErrMessageTimeout, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_TIMEOUT, "message not finished in time", false},
	{wsconn.ErrProtocol, ws.StatusProtocolError, pb.Reason_REASON_PROTOCOL_ERROR, "protocol error", false},
	{schema.ErrNotJSON, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_JSON, notJSON, false},
	{schema.ErrLoneSurrogate, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_JSON, notJSON, false},
	{schema.ErrDuplicateName, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_JSON, notJSON, false},
	{schema.ErrHazardousName, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrNumberRange, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrTooDeep, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrTooManyNames, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrTooManyTokens, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrTypeMissing, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrTypeUnknown, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{schema.ErrTooComplex, ws.StatusPolicyViolation, pb.Reason_REASON_TOO_COMPLEX, notAllowed, false},
	{schema.ErrNotAllowed, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{errScope, ws.StatusPolicyViolation, pb.Reason_REASON_SCOPE, notAllowed, false},
	{errBinary, ws.StatusPolicyViolation, pb.Reason_REASON_BINARY_REFUSED, "binary messages not allowed", false},
	{errTunnel, ws.StatusPolicyViolation, pb.Reason_REASON_TUNNEL_FOUND, "tunnels not allowed", false},
	{errRate, codeLimit, pb.Reason_REASON_MESSAGE_RATE, "too many messages", true},
	{errSlowReader, codeTryAgainLater, pb.Reason_REASON_SLOW_READER, "reading too slowly", true},
	{errIdle, ws.StatusGoingAway, pb.Reason_REASON_IDLE, "no sign of life", true},
	{errApplication, ws.StatusNormalClosure, pb.Reason_REASON_APPLICATION_CLOSED, "", true},
	{errNodeMessage, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed, false},
	{errRenewalRate, codeLimit, pb.Reason_REASON_RENEWAL_RATE, "too many renewals", true},
	{renewalRefused(pb.Reason_REASON_RENEWAL_MISMATCH), codeForbidden, pb.Reason_REASON_RENEWAL_MISMATCH, "forbidden", false},
}, refusedRenewals(), []closeRule{
	{errInternal, ws.StatusInternalServerError, pb.Reason_REASON_INTERNAL, "internal error", true},
})

// refusedRenewals are the rows of renewals that are refused for good. Their
// peers are told what they would be told of an opening handshake, and no more. A
// renewal that is refused for another reason leaves its socket open.
func refusedRenewals() []closeRule {
	var rows []closeRule
	for _, reason := range []pb.Reason{
		pb.Reason_REASON_TOKEN_MALFORMED, pb.Reason_REASON_TOKEN_FORGED, pb.Reason_REASON_TOKEN_EXPIRED,
		pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE, pb.Reason_REASON_TOKEN_UNKNOWN, pb.Reason_REASON_TOKEN_SECRET_WRONG,
		pb.Reason_REASON_TOKEN_USED, pb.Reason_REASON_TOKEN_REVOKED, pb.Reason_REASON_LOCKED,
		pb.Reason_REASON_IP_MISMATCH, pb.Reason_REASON_USER_AGENT_MISMATCH, pb.Reason_REASON_ORIGIN_MISMATCH,
		pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH,
		pb.Reason_REASON_SESSION_ENDED, pb.Reason_REASON_SESSION_ID_TAKEN, pb.Reason_REASON_AUDIENCE_MISMATCH,
	} {
		r := refusalOf(reason)
		rows = append(rows, closeRule{renewalRefused(reason), r.code, reason, r.public, r.code != codeForbidden})
	}
	return rows
}

// closeFor finds the row of err.
func closeFor(err error) *closeRule { return &closeTable[closeRow(err)] }

func closeRow(err error) int {
	last := len(closeTable) - 1
	for i := range last {
		if errors.Is(err, closeTable[i].err) {
			return i
		}
	}
	return last
}

// Told is what a peer is told for a reason.
type Told struct {
	Reason pb.Reason
	// Status of the answer to a refused handshake; 0 where an open socket closes.
	Status int
	// Code of the close frame: of the socket, or on routes with refuse_by_close
	// that after the 101. 0 where there is none, or the peer or the application
	// chooses it.
	Code int
	// Text is the close frame's reason, or the first words of the answer.
	Text string
	// Again says that coming back may help. After a close that takes a new token.
	// After a refusal the same one may do, unless the authority had been asked
	// about it, as can be for draining, fenced, authority_unavailable, stopping and
	// internal: then it may be spent.
	Again bool
}

// Closes lists why the node closes sockets, each cause that peers can tell from
// others once.
func Closes() []Told {
	var out []Told
	for _, r := range closeTable {
		t := Told{Reason: r.reason, Code: int(r.code), Text: r.text, Again: r.again}
		if r.reason == pb.Reason_REASON_APPLICATION_CLOSED {
			t.Code = 0
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}
