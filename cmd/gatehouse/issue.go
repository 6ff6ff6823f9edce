package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/callerr"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// maxBatch is how many tokens the authority issues in one call.
const maxBatch = 256

const issueHelp = `Issue a token that opens one WebSocket, or as many as --max-uses says.

The token's text alone goes to standard output, once and never again; its id and
expiry go to standard error. Hand the text to the client and keep it nowhere.

A binding needs what it binds to: --ip-binding needs --client-ip, and
--user-agent-binding needs --user-agent. With these given and no binding named,
the address is logged where it differs, and browser and system must match.`

const issueExample = `  gatehouse token issue --subject u42 --audience chat
  gatehouse token issue --subject u42 --audience chat --client-ip 203.0.113.7 --ip-binding prefix
  gatehouse token issue --subject u42 --audience chat --scope message --attribute plan=pro --ttl 30s
  gatehouse token issue --subject pump-7 --audience devices --client-cert pump-7.crt
  gatehouse token issue --subject load --audience chat --count 1000 > tokens.txt
  TOKEN=$(gatehouse token issue --subject u42 --audience chat)`

// issueFlags are the flags of token issue that are not fields of the request
// as they are.
type issueFlags struct {
	userAgent       string
	clientCert      string
	attributes      []string
	notBefore       string
	ttl, sessionTTL time.Duration
	count           int
	messageBytes    uint32
	perSecond       uint32
	perSubject      uint32
}

func (c *cli) tokenIssueCommand() *cobra.Command {
	req := &pb.IssueTokenRequest{}
	var in issueFlags
	cmd := &cobra.Command{
		Use: "issue --subject USER --audience AUDIENCE", Short: "Issue a token", Long: issueHelp, Example: issueExample, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := in.complete(req, c.now()); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			if cmd.Flags().Changed("count") {
				return c.issueMany(cmd.Context(), cl, req, in.count)
			}
			return c.issueOne(cmd.Context(), cl, req)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&req.Subject, "subject", "", "the user's id in the application (required)")
	f.StringVar(&req.Audience, "audience", "", "the audience of the routes that take the token (required)")
	f.StringVar(&req.Tenant, "tenant", "", "the tenant; the credential's only one, or default")
	f.StringVar(&req.ClientIp, "client-ip", "", "the client's address as the login saw it")
	f.StringVar(&in.userAgent, "user-agent", "", "the client's User-Agent as the login saw it")
	f.StringVar(&req.Origin, "origin", "", "the only Origin that may present the token, such as https://app.example.com")
	f.StringVar(&in.clientCert, "client-cert", "", "the certificate that a client must show to present the token: its file, or its SHA-256 in hex or as x5t#S256")
	ip, ua := enumFlag[pb.IpBinding]{&req.IpBinding}, enumFlag[pb.UserAgentBinding]{&req.UserAgentBinding}
	f.Var(ip, "ip-binding", "how the client's address must fit")
	f.Var(ua, "user-agent-binding", "how the client's User-Agent must fit")
	f.StringArrayVar(&in.attributes, "attribute", nil, "NAME=VALUE that the application wants to know of the session; repeat for more")
	f.StringArrayVar(&req.Scopes, "scope", nil, "a message type that the session may send; repeat for more; none means all of the route's")
	f.Uint32Var(&req.MaxUses, "max-uses", 0, "how many sockets the token may open (1)")
	f.StringVar(&in.notBefore, "not-before", "", "from when the token is active: a time as 2026-11-23T12:00:00Z, or a duration from now")
	f.DurationVar(&in.ttl, "ttl", 0, "how long the token may open sockets (the authority's default)")
	f.DurationVar(&in.sessionTTL, "session-ttl", 0, "how long its sockets may live (the authority's default)")
	f.Uint32Var(&in.messageBytes, "message-bytes", 0, "bytes of one message, where the node allows more")
	f.Uint32Var(&in.perSecond, "messages-per-second", 0, "messages a second, where the node allows more")
	f.Uint32Var(&in.perSubject, "sessions-per-subject", 0, "live sessions of the subject over all nodes")
	f.IntVarP(&in.count, "count", "n", 1, "how many tokens to issue, one a line")
	completeWith(cmd, "ip-binding", ip.labels()...)
	completeWith(cmd, "user-agent-binding", ua.labels()...)
	return cmd
}

// complete checks what only the command line can get wrong, and fills req.
func (in *issueFlags) complete(req *pb.IssueTokenRequest, now time.Time) error {
	const hint = "gatehouse token issue --help has examples"
	if req.Subject == "" || req.Audience == "" {
		return usage(hint, "--subject and --audience are required")
	}
	if in.count < 1 {
		return usage(hint, "--count: %d is below 1", in.count)
	}
	req.UserAgent = []byte(in.userAgent)
	if in.clientCert != "" {
		var err error
		if req.ClientCertificateSha256, err = certificateHash(in.clientCert); err != nil {
			return usage(hint, "--client-cert: %v", err)
		}
	}
	for _, a := range in.attributes {
		name, value, ok := strings.Cut(a, "=")
		if _, twice := req.Attributes[name]; !ok || name == "" || twice {
			return usage(hint, "--attribute: %q is not NAME=VALUE, or gives NAME again", a)
		}
		if req.Attributes == nil {
			req.Attributes = map[string]string{}
		}
		req.Attributes[name] = value
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
		field **durationpb.Duration
	}{{"--ttl", in.ttl, &req.Ttl}, {"--session-ttl", in.sessionTTL, &req.SessionTtl}} {
		if d.value < 0 {
			return usage(hint, "%s: %v is below 0", d.flag, d.value)
		}
		if d.value > 0 {
			*d.field = durationpb.New(d.value)
		}
	}
	if in.notBefore != "" {
		t, err := time.Parse(time.RFC3339, in.notBefore)
		if err != nil {
			d, err := time.ParseDuration(in.notBefore)
			if err != nil {
				return usage(hint, "--not-before: %q is neither a time such as 2026-11-23T12:00:00Z nor a duration such as 5m", in.notBefore)
			}
			t = now.Add(d)
		}
		req.NotBefore = timestamppb.New(t)
	}
	if in.messageBytes > 0 || in.perSecond > 0 || in.perSubject > 0 {
		req.Limits = &pb.SessionLimits{
			MessageBytes: in.messageBytes, MessagesPerSecond: in.perSecond, SessionsPerSubject: in.perSubject,
		}
	}
	return nil
}

func (c *cli) issueOne(ctx context.Context, cl *client, req *pb.IssueTokenRequest) error {
	resp, err := cl.tokens.IssueToken(ctx, req)
	if err != nil {
		return err
	}
	if c.format == formatJSON {
		return c.printMessage(resp)
	}
	if err := c.printf("%s\n", resp.GetToken()); err != nil {
		return err
	}
	c.note("token %s, expires %s", resp.GetTokenId(), c.when(resp.GetExpiresAt()))
	return nil
}

// issueMany issues in batches, and stops after the first that has a failure:
// what it hit would most likely hit the rest.
func (c *cli) issueMany(ctx context.Context, cl *client, req *pb.IssueTokenRequest, n int) error {
	out := c.newList("tokens")
	var stopped error
	var last *pb.IssueTokenResponse
	for issued := 0; issued < n && stopped == nil; {
		batch := &pb.IssueTokensRequest{}
		for range min(maxBatch, n-issued) {
			batch.Requests = append(batch.Requests, req)
		}
		resp, err := cl.tokens.IssueTokens(ctx, batch)
		if stopped = err; err == nil && len(resp.GetResults()) != len(batch.GetRequests()) {
			stopped = fmt.Errorf("the authority answered %d of %d requests", len(resp.GetResults()), len(batch.GetRequests()))
		}
		for _, r := range resp.GetResults() {
			if r.GetError() != nil {
				stopped = itemFailure(r.GetError())
				continue
			}
			issued, last = issued+1, r.GetToken()
			if c.format == formatJSON {
				out.add(last, nil)
			} else if err := c.printf("%s\n", last.GetToken()); err != nil {
				return err
			}
		}
		if stopped != nil {
			stopped = partly(stopped, issued, fmt.Sprintf("issued %d of %d tokens", issued, n))
		}
	}
	if c.format == formatJSON {
		if err := out.end(stopped != nil); err != nil {
			return err
		}
	}
	if last != nil {
		c.note("the last token expires %s", c.when(last.GetExpiresAt()))
	}
	return stopped
}

// itemFailure is the failure of one item of a batch.
func itemFailure(e *pb.ItemError) error {
	f := &failure{exit: exitFailure, reason: e.GetReason().Label(), hint: callerr.ReasonHints[e.GetReason()], err: errors.New(e.GetMessage())}
	if exit, ok := callerr.StatusExits[codes.Code(e.GetCode())]; ok {
		f.exit = exitCode(exit)
	}
	return f
}

// partly makes a failure that came after some of the work was done say so, in
// words and by the exit code.
func partly(err error, done int, what string) error {
	f := &failure{exit: exitFailure}
	errors.As(err, &f)
	out := &failure{exit: f.exit, reason: f.reason, hint: f.hint, err: fmt.Errorf("%s: %w", what, err)}
	if done > 0 && f.exit != exitInterrupted {
		out.exit = exitUnconfirmed
	}
	return out
}
