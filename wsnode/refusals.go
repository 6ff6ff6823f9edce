package wsnode

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// refusal is one row of refusals: what a peer learns of why its handshake was
// not accepted. The exact reason is in the log, under the handshake's id.
type refusal struct {
	status int
	// public names the refusal to the peer, without coaching an attacker: what a
	// token can be wrong by looks all alike.
	public string
	// challenge is the WWW-Authenticate field (RFC 6750 section 3).
	challenge string
	// code is sent instead where the route refuses by close. 4000 to 4499 may be
	// retried, 4500 to 4999 must not.
	code ws.StatusCode
	// retry says that coming back may help. A token that the authority was not
	// asked about is as good as before. Where it was, as it may have been before
	// draining, fenced, authority_unavailable, stopping or internal, the token may
	// be spent: who comes back with it and is told token_inactive needs a new one.
	retry bool
}

const (
	challengeMissing  = `Bearer realm="gatehouse"`
	challengeInvalid  = `Bearer realm="gatehouse", error="invalid_token"`
	challengeRepeated = `Bearer realm="gatehouse", error="invalid_request"`
)

var (
	tokenInactive = refusal{http.StatusUnauthorized, "token_inactive", challengeInvalid, 4401, false}
	malformed     = refusal{http.StatusBadRequest, "handshake_malformed", "", 4500, false}
	tooMany       = refusal{http.StatusTooManyRequests, "too_many_requests", "", 4029, true}
	unavailable   = refusal{http.StatusServiceUnavailable, "unavailable", "", codeTryAgainLater, true}
	forbidden     = refusal{http.StatusForbidden, "forbidden", "", codeForbidden, false}
)

// refusals is the only place that turns a reason into the answer to an opening
// handshake. A reason without a row is answered as unavailable: fail closed.
var refusals = map[pb.Reason]refusal{
	pb.Reason_REASON_HANDSHAKE_MALFORMED: malformed,
	pb.Reason_REASON_HANDSHAKE_METHOD:    {http.StatusMethodNotAllowed, "method_not_allowed", "", 4500, false},
	pb.Reason_REASON_HANDSHAKE_VERSION:   {http.StatusUpgradeRequired, "version_not_supported", "", 4500, false},
	pb.Reason_REASON_HANDSHAKE_TIMEOUT:   {http.StatusRequestTimeout, "request_timeout", "", codeTryAgainLater, true},
	pb.Reason_REASON_HANDSHAKE_TOO_LARGE: {http.StatusRequestHeaderFieldsTooLarge, "request_too_large", "", 4500, false},
	pb.Reason_REASON_ROUTE_UNKNOWN:       {http.StatusNotFound, "no_such_route", "", 4500, false},
	pb.Reason_REASON_SUBPROTOCOL:         {http.StatusBadRequest, "subprotocol_missing", "", 4500, false},
	pb.Reason_REASON_TUNNEL:              forbidden,
	pb.Reason_REASON_ORIGIN_REFUSED:      {http.StatusForbidden, "origin_not_allowed", "", codeForbidden, false},
	pb.Reason_REASON_ORIGIN_MISSING:      {http.StatusForbidden, "origin_not_allowed", "", codeForbidden, false},

	// A client can't mend the one, and whoever provokes the other needs no telling.
	pb.Reason_REASON_CLIENT_ADDRESS_MISSING:   unavailable,
	pb.Reason_REASON_CLIENT_ADDRESS_MALFORMED: malformed,

	pb.Reason_REASON_TOKEN_MISSING:  {http.StatusUnauthorized, "token_missing", challengeMissing, 4401, false},
	pb.Reason_REASON_COOKIE_ONLY:    {http.StatusUnauthorized, "token_missing", challengeMissing, 4401, false},
	pb.Reason_REASON_TOKEN_REPEATED: {http.StatusUnauthorized, "token_repeated", challengeRepeated, 4401, false},
	pb.Reason_REASON_TOKEN_CARRIER:  {http.StatusUnauthorized, "token_missing", challengeMissing, 4401, false},

	pb.Reason_REASON_TOKEN_MALFORMED:             tokenInactive,
	pb.Reason_REASON_TOKEN_FORGED:                tokenInactive,
	pb.Reason_REASON_TOKEN_EXPIRED:               tokenInactive,
	pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE:        tokenInactive,
	pb.Reason_REASON_TOKEN_UNKNOWN:               tokenInactive,
	pb.Reason_REASON_TOKEN_SECRET_WRONG:          tokenInactive,
	pb.Reason_REASON_TOKEN_USED:                  tokenInactive,
	pb.Reason_REASON_TOKEN_REVOKED:               tokenInactive,
	pb.Reason_REASON_LOCKED:                      tokenInactive,
	pb.Reason_REASON_IP_MISMATCH:                 tokenInactive,
	pb.Reason_REASON_USER_AGENT_MISMATCH:         tokenInactive,
	pb.Reason_REASON_ORIGIN_MISMATCH:             tokenInactive,
	pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH: tokenInactive,
	pb.Reason_REASON_SESSION_ENDED:               tokenInactive,
	pb.Reason_REASON_SESSION_ID_TAKEN:            tokenInactive,
	pb.Reason_REASON_AUDIENCE_MISMATCH:           forbidden,

	pb.Reason_REASON_SESSION_LIMIT:                 tooMany,
	pb.Reason_REASON_ADDRESS_UNAUTHENTICATED_LIMIT: tooMany,
	pb.Reason_REASON_ADDRESS_LIMIT:                 tooMany,
	pb.Reason_REASON_ADDRESS_RATE:                  tooMany,

	pb.Reason_REASON_CAPACITY:              unavailable,
	pb.Reason_REASON_DRAINING:              unavailable,
	pb.Reason_REASON_FENCED:                unavailable,
	pb.Reason_REASON_AUTHORITY_UNAVAILABLE: unavailable,
	pb.Reason_REASON_OVERLOADED:            unavailable,
	pb.Reason_REASON_STOPPING:              unavailable,
	pb.Reason_REASON_INTERNAL:              unavailable,
}

// Refusals lists why the node refuses opening handshakes, in the order of the
// reasons' numbers.
func Refusals() []Told {
	var out []Told
	for _, reason := range slices.Sorted(maps.Keys(refusals)) {
		r := refusals[reason]
		out = append(out, Told{Reason: reason, Status: r.status, Code: int(r.code), Text: r.public, Again: r.retry})
	}
	return out
}

// refusalOf finds the row of a reason.
func refusalOf(reason pb.Reason) *refusal {
	if r, ok := refusals[reason]; ok {
		return &r
	}
	return &unavailable
}

// openingReason is the reason of wsconn's error about a request head, or of
// clientaddr's.
func openingReason(err error) pb.Reason {
	for _, row := range []struct {
		err    error
		reason pb.Reason
	}{
		{wsconn.ErrMethod, pb.Reason_REASON_HANDSHAKE_METHOD},
		{wsconn.ErrVersion, pb.Reason_REASON_HANDSHAKE_VERSION},
		{wsconn.ErrHandshakeTimeout, pb.Reason_REASON_HANDSHAKE_TIMEOUT},
		{wsconn.ErrHeadTooLarge, pb.Reason_REASON_HANDSHAKE_TOO_LARGE},
		{clientaddr.ErrMissing, pb.Reason_REASON_CLIENT_ADDRESS_MISSING},
		{clientaddr.ErrMalformed, pb.Reason_REASON_CLIENT_ADDRESS_MALFORMED},
	} {
		if errors.Is(err, row.err) {
			return row.reason
		}
	}
	return pb.Reason_REASON_HANDSHAKE_MALFORMED
}

// defaultRetry is when a peer may come back where nobody said otherwise.
const defaultRetry = 2 * time.Second

// handshakeField tells the peer under which id the log has the exact reason.
func handshakeField(id string) wsconn.Field {
	return wsconn.Field{Name: "Gatehouse-Handshake", Value: id}
}

// answer is the HTTP answer of a refusal.
func (r *refusal) answer(id string, retryAfter time.Duration) *wsconn.Refusal {
	a := &wsconn.Refusal{Status: r.status, Body: r.public + " (handshake " + id + ")\n"}
	a.Fields = append(a.Fields, handshakeField(id))
	if r.challenge != "" {
		a.Fields = append(a.Fields, wsconn.Field{Name: "WWW-Authenticate", Value: r.challenge})
	}
	switch r.status {
	case http.StatusMethodNotAllowed:
		a.Fields = append(a.Fields, wsconn.Field{Name: "Allow", Value: http.MethodGet})
	case http.StatusUpgradeRequired: // RFC 6455 section 4.4, RFC 9110 section 15.5.22
		a.Fields = append(a.Fields, wsconn.Field{Name: "Sec-WebSocket-Version", Value: "13"}, wsconn.Field{Name: "Upgrade", Value: "websocket"})
	}
	if r.retry {
		if retryAfter <= 0 {
			retryAfter = defaultRetry
		}
		a.Fields = append(a.Fields, wsconn.Field{Name: "Retry-After", Value: strconv.FormatInt(wholeSeconds(retryAfter), 10)})
	}
	return a
}

// wholeSeconds is d in seconds, never too short.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
