package token

import (
	"bytes"
	"testing"
)

// FuzzParse proves that a text which parses is the one text of its token.
func FuzzParse(f *testing.F) {
	_, text := mintText(f)
	f.Add(text)
	f.Add(text[:83])
	f.Add(append(bytes.Clone(text), '\n'))
	f.Add([]byte("gh1_"))
	f.Add(bytes.Repeat([]byte("A"), TextSize))
	f.Add(append([]byte("gh1_AQ"), bytes.Repeat([]byte("_"), 78)...))
	f.Fuzz(func(t *testing.T, text []byte) {
		kept := bytes.Clone(text)
		var tok Token
		err := Parse(text, &tok)
		if !bytes.Equal(text, kept) {
			t.Fatal("Parse wrote into its input")
		}
		if err != nil {
			return
		}
		if back := tok.AppendText(nil); !bytes.Equal(back, text) {
			t.Fatalf("%q parses as the token whose text is %q", text, back)
		}
	})
}

// FuzzRoundTrip proves that decode(encode(x)) is x.
func FuzzRoundTrip(f *testing.F) {
	f.Add(make([]byte, Size))
	f.Add(bytes.Repeat([]byte{0xff}, Size))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < Size {
			return
		}
		want := Token{KeyID: uint16(b[0])<<8 | uint16(b[1])}
		copy(want.ID[:], b[3:])
		copy(want.Secret[:], b[19:])
		copy(want.Tag[:], b[51:])
		var got Token
		if err := Parse(want.AppendText(nil), &got); err != nil || got != want {
			t.Fatalf("decode(encode(x)) is not x: %v", err)
		}
	})
}

// FuzzScrub proves that no token text outlives scrubbing.
func FuzzScrub(f *testing.F) {
	_, text := mintText(f)
	f.Add([]byte("a"), text, []byte("b"))
	f.Add([]byte("gh1"), text, []byte("_gh1_"))
	f.Fuzz(func(t *testing.T, before, text, after []byte) {
		in := bytes.Join([][]byte{before, text, after}, nil)
		out := Scrub(bytes.Clone(in))
		rest := bytes.ReplaceAll(out, []byte(scrubbed), nil)
		if i := indexPrefix(out); i >= 0 && !bytes.HasPrefix(out[i:], []byte(scrubbed)) {
			t.Fatalf("%q keeps a token's prefix in %q", in, out)
		}
		if len(in) >= TextSize && bytes.Contains(rest, text) && len(text) == TextSize && indexPrefix(text) == 0 {
			t.Fatalf("%q keeps token text in %q", in, out)
		}
	})
}

// FuzzParseID proves that an id's text and bytes name each other.
func FuzzParseID(f *testing.F) {
	f.Add("01ARYZ6S41MW5RS3GGJC8QPB2N")
	f.Add("7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
	f.Add("8ZZZZZZZZZZZZZZZZZZZZZZZZZ")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		if back, err := ParseID(id.String()); err != nil || back != id {
			t.Fatalf("%q: %x, then %x, %v", text, id[:], back[:], err)
		}
	})
}
