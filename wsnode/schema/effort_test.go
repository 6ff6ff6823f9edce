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
	{"many alternatives with items that need but a look", `{"properties":{"x":{"anyOf":[` + listedAll(500, func(i int) string { return fmt.Sprintf(`{"items":{"type":"string","maxLength":%d}}`, 10+i) }) + `,true]}}}`,
		func(n int) string { return message("[" + strings.Repeat(`"a",`, n/4) + "3]") }, true},
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
	{"long numbers", `{"properties":{"x":{"items":{"multipleOf":3e-100,"minimum":0.1234567890123456789}}}}`,
		func(n int) string {
			return message("[" + strings.Repeat("3."+strings.Repeat("3", 100)+",", n/103) + "3]")
		}, true},
	{"lengths beyond ASCII", `{"properties":{"x":{"minLength":2,"maxLength":100000}}}`,
		func(n int) string { return message(`"` + strings.Repeat("é", n/2) + `"`) }, false},
	{"formats", `{"properties":{"x":{"items":{"anyOf":[{"format":"email"},{"format":"regex"}]}}}}`,
		func(n int) string {
			return message(`["` + strings.Repeat("a", 200) + `"` + strings.Repeat(`,"(?<a>a+)[b-z]{1,2}\\w\\k<a>"`, n/32) + `]`)
		}, false},
	{"many formats of short texts", `{"properties":{"x":{"items":` + repeated(8, `{"format":"uri-reference"}`) + `}}}`,
		func(n int) string { return message("[" + strings.Repeat(`"b",`, n/4) + `"b"]`) }, true},
	{"the format regex of a long text", `{"properties":{"x":{"format":"regex"}}}`,
		func(n int) string { return message(`"` + strings.Repeat("(a)b*[c-e]", n/10) + `"`) }, false},
	{"the format regex of a long text, again and again", `{"properties":{"x":` + repeated(4, `{"format":"regex"}`) + `}}`,
		func(n int) string { return message(`"` + strings.Repeat("(a)b*[c-e]", n/10) + `"`) }, true},
	{"the format regex of nothing", `{"properties":{"x":{"items":` + repeated(8, `{"format":"regex"}`) + `}}}`,
		func(n int) string { return message("[" + strings.Repeat(`"",`, n/3) + `""]`) }, true},
	{"a pattern of many parts, for short texts", `{"properties":{"x":{"items":` + repeated(4, `{"pattern":"^a?b?c?d?e?f?g?h?i?j?k?l?m?n?o?p?q?r?s?t?u?v?w?x?y?z?$"}`) + `}}}`,
		func(n int) string { return message("[" + strings.Repeat(`"z",`, n/4) + `"z"]`) }, true},
	{"a pattern that is short to write and large", `{"properties":{"x":{"not":{"pattern":"(((a|b){1,20}){1,20}){2}(x|y)*x(x|y){20}z"}}}}`,
		func(n int) string { return message(`"` + strings.Repeat("ab", n/2) + `"`) }, true},
	{"such a pattern of nothing", `{"properties":{"x":{"items":{"not":{"pattern":"^(((a|b){1,20}){1,20}){2}(x|y)*x(x|y){20}z"}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`"",`, n/3) + `""]`) }, true},
	{"unevaluatedItems where all are evaluated", `{"properties":{"x":` + repeated(3, `{"unevaluatedItems":{"minimum":5},"items":true}`) + `}}`,
		func(n int) string { return message("[" + strings.Repeat(`1,`, n/2) + `1]`) }, false},
	{"unevaluatedItems where all are evaluated, again and again", `{"properties":{"x":` + repeated(60, `{"unevaluatedItems":{"minimum":5},"items":true}`) + `}}`,
		func(n int) string { return message("[" + strings.Repeat(`1,`, n/2) + `1]`) }, true},
	{"unevaluatedItems that allow everything", `{"properties":{"x":` + repeated(60, `{"unevaluatedItems":true,"items":{}}`) + `}}`,
		func(n int) string { return message("[" + strings.Repeat(`1,`, n/2) + `1]`) }, false},
	{"unevaluatedProperties within one another", `{"properties":{"x":{"items":{"unevaluatedProperties":false,"allOf":[{"unevaluatedProperties":{"minimum":1},"allOf":[{"unevaluatedProperties":{"maximum":1},"required":["a"]}]}]}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"a":1,"b":1},`, n/14) + `{"a":1}]`) }, false},
	{"dependentRequired of many properties", `{"properties":{"x":{"items":{"dependentRequired":{` + listedAll(60, func(i int) string { return fmt.Sprintf(`"p%d":["q"]`, i) }) + `}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"q":1,"p59":1},`, n/16) + `{}]`) }, false},
	{"dependentSchemas of many properties", `{"properties":{"x":{"items":{"dependentSchemas":{` + listedAll(60, func(i int) string { return fmt.Sprintf(`"p%d":{"minProperties":1}`, i) }) + `}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"q":1,"p59":1},`, n/16) + `{}]`) }, false},
	{"dependentSchemas of more properties than there are bits", `{"properties":{"x":{"items":{"dependentSchemas":{` + listedAll(900, func(i int) string { return fmt.Sprintf(`"p%d":{"minProperties":1}`, i) }) + `}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{},`, n/3) + `{}]`) }, true},
	{"contains within bounds", `{"properties":{"x":{"contains":{"minimum":1},"minContains":1,"maxContains":99999}}}`,
		func(n int) string { return message("[" + strings.Repeat(`1,`, n/2) + `1]`) }, false},
	{"names by alternatives", `{"properties":{"x":{"items":{"propertyNames":{"anyOf":[` + strings.Repeat(`{"anyOf":[{"const":"x"},{"const":"y"}]},`, 20) + `{"pattern":"^p"}]}}}}}`,
		func(n int) string { return message("[" + strings.Repeat(`{"p1":1,"p2":1},`, n/16) + `{}]`) }, true},
	{"long names that differ in the middle", `{"properties":{"x":` + repeated(8, `{"properties":{`+listedAll(4, func(i int) string { return `"` + middling(900, i) + `":{"minimum":5}` })+`}}`) + `}}`,
		func(n int) string {
			return message("{" + listedAll(n/900, func(i int) string { return `"` + middling(900, 5+i) + `":1` }) + "}")
		}, false},
	{"long texts that differ in the middle", `{"properties":{"x":` + repeated(60, `{"$ref":"#/$defs/e"}`) + `},"$defs":{"e":{"not":{"enum":[` + listedAll(6, func(i int) string { return `"` + middling(18_000, i) + `"` }) + `]}}}}`,
		func(n int) string { return message(`"` + middling(n, 99) + `"`) }, true},
	{"a long const", `{"properties":{"x":{"items":` + repeated(60, `{"const":["`+middling(600, 1)+`"]}`) + `}}}`,
		func(n int) string {
			return message("[" + strings.Repeat(`["`+middling(600, 1)+`"],`, n/606+1) + `["` + middling(600, 1) + `"]]`)
		}, true},
	{"a const object with long names in another order", `{"properties":{"x":` + repeated(60, `{"const":{"`+middling(9_000, 1)+`":1,"`+middling(9_000, 2)+`":2}}`) + `}}`,
		func(n int) string { return message(`{"` + middling(n/2, 2) + `":2,"` + middling(n/2, 1) + `":1}`) }, true},
	{"a large enum of numbers, again and again", `{"properties":{"x":{"items":` + repeated(8, `{"enum":[`+listedAll(1000, func(i int) string { return fmt.Sprint(i * 3) })+`]}`) + `}}}`,
		func(n int) string { return message("[" + strings.Repeat("300,", n/4) + "3]") }, true},
	{"uniqueItems of few objects in any order", `{"properties":{"x":{"items":{"uniqueItems":true}}}}`,
		func(n int) string {
			one := func(first, last int) string {
				return "{" + listedAll(20, func(i int) string {
					return fmt.Sprintf(`"n%d":%d`, (i+first)%20, last*((i+first)%20/19))
				}) + "}"
			}
			four := "[" + listedAll(4, func(i int) string { return one(5*i, i) }) + "]"
			return message("[" + strings.Repeat(four+",", n/len(four)) + four + "]")
		}, false},
	{"recursive references that are dynamic", `{"properties":{"x":{"$ref":"#/$defs/t"}},"$defs":{"t":{"$dynamicAnchor":"node","type":["array","integer"],"items":{"$dynamicRef":"#node"}}}}`,
		func(n int) string { return message("[" + strings.Repeat("[1,[1,2]],", n/10) + "3]") }, false},
}

// repeated is a schema as many times over.
func repeated(n int, schema string) string {
	return `{"allOf":[` + strings.Repeat(schema+",", n-1) + schema + `]}`
}

// middling is a text of about n bytes; those of the same length have the same key.
func middling(n, i int) string {
	return strings.Repeat("a", n/2) + fmt.Sprintf("%03d", i) + strings.Repeat("a", n/2)
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

// What a message costs grows as its length does, and no more: it is held against
// its schema to the end within the steps that its length allows, or refused when
// they are used up.
func TestCostIsLinear(t *testing.T) {
	for _, test := range hostile {
		t.Run(test.name, func(t *testing.T) {
			s := mustCompile(t, folder("chat.json", test.schema), oneType(nil))
			var shares [2]float64 // of the steps that are allowed
			for i, size := range []int{2_000, 18_000} {
				in := []byte(test.message(size))
				r := &run{p: s.program}
				_, err := s.check(r, in)
				most := s.guards.steps(int(r.entries[0].next), len(in))
				shares[i] = float64(most-r.steps) / float64(most)
				t.Logf("%d bytes: %d steps of %d, %v", len(in), most-r.steps, most, err)
				if tooComplex := errors.Is(err, ErrTooComplex); tooComplex != (r.steps < 0) || size == 18_000 && tooComplex != test.refused {
					t.Errorf("%d bytes: %v with %d steps left, refused as too complex should be %v", len(in), err, r.steps, test.refused)
				}
			}
			if growth := shares[1] / shares[0]; !test.refused && (growth < 0.75 || growth > 1.25) {
				t.Errorf("%.2f times the steps for each byte when there are nine times as many bytes, want the same", growth)
			}
		})
	}
}

// BenchmarkHostile says whether steps cost what they are taken to: of-reading, how
// many times as long as its reading a message takes to be read and held against its
// schema, is to be Effort at most. It takes the quickest of each, for others may be
// at work.
func BenchmarkHostile(b *testing.B) {
	for _, test := range hostile {
		b.Run(test.name, func(b *testing.B) {
			s := mustCompile(b, folder("chat.json", test.schema), oneType(nil))
			in := []byte(test.message(18_000))
			r := &run{p: s.program}
			read, whole := time.Hour, time.Hour
			for b.Loop() {
				start := time.Now()
				r.read(in, &s.guards)
				middle := time.Now()
				s.check(r, in)
				read, whole = min(read, middle.Sub(start)), min(whole, time.Since(middle))
			}
			b.ReportMetric(float64(whole)/float64(read), "of-reading")
		})
	}
}
