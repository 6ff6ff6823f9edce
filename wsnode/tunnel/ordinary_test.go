package tunnel

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// The ordinary traffic that no detector may take for a tunnel: made by the
// generators of this file and ordinarymade_test.go from a fixed seed, so that the
// repository holds no megabytes of it, and written by hand in handmade_test.go.

// message is one that a client sends.
type message struct {
	binary  bool
	payload []byte
}

// conversation is what one socket sends, in its order.
type conversation struct {
	kind     string
	messages []message
}

// perKind is how many messages of each kind are made, at least.
const perKind = 420

// kinds make the next conversation of a kind.
var kinds = []struct {
	name string
	make func(m *maker)
}{
	{"chat", (*maker).chat},
	{"chat that quotes protocols", (*maker).quotes},
	{"images", (*maker).images},
	{"orders and JSON-RPC", (*maker).orders},
	{"GraphQL", (*maker).graphQL},
	{"telemetry", (*maker).telemetry},
	{"code", (*maker).code},
	{"editing", (*maker).editing},
	{"game", (*maker).game},
	{"logs", (*maker).logs},
	{"signalling", (*maker).signalling},
	{"protobuf", (*maker).protobuf},
	{"msgpack and CBOR", (*maker).packed},
	{"audio and video", (*maker).media},
	{"uploads", (*maker).uploads},
	{"protocols of messages", (*maker).protocols},
}

// ordinary is the whole of it, the same at every call.
var ordinary = sync.OnceValue(makeOrdinary)

func makeOrdinary() []conversation {
	all := handmade()
	for i, k := range kinds {
		m := &maker{Rand: rand.New(rand.NewPCG(0x6761746568, uint64(i)))}
		for n := 0; n < perKind; n += len(m.made) {
			m.made = nil
			k.make(m)
			all = append(all, conversation{k.name, m.made})
		}
	}
	return all
}

// maker makes conversations.
type maker struct {
	*rand.Rand
	made []message
	id   int
}

func (m *maker) text(format string, args ...any) {
	m.made = append(m.made, message{payload: fmt.Appendf(nil, format, args...)})
}

func (m *maker) json(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	m.made = append(m.made, message{payload: b})
}

func (m *maker) binary(parts ...[]byte) {
	m.made = append(m.made, message{binary: true, payload: bytes.Join(parts, nil)})
}

func (m *maker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

func (m *maker) base64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func (m *maker) hex(n int) string { return hex.EncodeToString(m.bytes(n)) }

func (m *maker) next() int { m.id++; return m.id }

func (m *maker) one(of ...string) string { return of[m.IntN(len(of))] }

// chance is true once in n times.
func (m *maker) chance(n int) bool { return m.IntN(n) == 0 }

func (m *maker) uuid() string {
	h := m.hex(16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}

func (m *maker) when() string {
	return fmt.Sprintf("2026-11-%02dT%02d:%02d:%02d.%03dZ", 1+m.IntN(28), m.IntN(24), m.IntN(60), m.IntN(60), m.IntN(1000))
}

var words = strings.Fields(`a able about after again all also and any are as at back be because been before but by call
came can come could day did do down each even find first for from get give go good great had has have he her here him
his host how I if in into is it its just know like little long look made make man many may me more most move much must
my name never new no not now number of off old on one only or other our out over part people place port put right said
same say see server she should side so some such take tell than that the their them then there these they thing think
this time to too two under up us use very wait want was way we well were what when where which who will with word work
would write year you your ssh http proxy socks tunnel connect get post head ftp smtp user pass helo rfb tls`)

func (m *maker) sentence(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[m.IntN(len(words))])
	}
	return b.String() + m.one("", ".", "!", "?", " :)", " 👍", "…")
}

// Every kind is there, as much of it as was promised, and always the same.
func TestOrdinaryTraffic(t *testing.T) {
	sum := sha256.New()
	count, binary, seen := 0, 0, map[string]int{}
	for _, c := range ordinary() {
		if len(c.messages) == 0 {
			t.Errorf("%s: a conversation without messages", c.kind)
		}
		for _, m := range c.messages {
			count++
			seen[c.kind]++
			if m.binary {
				binary++
			} else if !utf8.Valid(m.payload) {
				t.Errorf("%s: %q is no text message", c.kind, m.payload)
			}
			fmt.Fprintf(sum, "%s %v %d\n", c.kind, m.binary, len(m.payload))
			sum.Write(m.payload)
		}
	}
	for _, k := range kinds {
		if seen[k.name] < perKind {
			t.Errorf("%d messages are %s, want %d", seen[k.name], k.name, perKind)
		}
	}
	if count < 6500 || binary < 1500 || len(kinds) < 10 {
		t.Errorf("%d messages, %d of them binary, of %d kinds", count, binary, len(kinds))
	}
	t.Logf("%d messages, %d of them binary", count, binary)
	const want = "95d473920762d236"
	if got := hex.EncodeToString(sum.Sum(nil)[:8]); got != want {
		t.Errorf("the traffic has changed: it sums up to %s, not %s", got, want)
	}
}

// What tunnels would begin with is quoted in the traffic, or it would prove
// little.
func TestOrdinaryTrafficQuotes(t *testing.T) {
	quoted := map[string]int{}
	for _, c := range ordinary() {
		for _, m := range c.messages {
			for _, what := range []string{"SSH-2.0-", "RFB 003.", " HTTP/1.1", "CONNECT ", "EHLO ", "220 ", "U1NILTIuMC", "16030", "USER "} {
				if bytes.Contains(m.payload, []byte(what)) {
					quoted[what]++
				}
			}
		}
	}
	for what, n := range quoted {
		t.Logf("%q is in %d messages", what, n)
	}
	for _, what := range []string{"SSH-2.0-", "RFB 003.", " HTTP/1.1", "CONNECT ", "EHLO ", "220 ", "U1NILTIuMC", "16030", "USER "} {
		if quoted[what] < 10 {
			t.Errorf("%q is in %d messages, want at least 10", what, quoted[what])
		}
	}
}
