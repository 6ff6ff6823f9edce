package schema

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// hostile are schemas, and messages for them of about any size, that would cost
// more than their length if one let them.
var hostile = []struct {
	name    string
	schema  string
	message func(size int) string
	refused bool // as too complex, at full size
}{
	{"nested oneOf", `{"properties":{"x":{"$ref":"#/$defs/n"}},"$defs":{"n":{"oneOf":[{"type":"null"},{"items":{"$ref":"#/$defs/n"},"maxItems":9},{"items":{"$ref":"#/$defs/n"},"minItems":1}]}}}`,
		func(int) string { return message(strings.Repeat("[", 30) + strings.Repeat("]", 30)) }, true},
	{"nested anyOf that all fail", `{"properties":{"x":{"$ref":"#/$defs/n"}},"$defs":{"n":{"anyOf":[{"items":{"$ref":"#/$defs/n"},"minItems":1},{"items":{"$ref":"#/$defs/n"},"minItems":1}]}}}`,
		func(int) string { return message(strings.Repeat("[", 30) + strings.Repeat("]", 30)) }, true},
	{"nested not and if", `{"properties":{"x":{"$ref":"#/$defs/n"}},"$defs":{"n":{"if":{"not":{"items":{"$ref":"#/$defs/n"}}},"then":{"items":{"$ref":"#/$defs/n"}},"else":{"items":{"$ref":"#/$defs/n"}}}}}`,
		func(int) string { return message(strings.Repeat("[", 30) + strings.Repeat("]", 30)) }, true},
	{"many alternatives", `{"properties":{"x":{"items":{"anyOf":[` + strings.Repeat(`{"minimum":5},`, 100) + `{"maximum":3}]}}}}`,
		func(n int) string { return message("[1" + strings.Repeat(",2", n/2) + "]") }, true},
	{"a few alternatives", `{"properties":{"x":{"items":{"anyOf":[` + strings.Repeat(`{"minimum":5},`, 6) + `{"maximum":3}]}}}}`,
		func(n int) string { return message("[1" + strings.Repeat(",2", n/2) + "]") }, false},
	{"recursive references", `{"properties":{"x":{"$ref":"#/$defs/t"}},"$defs":{"t":{"type":"object","additionalProperties":false,"properties":{"v":{"type":"integer"},"c":{"type":"array","items":{"$ref":"#/$defs/t"}}}}}}`,
		func(n int) string {
			return message(`{"v":1,"c":[{}` + strings.Repeat(`,{"v":1,"c":[{"v":2}]}`, n/22) + "]}")
		}, false},
	{"uniqueItems of numbers", `{"properties":{"x":{"uniqueItems":true}}}`,
		func(n int) string {
			return message("[" + listed(n, func(i int) string { return fmt.Sprint(i) }) + "]")
		}, false},
	{"uniqueItems of objects in any order", `{"properties":{"x":{"uniqueItems":true}}}`,
		func(n int) string {
			return message("[" + listed(n, func(i int) string { return fmt.Sprintf(`{"a":%d,"b":[%d],"c":"x"}`, i, i) }) + "]")
		}, false},
	{"uniqueItems within uniqueItems", `{"properties":{"x":{"$ref":"#/$defs/u"}},"$defs":{"u":{"uniqueItems":true,"items":{"$ref":"#/$defs/u"}}}}`,
		func(n int) string {
			inner := "[" + listed(n, func(i int) string { return fmt.Sprint(i) }) + "]"
			return message(strings.Repeat("[", 28) + inner + strings.Repeat("]", 28))
		}, false},
	{"uniqueItems of few large items", `{"properties":{"x":{"uniqueItems":true}}}`,
		func(n int) string {
			long := strings.Repeat("a", n/8)
			return message("[" + listed(n, func(i int) string { return fmt.Sprintf(`"%s%d"`, long, i) }) + "]")
		}, false},
	{"contains within contains", `{"properties":{"x":{"contains":{"contains":{"contains":{"const":7}}},"minContains":2}}}`,
		func(n int) string { return message("[" + strings.Repeat("[[1],[2],[3]],", n/14) + "1]") }, false},
	{"a large enum of numbers", `{"properties":{"x":{"items":{"enum":[` + listedAll(5000, func(i int) string { return fmt.Sprint(i * 3) }) + `]}}}}`,
		func(n int) string { return message("[" + strings.Repeat("3000,", n/5) + "3]") }, false},
	{"a large enum of arrays", `{"properties":{"x":{"items":{"enum":[` + listedAll(2000, func(i int) string { return fmt.Sprintf("[%d]", i) }) + `]}}}}`,
		func(n int) string { return message("[" + strings.Repeat("[1000],", n/7) + "[3]]") }, false},
	{"a const object in another order", `{"properties":{"x":{"items":{"const":{` + listedAll(100, func(i int) string { return fmt.Sprintf(`"n%d":%d`, i, i) }) + `}}}}}`,
		func(n int) string {
			one := "{" + listedAll(100, func(i int) string { return fmt.Sprintf(`"n%d":%d`, 99-i, 99-i) }) + "}"
			return message("[" + strings.Repeat(one+",", n/len(one)+1) + one + "]")
		}, true},
	{"a pattern that backtracks", `{"properties":{"x":{"pattern":"^(a+)+$"}}}`,
		func(n int) string { return message(`"` + strings.Repeat("a", n) + `!"`) }, false},
	{"a pattern with many states", `{"properties":{"x":{"pattern":"(a|b)*a(a|b){8}c"}}}`,
		func(n int) string { return message(`"` + strings.Repeat("ab", n/2) + `"`) }, false},
	{"a pattern with too many states", `{"properties":{"x":{"pattern":"(a|b)*a(a|b){20}c"}}}`,
		func(n int) string { return message(`"` + strings.Repeat("ab", n/2) + `"`) }, true},
	{"many patterns", `{"properties":{"x":{"allOf":[` + listedAll(30, func(i int) string { return fmt.Sprintf(`{"pattern":"%c.*z$"}`, 'a'+i%26) }) + `]}}}`,
		func(n int) string { return message(`"` + strings.Repeat("abcdefghijklmnopqrstuvwxyz", n/26) + `"`) }, true},
	{"patterns beyond ASCII", `{"properties":{"x":{"pattern":"^\\p{L}*\\s?\\p{L}*$"}}}`,
		func(n int) string { return message(`"` + strings.Repeat("éüλ", n/6) + `"`) }, false},
	{"patterns beyond ASCII, of three bytes", `{"properties":{"x":{"pattern":"^\\p{L}*\\s?\\p{L}*$"}}}`,
		func(n int) string { return message(`"` + strings.Repeat("語仮名", n/9) + `"`) }, false},
	{"many pattern properties", `{"properties":{"x":{"items":{"patternProperties":{` + listedAll(40, func(i int) string { return fmt.Sprintf(`"%c.*%d":true`, 'a'+i%26, i) }) + `}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"abcdefgh":1,"stuvwxyz":2},`, n/28) + "1]") }, true},
	{"property names", `{"properties":{"x":{"items":{"propertyNames":{"pattern":"^[a-z]+.$","maxLength":20}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"abcdefgh":1,"stuvwxyz":2},`, n/28) + "1]") }, false},
	{"unevaluatedProperties over alternatives", `{"properties":{"x":{"items":{"unevaluatedProperties":false,"anyOf":[` + listedAll(20, func(i int) string { return fmt.Sprintf(`{"properties":{"a":true,"n%d":false}}`, i) }) + `]}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"a":1},`, n/8) + `{"a":2}]`) }, true},
	{"unevaluatedItems within one another", `{"properties":{"x":{"$ref":"#/$defs/u"}},"$defs":{"u":{"type":["array","integer"],"unevaluatedItems":{"$ref":"#/$defs/u"},"anyOf":[{"prefixItems":[true]},{"minItems":0}]}}}`,
		func(n int) string { return message("[1," + strings.Repeat("[1,[1,2]],", n/10) + "3]") }, false},
	{"multipleOf with far exponents", `{"properties":{"x":{"items":{"multipleOf":7e-300}}}}`,
		func(n int) string { return message("[" + strings.Repeat("7e300,", n/6) + "7]") }, false},
	{"long numbers", `{"properties":{"x":{"items":{"multipleOf":0.3,"minimum":0.1234567890123456789}}}}`,
		func(n int) string {
			return message("[" + strings.Repeat("3."+strings.Repeat("3", 100)+",", n/103) + "3]")
		}, false},
	{"lengths beyond ASCII", `{"properties":{"x":{"minLength":2,"maxLength":100000}}}`,
		func(n int) string { return message(`"` + strings.Repeat("é", n/2) + `"`) }, false},
	{"formats", `{"properties":{"x":{"items":{"anyOf":[{"format":"email"},{"format":"uri"},{"format":"hostname"},{"format":"regex"}]}}}}`,
		func(n int) string {
			return message(`["` + strings.Repeat("a", 200) + `"` + strings.Repeat(`,"(?<a>a+)[b-z]{1,2}\\w\\k<a>"`, n/32) + `]`)
		}, false},
	{"duplicate names that nearly collide", `{}`,
		func(n int) string {
			return `{"type":"chat","x":[` + strings.Repeat("{"+listedAll(200, func(i int) string { return fmt.Sprintf(`"0123456%03d89abcdef":1`, i) })+"},", n/5400+1) + `1]}`
		}, false},
}

func message(x string) string { return `{"type":"chat","x":` + x + "}" }

// listed repeats until there are about n bytes, or nearly as many items as there
// may be.
func listed(n int, item func(i int) string) string {
	var b strings.Builder
	for i := 0; b.Len() < n && i < 2_000; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item(i))
	}
	return b.String()
}

func listedAll(count int, item func(i int) string) string {
	items := make([]string, count)
	for i := range items {
		items[i] = item(i)
	}
	return strings.Join(items, ",")
}

// costliest is how many times as long as its reading a message may take to be
// held against its schema.
const costliest = 20

func TestCostIsLinear(t *testing.T) {
	if raceEnabled {
		t.Skip("measures time")
	}
	for _, test := range hostile {
		t.Run(test.name, func(t *testing.T) {
			s := mustCompile(t, folder("chat.json", test.schema), oneType(nil))
			for _, size := range []int{200, 2_000, 18_000} {
				in := []byte(test.message(size))
				_, err := s.Check(in)
				if tooComplex := errors.Is(err, ErrTooComplex); size == 18_000 && tooComplex != test.refused {
					t.Errorf("%d bytes: %v, refused as too complex should be %v", len(in), err, test.refused)
				}
				ratio := costOf(s, in)
				for range 20 {
					if ratio <= costliest { // else something else took the time
						break
					}
					ratio = min(ratio, costOf(s, in))
				}
				t.Logf("%d bytes: %.1f times its reading, %v", len(in), ratio, err)
				if ratio > costliest {
					t.Errorf("%d bytes: %.1f times its reading, want at most %d", len(in), ratio, costliest)
				}
			}
		})
	}
}

// costOf compares the quickest of several checks with the quickest of readings.
func costOf(s *Set, in []byte) float64 {
	r := &run{p: s.program}
	var read, whole time.Duration
	for range 25 {
		start := time.Now()
		for range 4 {
			r.read(in, &s.guards)
		}
		middle := time.Now()
		for range 4 {
			s.check(r, in)
		}
		end := time.Now()
		if d := middle.Sub(start); read == 0 || d < read {
			read = d
		}
		if d := end.Sub(middle); whole == 0 || d < whole {
			whole = d
		}
	}
	return float64(whole-read) / float64(read)
}
