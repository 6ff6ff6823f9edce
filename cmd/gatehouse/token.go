package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

func (c *cli) tokenCommand() *cobra.Command {
	cmd := verbs("token", "Issue tokens and see what became of them")
	cmd.AddCommand(c.tokenIssueCommand(), c.tokenListCommand(), c.tokenShowCommand(), c.tokenIntrospectCommand())
	return cmd
}

func (c *cli) tokenShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show (ID | -)", Short: "Show all that is known of a token",
		Long: `Show all that is known of a token: its exact state, what it says, and the
sessions it opened. The authority forgets a token some minutes after its expiry.

With - the token's text is read from standard input and turned into its id here:
the text goes nowhere.`,
		Example: `  gatehouse token show 01JD8Z0Q4M3T5V7X9ZABCDEFGH
  gatehouse token show 01JD8Z0Q4M3T5V7X9ZABCDEFGH -o json | jq -r .state
  gatehouse token show - < token.txt`,
		Args: oneArg("a token id or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var id token.ID
			var err error
			if args[0] == "-" {
				var t token.Token
				if t, _, err = c.readToken(cmd.Context()); err != nil {
					return err
				}
				id = t.ID
			} else if id, err = token.ParseID(args[0]); err != nil {
				return usage("gatehouse token list shows ids; gatehouse token show - reads a token's text", "%q is %w", args[0], err)
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			resp, err := cl.tokens.GetToken(cmd.Context(), &pb.GetTokenRequest{TokenId: id.String()})
			if err != nil {
				return err
			}
			return c.showToken(resp.GetToken())
		},
	}
}

func (c *cli) tokenIntrospectCommand() *cobra.Command {
	return &cobra.Command{
		Use: "introspect", Short: "Tell whether a token could open a socket now (RFC 7662)",
		Long: `Tell whether a token could open a socket now, and what it says. The token's text
is read from standard input; on a terminal it is not shown while it is typed.

A token that is unknown, expired, used or revoked is inactive, which is an
answer and not an error: gatehouse token show tells which.`,
		Example: `  gatehouse token introspect < token.txt
  gatehouse token introspect -o json < token.txt | jq .active`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, text, err := c.readToken(cmd.Context())
			if err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			resp, err := cl.tokens.IntrospectToken(cmd.Context(), &pb.IntrospectTokenRequest{Token: text})
			switch {
			case err != nil:
				return err
			case c.format == formatJSON:
				return c.printMessage(resp)
			case !resp.GetActive():
				return c.printf("inactive\n")
			}
			return c.showToken(resp.GetToken())
		},
	}
}

// readToken reads one token's text from standard input. Its errors repeat
// nothing of it.
func (c *cli) readToken(ctx context.Context) (t token.Token, asText string, err error) {
	b, err := c.readSecret(ctx, "Token: ")
	if err != nil {
		return t, "", err
	}
	asText = text(b)
	if err := token.Parse([]byte(asText), &t); err != nil {
		if words := strings.Fields(asText); len(words) > 1 && token.Parse([]byte(words[0]), &t) == nil {
			return t, "", usage("pass them one by one", "standard input holds more than one token's text")
		}
		return t, "", usage(fmt.Sprintf("a token's text is one line of %d characters, as gatehouse token issue printed it", token.TextSize),
			"standard input holds no token's text: %w", err)
	}
	return t, asText, nil
}

// readSecret reads all of standard input, or on a terminal one line that is not
// echoed. It gives up when ctx ends.
func (c *cli) readSecret(ctx context.Context, prompt string) ([]byte, error) {
	const enough = 4096 // bytes; more is no token
	read := func() ([]byte, error) { return io.ReadAll(io.LimitReader(c.stdin, enough)) }
	if isTerminal(c.stdin) {
		fd := int(c.stdin.(*os.File).Fd())
		before, err := term.GetState(fd)
		if err != nil {
			return nil, fmt.Errorf("read the terminal's state: %w", err)
		}
		defer func() { _ = term.Restore(fd, before) }() // an interrupted read leaves the echo off
		fmt.Fprint(c.stderr, prompt)
		defer fmt.Fprintln(c.stderr)
		read = func() ([]byte, error) { return term.ReadPassword(fd) }
	}
	return await(ctx, read)
}

// await runs read in a goroutine of its own and waits for it or the end of ctx,
// since nothing else ends a read of standard input. That goroutine ends with
// the process.
func await[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			r.err = fmt.Errorf("read standard input: %w", r.err)
		}
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, errInterrupted
	}
}

func (c *cli) showToken(t *pb.Token) error {
	if c.format == formatJSON {
		return c.printMessage(t)
	}
	tab := c.newTable()
	row := func(name, value string) {
		if value != "" {
			tab.row(name, value)
		}
	}
	row("token", t.GetTokenId())
	row("state", label(t.GetState()))
	row("tenant", t.GetTenant())
	row("subject", t.GetSubject())
	row("audience", t.GetAudience())
	row("uses", fmt.Sprintf("%d of %d", t.GetUses(), t.GetMaxUses()))
	row("issued", c.when(t.GetIssuedAt())+" by "+t.GetIssuer()+", revision "+revisionText(t.GetIssuedRevision()))
	if t.GetNotBefore().AsTime().After(t.GetIssuedAt().AsTime()) {
		row("active from", c.when(t.GetNotBefore()))
	}
	row("expires", c.when(t.GetExpiresAt()))
	row("session ttl", spanOf(t.GetSessionTtl()))
	row("client ip", bound(t.GetClientIp(), t.GetIpBinding().Number() != 0, label(t.GetIpBinding())))
	row("user agent", bound(string(t.GetUserAgent()), t.GetUserAgentBinding().Number() != 0, label(t.GetUserAgentBinding())))
	if t.GetBrowser() != "" || t.GetOs() != "" {
		row("browser", t.GetBrowser()+" on "+t.GetOs())
	}
	row("origin", t.GetOrigin())
	if sum := t.GetClientCertificateSha256(); len(sum) > 0 {
		row("client certificate", "x5t#S256 "+base64.RawURLEncoding.EncodeToString(sum))
	}
	row("scopes", strings.Join(t.GetScopes(), ", "))
	for _, name := range slices.Sorted(maps.Keys(t.GetAttributes())) {
		row("attribute", name+"="+t.GetAttributes()[name])
	}
	row("limits", limitsText(t.GetLimits()))
	if t.GetRevokedBy() != nil {
		row("revoked by", revisionText(t.GetRevokedBy()))
	}
	row("locked by", t.GetLockId())
	for _, id := range t.GetSessionIds() {
		row("session", id)
	}
	return tab.Flush()
}

// bound is what a token is bound to, with how.
func bound(to string, known bool, binding string) string {
	if to == "" || !known {
		return to
	}
	return to + " (binding " + binding + ")"
}

func limitsText(l *pb.SessionLimits) string {
	var parts []string
	if n := l.GetMessageBytes(); n > 0 {
		parts = append(parts, count(n, "byte")+" a message")
	}
	if n := l.GetMessagesPerSecond(); n > 0 {
		parts = append(parts, count(n, "message")+" a second")
	}
	if n := l.GetSessionsPerSubject(); n > 0 {
		parts = append(parts, count(n, "session")+" of the subject")
	}
	return strings.Join(parts, ", ")
}

func (c *cli) tokenListCommand() *cobra.Command {
	req := &pb.ListTokensRequest{}
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List tokens that have not expired, the first to expire first",
		Long: `List the tokens that have not expired, the first to expire first. Filters that
are given must all match. Rows are written as they come.`,
		Example: `  gatehouse token list --subject u42
  gatehouse token list --tenant acme --state active --limit 20
  gatehouse token list --ip-prefix 203.0.113.0/24 -o json | jq -r '.tokens[].token_id'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLimit(limit); err != nil {
				return err
			}
			if err := checkFilters(cmd, req.GetIpPrefix()); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			out := c.newList("tokens", "TOKEN", "STATE", "TENANT", "SUBJECT", "AUDIENCE", "USES", "EXPIRES", "ISSUER")
			more, err := pages(limit, func(size int32, from string) (int, string, error) {
				req.PageSize, req.PageToken = size, from
				resp, err := cl.tokens.ListTokens(cmd.Context(), req)
				if err != nil {
					return 0, "", err
				}
				for _, t := range resp.GetTokens() {
					out.add(t, func() []string {
						return []string{
							t.GetTokenId(), label(t.GetState()), t.GetTenant(), t.GetSubject(), t.GetAudience(),
							fmt.Sprintf("%d/%d", t.GetUses(), t.GetMaxUses()), c.relative(t.GetExpiresAt()), t.GetIssuer(),
						}
					})
				}
				return len(resp.GetTokens()), resp.GetNextPageToken(), out.flush()
			})
			if err != nil {
				return err
			}
			return out.end(more)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&req.Tenant, "tenant", "", "tokens of this tenant")
	f.StringVar(&req.Subject, "subject", "", "tokens of this subject")
	f.StringVar(&req.Audience, "audience", "", "tokens for this audience")
	f.StringVar(&req.Issuer, "issuer", "", "tokens that this credential issued")
	f.StringVar(&req.IpPrefix, "ip-prefix", "", "tokens bound to an address in this CIDR prefix")
	state := enumFlag[pb.TokenState]{&req.State}
	f.Var(state, "state", "tokens in this state")
	limitFlag(f, &limit, "tokens")
	completeWith(cmd, "state", state.labels()...)
	return cmd
}
