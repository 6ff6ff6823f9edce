package schema

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// alike are texts with one key: only their middles differ.
func alike(n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf("https://n%05d.example.com/", i)
	}
	return texts
}

// Whatever texts a schema has, a look-up compares few of them, so that no message
// costs more for each byte than another one.
func TestTextTableLooksAtFew(t *testing.T) {
	short := make([]string, 10_000)
	for i := range short {
		short[i] = strconv.Itoa(i)
	}
	for name, texts := range map[string][]string{"alike": alike(10_000), "alike, among others": append(alike(100), short...), "short": short, "twice": {"a", "b", "a", "b", "a"}} {
		t.Run(name, func(t *testing.T) {
			table := newTextTable(texts)
			for i, text := range texts {
				e := entry{size: uint32(len(text))}
				want := int32(i)
				if name == "twice" {
					want %= 2 // the first counts
				}
				if got := table.find(&tape{in: []byte(text)}, &e, keyOf([]byte(text))); got != want {
					t.Fatalf("%q is found at %d, want %d", text, got, want)
				}
				if !table.has(text) || table.has(text+"!") {
					t.Fatalf("the table does not know which of %q and %q it has", text, text+"!")
				}
				passed, same := 0, 0
				for at := spread(keyOf([]byte(text)), table.shift); len(table.slots) > 0; at++ {
					s := &table.slots[at&uint64(len(table.slots)-1)]
					if s.index == 0 || s.text == text {
						break
					}
					if passed++; s.key == keyOf([]byte(text)) {
						same++
					}
				}
				if passed > mostPassed || same > mostPassed/sameKeyCost {
					t.Fatalf("%q is found after %d others, %d of them of its key", text, passed, same)
				}
			}
			other := []byte("https://nobody.example.com/")
			if got := table.find(&tape{in: other}, &entry{size: uint32(len(other))}, keyOf(other)); got != -1 {
				t.Errorf("%q, which the table does not have, is found at %d", other, got)
			}
		})
	}
}

// Texts with one key are told apart wherever a schema has them.
func TestTextsAlike(t *testing.T) {
	var enum, properties, branches []string
	for i, text := range alike(100) {
		enum = append(enum, strconv.Quote(text))
		properties = append(properties, fmt.Sprintf(`%q:{"const":%d}`, text, i))
		branches = append(branches, fmt.Sprintf(`{"type":"object","required":["of","n"],"properties":{"of":{"const":%q},"n":{"const":%d}}}`, text, i))
	}
	s := mustCompile(t, folder("chat.json", `{"type":"object","additionalProperties":false,"properties":{"type":true,
		"enum":{"enum":[`+strings.Join(enum, ",")+`]},
		"properties":{"type":"object","additionalProperties":false,"properties":{`+strings.Join(properties, ",")+`},"required":[`+enum[99]+`]},
		"oneOf":{"oneOf":[`+strings.Join(branches, ",")+`]}}}`), oneType(nil))
	for _, test := range []struct {
		name, value string
		allowed     bool
	}{
		{"enum", `"https://n00000.example.com/"`, true},
		{"enum", `"https://n00099.example.com/"`, true},
		{"enum", `"https:\/\/n00099.example.com\/"`, true},
		{"enum", `"https://n00100.example.com/"`, false},
		{"properties", `{"https://n00099.example.com/":99}`, true},
		{"properties", `{"https://n00007.example.com/":7,"https://n00099.example.com/":99}`, true},
		{"properties", `{"https://n00007.example.com/":8,"https://n00099.example.com/":99}`, false},
		{"properties", `{"https://n00100.example.com/":7,"https://n00099.example.com/":99}`, false},
		{"properties", `{"https://n00007.example.com/":7}`, false},
		{"oneOf", `{"of":"https://n00042.example.com/","n":42}`, true},
		{"oneOf", `{"of":"https://n00042.example.com/","n":43}`, false},
		{"oneOf", `{"of":"https://n00100.example.com/","n":42}`, false},
	} {
		text := fmt.Sprintf(`{"type":"chat",%q:%s}`, test.name, test.value)
		if _, err := s.Check([]byte(text)); (err == nil) != test.allowed || err != nil && !errors.Is(err, ErrNotAllowed) {
			t.Errorf("%s: %v, allowed should be %t", text, err, test.allowed)
		}
	}
}
