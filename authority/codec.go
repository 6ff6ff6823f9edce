package authority

import (
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// codec is grpc's own for protobuf, but for what goes to many streams, and for the
// messages of the Redeem stream. What those usually have it reads into a few large
// pieces of memory and writes by one pass over their fields, in a third of the time;
// any other it leaves to grpc's, which also tells what is wrong with it.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if req, ok := v.(*pb.RedeemRequest); ok && readRedeemRequest(data.Materialize(), req) {
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if many, ok := v.(*forMany); ok {
		wire, err := many.encode()
		return mem.BufferSlice{mem.SliceBuffer(wire)}, err
	}
	resp, ok := v.(*pb.RedeemResponse)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size, ok := sizeRedeemResponse(resp)
	if !ok || mem.IsBelowBufferPoolingThreshold(size) {
		return c.CodecV2.Marshal(v)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	appendRedeemResponse((*buf)[:0], resp)
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// forMany is a message that goes to many streams: it is encoded for the first of
// them, and not to be changed.
type forMany struct {
	*pb.AttachResponse
	encode func() ([]byte, error)
}

func newForMany(m *pb.AttachResponse) *forMany {
	return &forMany{m, sync.OnceValues(func() ([]byte, error) { return proto.Marshal(m) })}
}

// asked is an item with what it points to.
type asked struct {
	item     pb.RedeemItem
	observed pb.Observation
}

// readRedeemRequest reads a request that has items alone, none of which has a
// field that the others do not know, and says whether it was one: req is as it
// was if not. It keeps data.
func readRedeemRequest(data []byte, req *pb.RedeemRequest) bool {
	n := 0
	for rest := data; len(rest) > 0; n++ {
		_, after, ok := message(rest, fieldRequestItems)
		if !ok {
			return false
		}
		rest = after
	}
	if n == 0 || n > maxBatch {
		return false
	}
	all, items := make([]asked, n), make([]*pb.RedeemItem, n)
	audience := ""
	for i := range all {
		var body []byte
		body, data, _ = message(data, fieldRequestItems)
		if !all[i].read(body, &audience) {
			return false
		}
		items[i] = &all[i].item
	}
	req.Items = items
	return true
}

// Numbers of the fields of messages, as node_service.proto and types.proto have
// them.
const (
	fieldRequestItems    protowire.Number = 2
	fieldSingleUseOnly   protowire.Number = 6
	fieldResponseResults protowire.Number = 2
	fieldResultGrant     protowire.Number = 1
)

// message reads a field of so many bytes that has the number.
func message(data []byte, number protowire.Number) (body, rest []byte, ok bool) {
	num, body, rest, ok := bytesField(data)
	return body, rest, ok && num == number
}

func bytesField(data []byte) (num protowire.Number, body, rest []byte, ok bool) {
	num, typ, n := protowire.ConsumeTag(data)
	if n < 0 || typ != protowire.BytesType {
		return 0, nil, nil, false
	}
	body, m := protowire.ConsumeBytes(data[n:])
	if m < 0 {
		return 0, nil, nil, false
	}
	return num, body[:len(body):len(body)], data[n+m:], true
}

// read reads an item. Those of one request are mostly for one audience, which the
// one before it had.
func (a *asked) read(data []byte, audience *string) bool {
	item := &a.item
	for len(data) > 0 {
		if data[0] == byte(fieldSingleUseOnly)<<3|byte(protowire.VarintType) {
			v, n := protowire.ConsumeVarint(data[1:])
			if n < 0 {
				return false
			}
			item.SingleUseOnly, data = protowire.DecodeBool(v), data[1+n:]
			continue
		}
		num, body, rest, ok := bytesField(data)
		if !ok {
			return false
		}
		data = rest
		switch num {
		case 1:
			item.TokenId = body
		case 2:
			item.Digest = body
		case 3:
			item.SessionId = body
		case 4:
			if item.Observed != nil || !a.readObserved(body) {
				return false
			}
			item.Observed = &a.observed
		case 5:
			if string(body) != *audience {
				if *audience = string(body); !utf8.ValidString(*audience) {
					return false
				}
			}
			item.Audience = *audience
		case 7:
			item.RenewsSessionId = body
		case 8:
			item.Span = body
		default:
			return false
		}
	}
	return true
}

func (a *asked) readObserved(data []byte) bool {
	for len(data) > 0 {
		num, body, rest, ok := bytesField(data)
		if !ok {
			return false
		}
		data = rest
		switch num {
		case 1:
			a.observed.Ip = body
		case 2:
			a.observed.UserAgent = body
		case 3:
			a.observed.Origin = body
		case 4:
			a.observed.ClientCertificateSha256 = body
		default:
			return false
		}
	}
	return true
}

// sizeRedeemResponse returns the bytes that a response takes, if it has grants
// alone, of which none has limits.
func sizeRedeemResponse(resp *pb.RedeemResponse) (size int, ok bool) {
	if resp.Hello != nil {
		return 0, false
	}
	for _, r := range resp.Results {
		yes, ok := r.GetOutcome().(*pb.RedeemResult_Grant)
		if !ok || yes.Grant == nil || !plain(yes.Grant) {
			return 0, false
		}
		size += sizeBytes(sizeBytes(sizeGrant(yes.Grant)))
	}
	return size, true
}

func appendRedeemResponse(to []byte, resp *pb.RedeemResponse) []byte {
	for _, r := range resp.Results {
		g := r.GetGrant()
		size := sizeGrant(g)
		to = appendHead(to, fieldResponseResults, sizeBytes(size))
		to = appendHead(to, fieldResultGrant, size)
		to = appendGrant(to, g)
	}
	return to
}

// plain tells whether a grant can be written here.
func plain(g *pb.Grant) bool {
	if g.Limits != nil || !utf8.ValidString(g.Tenant) || !utf8.ValidString(g.Subject) || !utf8.ValidString(g.Issuer) {
		return false
	}
	for _, scope := range g.Scopes {
		if !utf8.ValidString(scope) {
			return false
		}
	}
	for name, value := range g.Attributes {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return false
		}
	}
	return true
}

// Each size here is that of a field with its tag, which takes a byte.

func sizeGrant(g *pb.Grant) int {
	n := sizeText(g.Tenant) + sizeText(g.Subject) + sizeText(g.Issuer) + sizeTimestamp(g.SessionExpiresAt) + sizeRevision(g.IssuedRevision) + sizeRevision(g.AsOf)
	if len(g.ClientIp) > 0 {
		n += sizeBytes(len(g.ClientIp))
	}
	for _, scope := range g.Scopes {
		n += sizeBytes(len(scope))
	}
	for name, value := range g.Attributes {
		n += sizeBytes(sizeBytes(len(name)) + sizeBytes(len(value)))
	}
	return n
}

func appendGrant(to []byte, g *pb.Grant) []byte {
	to = appendText(to, 1, g.Tenant)
	to = appendText(to, 2, g.Subject)
	for _, scope := range g.Scopes {
		to = append(appendHead(to, 3, len(scope)), scope...)
	}
	for name, value := range g.Attributes {
		to = appendHead(to, 4, sizeBytes(len(name))+sizeBytes(len(value)))
		to = append(appendHead(to, 1, len(name)), name...)
		to = append(appendHead(to, 2, len(value)), value...)
	}
	if at := g.SessionExpiresAt; at != nil {
		to = appendHead(to, 6, sizeTimestamp(at)-2)
		to = appendVarint(to, 1, uint64(at.Seconds))
		to = appendVarint(to, 2, uint64(at.Nanos))
	}
	to = appendText(to, 7, g.Issuer)
	if len(g.ClientIp) > 0 {
		to = append(appendHead(to, 8, len(g.ClientIp)), g.ClientIp...)
	}
	to = appendRevision(to, 9, g.IssuedRevision)
	return appendRevision(to, 10, g.AsOf)
}

func sizeTimestamp(at *timestamppb.Timestamp) int {
	if at == nil {
		return 0
	}
	return 2 + sizeVarint(uint64(at.Seconds)) + sizeVarint(uint64(at.Nanos))
}

func sizeRevision(r *pb.Revision) int {
	if r == nil {
		return 0
	}
	return 2 + sizeVarint(r.Epoch) + sizeVarint(r.Sequence)
}

func appendRevision(to []byte, number protowire.Number, r *pb.Revision) []byte {
	if r == nil {
		return to
	}
	to = appendHead(to, number, sizeRevision(r)-2)
	to = appendVarint(to, 1, r.Epoch)
	return appendVarint(to, 2, r.Sequence)
}

func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }

func appendHead(to []byte, number protowire.Number, n int) []byte {
	to = append(to, byte(number)<<3|byte(protowire.BytesType))
	return protowire.AppendVarint(to, uint64(n))
}

func sizeText(s string) int {
	if s == "" {
		return 0
	}
	return sizeBytes(len(s))
}

func appendText(to []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return to
	}
	return append(appendHead(to, number, len(s)), s...)
}

func sizeVarint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func appendVarint(to []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return to
	}
	to = append(to, byte(number)<<3|byte(protowire.VarintType))
	return protowire.AppendVarint(to, v)
}
