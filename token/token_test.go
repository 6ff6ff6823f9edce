package token

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

var (
	testExpiry = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	testKey    = EdgeKey{ID: 0x0102, Key: [EdgeKeySize]byte{1, 2, 3}}
	testRing   = NewRing([]EdgeKey{testKey})
)

func mintText(tb testing.TB) (Token, []byte) {
	tb.Helper()
	t, err := testRing.Mint(testKey.ID, testExpiry, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return t, t.AppendText(nil)
}

func TestMintThenParse(t *testing.T) {
	want, text := mintText(t)
	if len(text) != 84 || !bytes.HasPrefix(text, []byte("gh1_")) {
		t.Fatalf("text %q: want gh1_ and 80 characters", text)
	}
	var got Token
	if err := Parse(text, &got); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatal("parse gave another token than was minted")
	}
	if !got.ID.Expiry().Equal(testExpiry) {
		t.Fatalf("expiry %v, want %v", got.ID.Expiry(), testExpiry)
	}
}

// The layout is a promise to every node and scanner: it is rebuilt here from
// the format's description, not from this package's constants.
func TestLayout(t *testing.T) {
	tok, text := mintText(t)
	bin, err := base64.RawURLEncoding.DecodeString(string(text[4:]))
	if err != nil || len(bin) != 60 {
		t.Fatalf("%d bytes, %v; want 60", len(bin), err)
	}
	ms := uint64(testExpiry.UnixMilli())
	head := []byte{1, 0x01, 0x02, byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms)}
	if !bytes.Equal(bin[:9], head) {
		t.Fatalf("head % x, want % x", bin[:9], head)
	}
	if !bytes.Equal(bin[3:19], tok.ID[:]) || !bytes.Equal(bin[19:51], tok.Secret[:]) {
		t.Fatal("id or secret is not where the layout has it")
	}
	h := hmac.New(sha256.New, testKey.Key[:])
	h.Write(bin[:51])
	if !bytes.Equal(bin[51:], h.Sum(nil)[:9]) {
		t.Fatal("tag is not the first 9 bytes of HMAC-SHA256 of all before it")
	}
	digest := sha256.Sum256(tok.Secret[:])
	stored := sha256.Sum256(digest[:])
	d := tok.Secret.Digest()
	if d != digest || d.Hash() != stored {
		t.Fatal("digest is not SHA-256(secret), or its hash not SHA-256 of that")
	}
}

func TestParseRefuses(t *testing.T) {
	_, valid := mintText(t)
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(valid)) }
	for name, text := range map[string][]byte{
		"nothing":                     nil,
		"the prefix alone":            []byte("gh1_"),
		"one character short":         valid[:83],
		"one character long":          edit(func(b []byte) []byte { return append(b, 'A') }),
		"padded":                      edit(func(b []byte) []byte { return append(b[:82], '=', '=') }),
		"another prefix":              edit(func(b []byte) []byte { b[2] = '2'; return b }),
		"the prefix in upper case":    edit(func(b []byte) []byte { b[0] = 'G'; return b }),
		"a line break inside":         edit(func(b []byte) []byte { b[40] = '\n'; return b }),
		"a line break at the end":     edit(func(b []byte) []byte { b[83] = '\r'; return b }),
		"a line break added":          edit(func(b []byte) []byte { return append(b, '\n') }),
		"the standard alphabet":       edit(func(b []byte) []byte { b[40] = '+'; return b }),
		"a space":                     edit(func(b []byte) []byte { b[40] = ' '; return b }),
		"a NUL":                       edit(func(b []byte) []byte { b[40] = 0; return b }),
		"a byte above ASCII":          edit(func(b []byte) []byte { b[40] = 0xc3; return b }),
		"version 0":                   edit(func(b []byte) []byte { b[5] = 'A'; return b }),
		"another version":             edit(func(b []byte) []byte { b[4] = 'B'; return b }),
		"a space before":              edit(func(b []byte) []byte { return append([]byte(" "), b[:83]...) }),
		"81 characters, one of break": append(bytes.Clone(valid[:44]), append([]byte("\n"), valid[44:]...)...),
	} {
		var tok Token
		if err := Parse(text, &tok); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want %v", name, err, ErrMalformed)
		}
	}
}

// Promise 5: forgeries die at the edge.
func TestVerifyRefusesEveryEditedBit(t *testing.T) {
	tok, _ := mintText(t)
	ring := NewRing([]EdgeKey{testKey})
	if err := ring.Verify(&tok); err != nil {
		t.Fatalf("the token itself: %v", err)
	}
	var bin [Size]byte
	tok.put(&bin)
	for bit := range 8 * (Size - 1) {
		edited := bin
		edited[1+bit/8] ^= 1 << (bit % 8)
		text := append([]byte(Prefix), base64.RawURLEncoding.EncodeToString(edited[:])...)
		var got Token
		if err := Parse(text, &got); err != nil {
			t.Fatalf("bit %d: %v", bit, err)
		}
		want := ErrWrongTag
		if bit < 16 {
			want = ErrUnknownKey
		}
		if err := ring.Verify(&got); !errors.Is(err, want) {
			t.Errorf("bit %d flipped: %v, want %v", bit, err, want)
		}
	}
}

func TestRingHoldsSeveralKeys(t *testing.T) {
	other := EdgeKey{ID: 7, Key: [EdgeKeySize]byte{9}}
	a, _ := mintText(t)
	b, err := NewRing([]EdgeKey{other}).Mint(other.ID, testExpiry, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := NewRing([]EdgeKey{testKey, other})
	if err := errors.Join(ring.Verify(&a), ring.Verify(&b)); err != nil {
		t.Fatal(err)
	}
	b.KeyID = testKey.ID
	if err := ring.Verify(&b); !errors.Is(err, ErrWrongTag) {
		t.Fatalf("a tag under another key's id: %v, want %v", err, ErrWrongTag)
	}
	if err := NewRing(nil).Verify(&a); !errors.Is(err, ErrUnknownKey) {
		t.Fatalf("an empty ring: %v, want %v", err, ErrUnknownKey)
	}
}

func TestMintFailsWithoutRandomness(t *testing.T) {
	for _, n := range []int{0, 9, 10, 41} {
		if _, err := testRing.Mint(testKey.ID, testExpiry, bytes.NewReader(make([]byte, n))); err == nil {
			t.Errorf("%d random bytes: minted a token", n)
		}
	}
	if _, err := testRing.Mint(testKey.ID+1, testExpiry, rand.Reader); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a key that the ring lacks: %v, want %v", err, ErrUnknownKey)
	}
	for _, at := range []time.Time{time.UnixMilli(-1), MaxExpiry.Add(time.Millisecond)} {
		if _, err := testRing.Mint(testKey.ID, at, rand.Reader); err == nil {
			t.Errorf("expiry %v: minted a token", at)
		}
	}
}

// Promise 1: token text appears in no log.
func TestSecretsDoNotPrint(t *testing.T) {
	tok, text := mintText(t)
	d := tok.Secret.Digest()
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "token", tok, "pointer", &tok, "secret", tok.Secret, "digest", d, "key", testKey)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "token", tok, "secret", tok.Secret, "digest", d, "key", testKey)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+"\n", tok, tok.Secret, d, testKey)
	}
	if err := json.NewEncoder(&out).Encode(map[string]any{"secret": tok.Secret, "digest": d, "key": testKey}); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"secret": tok.Secret[:], "digest": d[:], "key": testKey.Key[:]} {
		for form, s := range map[string]string{
			"hex":     hex.EncodeToString(b),
			"base64":  base64.RawStdEncoding.EncodeToString(b)[:40],
			"decimal": strings.Trim(fmt.Sprint(b), "[]"),
			"raw":     string(b),
		} {
			if strings.Contains(out.String(), s) {
				t.Errorf("%s printed as %s", name, form)
			}
		}
	}
	if bytes.Contains(out.Bytes(), text) || bytes.Contains(out.Bytes(), text[4:]) {
		t.Error("token text printed")
	}
	if !strings.Contains(out.String(), tok.ID.String()) {
		t.Error("the token's public id did not print")
	}
}

func TestIDText(t *testing.T) {
	for _, c := range []struct {
		id   ID
		text string
	}{
		{ID{}, "00000000000000000000000000"},
		{ID{15: 1}, "00000000000000000000000001"},
		{ID{0: 0x80}, "40000000000000000000000000"},
		{ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"},
		// The ULID specification's own example.
		{ID{0x01, 0x56, 0x3d, 0xf3, 0x64, 0x81, 0xa7, 0x0b, 0x8c, 0x8e, 0x10, 0x93, 0x11, 0x7b, 0x2c, 0x55}, "01ARYZ6S41MW5RS3GGJC8QPB2N"},
	} {
		if got := c.id.String(); got != c.text {
			t.Errorf("%x: %s, want %s", c.id[:], got, c.text)
		}
		for _, text := range []string{c.text, strings.ToLower(c.text)} {
			if got, err := ParseID(text); err != nil || got != c.id {
				t.Errorf("%s: %x, %v", text, got[:], err)
			}
		}
	}
	for _, text := range []string{"", "0", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0000000000000000000000000I", "0000000000000000000000000U",
		"000000000000000000000000000", "0000000000000000000000000\n", "gh1_0000000000000000000000"} {
		if _, err := ParseID(text); !errors.Is(err, ErrMalformedID) {
			t.Errorf("%q: %v, want %v", text, err, ErrMalformedID)
		}
	}
}

func TestHashMatches(t *testing.T) {
	tok, _ := mintText(t)
	d := tok.Secret.Digest()
	h := d.Hash()
	if !h.Matches(&d) {
		t.Fatal("a digest does not match its own hash")
	}
	d[31] ^= 1
	if h.Matches(&d) {
		t.Fatal("an edited digest matches")
	}
}

func TestScrub(t *testing.T) {
	_, valid := mintText(t)
	text := string(valid)
	for name, c := range map[string][2]string{
		"nothing":               {"", ""},
		"no token":              {"Mozilla/5.0 (X11_; gh1) gh_1", "Mozilla/5.0 (X11_; gh1) gh_1"},
		"a token alone":         {text, "gh1_[scrubbed]"},
		"inside":                {"a " + text + " b", "a gh1_[scrubbed] b"},
		"twice":                 {text + "," + text, "gh1_[scrubbed],gh1_[scrubbed]"},
		"run together":          {text + text, "gh1_[scrubbed]"},
		"cut short":             {text[:30] + ".", "gh1_[scrubbed]."},
		"the prefix alone":      {"gh1_", "gh1_[scrubbed]"},
		"in upper case":         {"GH1_ABC", "gh1_[scrubbed]"},
		"in a subprotocol":      {"gatehouse.token." + text, "gatehouse.token.gh1_[scrubbed]"},
		"after an underscore":   {"__gh1_abc", "__gh1_[scrubbed]"},
		"after broken prefix":   {"gh1gh1_abc/gh1_/", "gh1gh1_[scrubbed]/gh1_[scrubbed]/"},
		"bytes that are no UTF": {"\xff" + text + "\xfe", "\xffgh1_[scrubbed]\xfe"},
	} {
		if got := string(Scrub([]byte(c[0]))); got != c[1] {
			t.Errorf("%s: %q, want %q", name, got, c[1])
		}
	}
}

func TestParseAndVerifyAllocs(t *testing.T) {
	_, text := mintText(t)
	ring := NewRing([]EdgeKey{testKey})
	clean := []byte("Mozilla/5.0 (X11; Linux x86_64)")
	got := testing.AllocsPerRun(1000, func() {
		var tok Token
		if err := Parse(text, &tok); err != nil {
			t.Fatal(err)
		}
		if err := ring.Verify(&tok); err != nil {
			t.Fatal(err)
		}
		d := tok.Secret.Digest()
		h := d.Hash()
		if !h.Matches(&d) || len(Scrub(clean)) != len(clean) {
			t.Fatal("no match")
		}
	})
	if got != 0 && !raceEnabled { // under -race a sync.Pool drops items
		t.Fatalf("parse, verify, digest, scrub: %v allocs, want 0", got)
	}
}

func BenchmarkParseAndVerify(b *testing.B) {
	_, text := mintText(b)
	ring := NewRing([]EdgeKey{testKey})
	b.ReportAllocs()
	for b.Loop() {
		var tok Token
		if err := Parse(text, &tok); err != nil {
			b.Fatal(err)
		}
		if err := ring.Verify(&tok); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMint(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := testRing.Mint(testKey.ID, testExpiry, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}
