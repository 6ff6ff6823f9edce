package wsnode

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// Outgoing says which messages the application may send to the sockets of a route.
// Without types it may send any.
type Outgoing struct {
	Discriminator string         `yaml:"discriminator" help:"property of every such message that names its type"`
	Types         []OutgoingType `yaml:"types" help:"the types of message that the application may send; none checks nothing"`
	Shared        []string       `yaml:"shared" help:"further schema files, for $ref to refer to"`
	Unlisted      bool           `yaml:"unlisted" help:"let messages of types that are not listed pass too"`
	OnRefusal     schema.Policy  `yaml:"on_refusal" help:"what a message that is not allowed does: drop (it is not sent, and the session goes on) or close (the session, with 1011); a broadcast to many sessions is dropped"`
	Annotate      bool           `yaml:"annotate" help:"let format and content* be annotations, as the draft has it, that refuse nothing"`
	Guards        schema.Guards  `yaml:"guards" help:"what none of these messages may exceed, whatever its schema says"`
}

// OutgoingType is one type of message that an application sends.
type OutgoingType struct {
	Name   string `yaml:"name" help:"value of the discriminator"`
	Schema string `yaml:"schema" help:"its schema: a file, or a place in one, as messages.json#/$defs/chat"`
}

func defaultOutgoing() Outgoing {
	of := schema.Default()
	return Outgoing{Discriminator: of.Discriminator, OnRefusal: schema.Drop, Guards: of.Guards}
}

// config is what package schema makes of it.
func (o *Outgoing) config() schema.Config {
	c := schema.Default()
	c.Discriminator, c.Shared, c.Annotate, c.Guards = o.Discriminator, o.Shared, o.Annotate, o.Guards
	for _, t := range o.Types {
		c.Types = append(c.Types, schema.Type{Name: t.Name, Schema: t.Schema})
	}
	return c
}

func (o *Outgoing) validate() error {
	if len(o.Types) == 0 {
		return nil
	}
	var problems []error
	c := o.config()
	if many, ok := c.Validate().(interface{ Unwrap() []error }); ok {
		problems = many.Unwrap()
	}
	if o.OnRefusal != schema.Drop && o.OnRefusal != schema.Close {
		problems = append(problems, fmt.Errorf("on_refusal: %q is neither drop nor close", o.OnRefusal))
	}
	return errors.Join(problems...)
}

// Compile makes what checks these messages; nil where any may be sent.
func (o *Outgoing) Compile(files fs.FS) (*schema.Set, error) {
	if len(o.Types) == 0 {
		return nil, nil
	}
	return schema.Compile(files, o.config())
}

// outgoing is Outgoing in use.
type outgoing struct {
	checks atomic.Pointer[schema.Set] // nil where any message may be sent; reloaded
	said   atomic.Int64               // when the log was last told, in Unix nanoseconds
}

// outgoingReasons are those why a message of the application is not sent.
var outgoingReasons = append([]pb.Reason{pb.Reason_REASON_BINARY_REFUSED}, forgivable...)

// allowSending reports why a message of the application is not to be sent. It is
// called from anywhere.
func (p *peer) allowSending(checks *schema.Set, op deliver.Op, payload []byte) error {
	kind, err := p.route.unsendable(checks, op, payload)
	if err == nil {
		return nil
	}
	p.n.refuseSending(p.route, p, kind, err)
	if p.route.Outgoing.OnRefusal == schema.Close {
		p.kill(fmt.Errorf("%w: a message that it sends is refused: %v", errHandler, err))
	}
	return deliver.ErrNotAllowed
}

// unsendable is the type of a message of the application, if it is known, and why
// it is not to be sent, or nil.
func (r *route) unsendable(checks *schema.Set, op deliver.Op, payload []byte) (kind string, err error) {
	switch {
	case op == deliver.Text:
		kind, err = checks.Check(payload)
	case !r.Binary:
		err = errBinary
	}
	if r.Outgoing.Unlisted && errors.Is(err, schema.ErrTypeUnknown) {
		err = nil
	}
	return kind, err
}

// refuseSending counts a message that is not sent, and tells the log, once a second
// of a route: an application that is wrong about a message is wrong about all of
// them. p is whom it was for, or nil if for all.
func (n *Node) refuseSending(r *route, p *peer, kind string, err error) {
	reason := closeFor(err).reason
	n.metrics.unsent[reason].Inc()
	last, now := r.outgoing.said.Load(), time.Now().UnixNano()
	if now-last < int64(time.Second) || !r.outgoing.said.CompareAndSwap(last, now) {
		return
	}
	args := []any{"route", r.Path, "reason", reason.Label(), "detail", err.Error(), "type", kind}
	if p == nil {
		args = append(args, "broadcast", true)
	} else {
		who := p.Identity(0)
		args = append(args, "session_id", hex.EncodeToString(who.Session[:]), "token_id", token.ID(who.Token).String(), "on_refusal", string(r.Outgoing.OnRefusal))
	}
	n.log.Log(context.Background(), slog.LevelWarn, "the application sends what its schema does not allow", args...)
}
