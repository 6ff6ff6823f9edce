package wsnode

import (
	"errors"

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
)

// Why the node itself ends a session.
var (
	errRevoked        = errors.New("token or session revoked")
	errLocked         = errors.New("subject, tenant, address or issuer locked")
	errSessionExpired = errors.New("session expired")
	errDraining       = errors.New("node drains")
	errFence          = errors.New("authority silent beyond the session fence")
	errBinary         = errors.New("binary message on a route without binary")
	errScope          = errors.New("message type not in the token's scopes")
	errRate           = errors.New("messages come too fast")
	errSlowReader     = errors.New("peer does not read")
	errIdle           = errors.New("peer is silent")
	errApplication    = errors.New("closed by the application")
	errHandler        = errors.New("handler failed")
	errConnectionLost = errors.New("connection lost")
)

// closeRule is one row of closeTable: what ends a session, and what the peer is
// told. Reasons are fixed text of at most 123 bytes (RFC 6455 section 5.5).
type closeRule struct {
	err    error
	code   ws.StatusCode
	reason pb.Reason
	text   string
}

const (
	notJSON    = "message is not valid JSON"
	notAllowed = "message not allowed"
)

// closeTable is the only place that turns a cause into a close code. The first
// match wins; the last row is the default.
var closeTable = []closeRule{
	{errRevoked, codeTokenRevoked, pb.Reason_REASON_TOKEN_REVOKED, "token revoked"},
	{errLocked, codeLocked, pb.Reason_REASON_LOCKED, "locked"},
	{errSessionExpired, codeSessionExpired, pb.Reason_REASON_SESSION_EXPIRED, "session expired"},
	{errDraining, codeServiceRestart, pb.Reason_REASON_DRAINING, "node restarts"},
	{errFence, codeTryAgainLater, pb.Reason_REASON_FENCED, "node has lost its authority"},
	{wsconn.ErrPeerClosed, 0, pb.Reason_REASON_PEER_CLOSED, ""},
	{wsconn.ErrCloseTimeout, 0, pb.Reason_REASON_CONNECTION_LOST, ""},
	{errConnectionLost, 0, pb.Reason_REASON_CONNECTION_LOST, ""},
	{wsconn.ErrInvalidUTF8, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_UTF8, "text is not UTF-8"},
	{wsconn.ErrMessageTooBig, ws.StatusMessageTooBig, pb.Reason_REASON_MESSAGE_TOO_BIG, "message too big"},
	{wsconn.ErrMessageTimeout, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_TIMEOUT, "message not finished in time"},
	{wsconn.ErrProtocol, ws.StatusProtocolError, pb.Reason_REASON_PROTOCOL_ERROR, "protocol error"},
	{schema.ErrNotJSON, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_JSON, notJSON},
	{schema.ErrLoneSurrogate, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_JSON, notJSON},
	{schema.ErrDuplicateName, ws.StatusInvalidFramePayloadData, pb.Reason_REASON_INVALID_JSON, notJSON},
	{schema.ErrHazardousName, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrNumberRange, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrTooDeep, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrTooManyNames, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrTooManyTokens, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrTypeMissing, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrTypeUnknown, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{schema.ErrNotAllowed, ws.StatusPolicyViolation, pb.Reason_REASON_MESSAGE_NOT_ALLOWED, notAllowed},
	{errScope, ws.StatusPolicyViolation, pb.Reason_REASON_SCOPE, notAllowed},
	{errBinary, ws.StatusPolicyViolation, pb.Reason_REASON_BINARY_REFUSED, "binary messages not allowed"},
	{errRate, codeLimit, pb.Reason_REASON_MESSAGE_RATE, "too many messages"},
	{errSlowReader, codeTryAgainLater, pb.Reason_REASON_SLOW_READER, "reading too slowly"},
	{errIdle, ws.StatusGoingAway, pb.Reason_REASON_IDLE, "no sign of life"},
	{errApplication, ws.StatusNormalClosure, pb.Reason_REASON_APPLICATION_CLOSED, ""},
	{nil, ws.StatusInternalServerError, pb.Reason_REASON_INTERNAL, "internal error"},
}

// closeFor finds the row of err.
func closeFor(err error) *closeRule {
	for i := range closeTable[:len(closeTable)-1] {
		if errors.Is(err, closeTable[i].err) {
			return &closeTable[i]
		}
	}
	return &closeTable[len(closeTable)-1]
}
