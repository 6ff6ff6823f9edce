package page

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxBodyBytes = 4 << 10
	issueTimeout = 10 * time.Second
)

// tokenRequest is what the page may choose. The rest of an IssueRequest is the
// server's to say, as in a login handler: a browser that names its own address
// or audience proves nothing.
type tokenRequest struct {
	Subject string `json:"subject"`
}

// tokenResponse is the answer to POST /token.
type tokenResponse struct {
	Token       string        `json:"token"`
	TokenID     string        `json:"token_id"`
	ExpiresAt   time.Time     `json:"expires_at"`
	ExpiresInMS int64         `json:"expires_in_ms"` // the browser's clock may differ
	Call        callView      `json:"call"`
	Commands    []commandView `json:"commands"`
}

// callView is what the authority was asked, for the page to show.
type callView struct {
	Subject   string `json:"subject"`
	Audience  string `json:"audience"`
	ClientIP  string `json:"client_ip"`
	UserAgent string `json:"user_agent"`
	Origin    string `json:"origin"`
}

type commandView struct {
	Title string `json:"title"`
	Line  string `json:"line"`
}

// serveToken stands for the application's login handler: who the user is has
// been settled, and what is left is one call to the authority.
func (h *pageHandler) serveToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "only POST")
		return
	}
	if !h.ownOrigin(r) {
		refuse(w, http.StatusForbidden, "origin_refused", "tokens are for this page only: Origin must be one of "+strings.Join(h.cfg.Origins, ", ")+", and that of the Host")
		return
	}
	if from := r.Header.Values("Sec-Fetch-Site"); slices.ContainsFunc(from, func(s string) bool { return s != "same-origin" }) {
		refuse(w, http.StatusForbidden, "cross_site", "tokens are for this page only: Sec-Fetch-Site must be same-origin")
		return
	}
	if !isJSON(r.Header.Values("Content-Type")) {
		refuse(w, http.StatusUnsupportedMediaType, "content_type", "Content-Type must be application/json")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		refuse(w, http.StatusRequestEntityTooLarge, "body_too_large", "the body may have 4096 bytes")
		return
	} else if err != nil {
		refuse(w, http.StatusBadRequest, "body_malformed", "the body did not arrive whole")
		return
	}
	asked, err := parseTokenRequest(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "body_malformed", err.Error())
		return
	}
	call := IssueRequest{
		Subject:   asked.Subject,
		Audience:  h.cfg.Audience,
		ClientIP:  clientIP(r.RemoteAddr),
		UserAgent: r.UserAgent(),
		Origin:    r.Header.Get("Origin"),
	}
	ctx, cancel := context.WithTimeout(r.Context(), issueTimeout)
	defer cancel()
	issued, err := h.cfg.Issue(ctx, call)
	if err != nil {
		if r.Context().Err() == nil { // else nobody is there to be told
			h.refuseIssue(w, err)
		}
		return
	}
	writeJSON(w, http.StatusOK, tokenResponse{
		Token:       issued.Token,
		TokenID:     issued.TokenID,
		ExpiresAt:   issued.ExpiresAt.UTC(),
		ExpiresInMS: issued.ExpiresAt.Sub(h.now()).Milliseconds(),
		Call: callView{
			Subject:   call.Subject,
			Audience:  call.Audience,
			ClientIP:  call.ClientIP.String(),
			UserAgent: call.UserAgent,
			Origin:    call.Origin,
		},
		Commands: commandViews(h.cfg.Commands(issued.TokenID, call.Subject)),
	})
}

// ownOrigin reports whether r comes from the page as served under this very
// Host. Browsers send an Origin with every POST, so none is refused.
func (h *pageHandler) ownOrigin(r *http.Request) bool {
	origin := r.Header.Values("Origin")
	if len(origin) != 1 || !slices.Contains(h.cfg.Origins, origin[0]) {
		return false
	}
	_, host, _ := strings.Cut(origin[0], "://")
	return host == r.Host
}

// isJSON keeps out the media types that a form of a foreign page can send
// without asking first.
func isJSON(contentType []string) bool {
	if len(contentType) != 1 {
		return false
	}
	kind, params, err := mime.ParseMediaType(contentType[0])
	if err != nil || kind != "application/json" {
		return false
	}
	charset, named := params["charset"]
	return !named || strings.EqualFold(charset, "utf-8")
}

var (
	errBody  = errors.New(`the body must be a JSON object as {"subject": "demo-user"}`)
	errField = errors.New("the body may have the field subject and no other")
)

// parseTokenRequest checks the form alone; what a subject may be is for the
// authority, whose words are shown.
func parseTokenRequest(body []byte) (tokenRequest, error) {
	var fields map[string]json.RawMessage // exact names: encoding/json matches those of structs in any case
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return tokenRequest{}, errBody
	}
	var req tokenRequest
	for name, value := range fields {
		if name != "subject" {
			return tokenRequest{}, errField
		}
		if len(value) == 0 || value[0] != '"' || json.Unmarshal(value, &req.Subject) != nil {
			return tokenRequest{}, errBody
		}
	}
	return req, nil
}

// clientIP is the zero Addr where the server does not know the peer's address.
func clientIP(remote string) netip.Addr {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// issueStatus gives the statuses of errors whose message is for the user. The
// others' is not: their cause is logged.
var issueStatus = map[codes.Code]int{
	codes.InvalidArgument:    http.StatusBadRequest,
	codes.Unauthenticated:    http.StatusForbidden,
	codes.PermissionDenied:   http.StatusForbidden,
	codes.FailedPrecondition: http.StatusConflict,
	codes.ResourceExhausted:  http.StatusTooManyRequests,
	codes.Unavailable:        http.StatusServiceUnavailable,
	codes.DeadlineExceeded:   http.StatusGatewayTimeout,
}

func (h *pageHandler) refuseIssue(w http.ResponseWriter, err error) {
	st := statusOf(err)
	if st.Code() == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		st = status.New(codes.DeadlineExceeded, "the authority did not answer in time")
	}
	code, shown := issueStatus[st.Code()]
	if !shown {
		h.cfg.Log.Error("issue a token for the try-out page", "error", err)
		refuse(w, http.StatusInternalServerError, "internal", "the authority could not issue a token; the terminal of gatehouse dev has the cause")
		return
	}
	refuse(w, code, issueReason(st), st.Message())
}

// statusOf finds the status in err, without the words that err wraps it in.
func statusOf(err error) *status.Status {
	var wrapped interface{ GRPCStatus() *status.Status }
	if errors.As(err, &wrapped) {
		return wrapped.GRPCStatus()
	}
	return status.Convert(err)
}

// issueReason is the authority's own reason, else the name of the code.
func issueReason(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return st.Code().String()
}
