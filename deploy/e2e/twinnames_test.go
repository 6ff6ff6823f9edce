//go:build e2e

package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// faultSchema has a property for each keyword that can refuse a message.
const faultSchema = `{"type":"object","required":["type"],"additionalProperties":false,"dependentRequired":{"a":["b"]},"dependentSchemas":{"ds":{"required":["b"]}},"propertyNames":{"maxLength":8},
"properties":{"type":{"const":"m"},"a":true,"b":true,"ds":true,
"ty":{"type":"string","maxLength":9},"const":{"const":1},"enum":{"enum":[1,2]},"min":{"type":"integer","minimum":1},"max":{"type":"integer","maximum":1},"xmin":{"type":"integer","exclusiveMinimum":1},"xmax":{"type":"integer","exclusiveMaximum":1},
"mult":{"type":"integer","multipleOf":2,"minimum":0,"maximum":1000},"minl":{"type":"string","minLength":2,"maxLength":5},"maxl":{"type":"string","maxLength":2},"pat":{"type":"string","pattern":"^a$"},"fmt":{"type":"string","format":"date","maxLength":10},
"mini":{"type":"array","minItems":1,"items":true},"maxi":{"type":"array","maxItems":1},"uniq":{"type":"array","uniqueItems":true},"cont":{"type":"array","contains":{"const":1}},"minc":{"type":"array","contains":{"const":1},"minContains":2},"maxc":{"type":"array","contains":{"const":1},"maxContains":1},
"minp":{"type":"object","minProperties":1},"maxp":{"type":"object","maxProperties":1},"req":{"type":"object","required":["x"]},"addp":{"type":"object","additionalProperties":false},"addps":{"type":"object","additionalProperties":{"type":"null"}},"depr":{"type":"object","dependentRequired":{"x":["y"]}},"deps":{"type":"object","dependentSchemas":{"x":{"required":["y"]}}},
"pn":{"type":"object","propertyNames":{"maxLength":2}},"pp":{"type":"object","patternProperties":{"^x":{"type":"null"}}},"any":{"anyOf":[{"type":"null"},{"type":"string"}]},"one":{"oneOf":[{"type":"null"},{"type":"string"}]},"two":{"oneOf":[{"type":"integer"},{"minimum":1}]},"not":{"not":{"type":"null"}},"all":{"allOf":[{"type":"null"}]},
"ifth":{"if":{"type":"string"},"then":{"maxLength":1},"else":{"type":"null"}},"never":false,"ref":{"$ref":"#/$defs/r"},"refs":{"$ref":"shared.json#/$defs/t"},"refr":{"$ref":"shared.json"},"pre":{"type":"array","prefixItems":[{"type":"null"}],"items":false},"items":{"type":"array","items":{"type":"null"}},"itemf":{"type":"array","items":false},
"unp":{"type":"object","allOf":[{"properties":{"a":true}}],"unevaluatedProperties":false},"unps":{"type":"object","allOf":[{"properties":{"a":true}}],"unevaluatedProperties":{"type":"null"}},"uni":{"type":"array","prefixItems":[true],"unevaluatedItems":false},"unis":{"type":"array","prefixItems":[true],"unevaluatedItems":{"type":"null"}},
"dis":{"oneOf":[{"type":"object","required":["k"],"properties":{"k":{"const":"a"},"v":{"type":"null"}}},{"type":"object","required":["k"],"properties":{"k":{"const":"b"}}}]},"deep":{"type":"object","properties":{"a/b~c":{"type":"array","items":{"type":"object","properties":{"x":{"type":"null"}}}}}}
},"$defs":{"r":{"type":"null"}}}`

const faultShared = `{"type":"integer","$defs":{"t":{"type":"object","properties":{"x":{"type":"null"}}}}}`

// faults are messages that one keyword refuses, without their type, and what the
// module calls it where it cannot say what the node says: docs/messages.md tells why.
var faults = []struct{ message, pointer, keyword string }{
	{`"ty":1`, "", ""},
	{`"const":2`, "", ""},
	{`"enum":3`, "", ""},
	{`"min":0`, "", ""},
	{`"max":2`, "", ""},
	{`"xmin":1`, "", ""},
	{`"xmax":1`, "", ""},
	{`"mult":3`, "", ""},
	{`"minl":"a"`, "", ""},
	{`"maxl":"abc"`, "", ""},
	{`"pat":"b"`, "", ""},
	{`"fmt":"x"`, "", ""},
	{`"mini":[]`, "", ""},
	{`"maxi":[1,2]`, "", ""},
	{`"uniq":[1,1]`, "", ""},
	{`"cont":[2]`, "", ""},
	{`"minc":[1]`, "/minc", "/properties/minc/contains"},
	{`"maxc":[1,1]`, "/maxc", "/properties/maxc/contains"},
	{`"minp":{}`, "", ""},
	{`"maxp":{"a":1,"b":2}`, "", ""},
	{`"req":{}`, "", ""},
	{`"addp":{"x":1}`, "", ""},
	{`"addps":{"x":1}`, "", ""},
	{`"depr":{"x":1}`, "", ""},
	{`"deps":{"x":1}`, "", ""},
	{`"pn":{"xxx":1}`, "", ""},
	{`"pp":{"xx":1}`, "/pp/xx", "/properties/pp/patternProperties/^x/type"},
	{`"any":1`, "", ""},
	{`"one":1`, "", ""},
	{`"two":5`, "", ""},
	{`"not":null`, "", ""},
	{`"all":1`, "", ""},
	{`"ifth":"ab"`, "", ""},
	{`"ifth":1`, "", ""},
	{`"never":1`, "", ""},
	{`"ref":1`, "", ""},
	{`"refs":{"x":1}`, "", ""},
	{`"refr":"x"`, "", ""},
	{`"pre":[1]`, "", ""},
	{`"pre":[null,1]`, "", ""},
	{`"items":[1]`, "", ""},
	{`"itemf":[1]`, "", ""},
	{`"unp":{"b":1}`, "", ""},
	{`"unps":{"b":1}`, "", ""},
	{`"uni":[1,2]`, "", ""},
	{`"unis":[1,2]`, "", ""},
	{`"dis":{"k":"a","v":1}`, "/dis", "/properties/dis/oneOf"},
	{`"dis":{"k":"c"}`, "", ""},
	{`"dis":{}`, "", ""},
	{`"deep":{"a/b~c":[{"x":1}]}`, "", ""},
	{`"a":1`, "", ""},
	{`"ds":1`, "", ""},
	{`"unknown":1`, "", ""},
}

// Node and module name the same place and the same keyword.
func TestTwinNamesWhatTheNodeNames(t *testing.T) {
	needs(t, "node")
	type refusal struct{ Pointer, Keyword string }
	dir := t.TempDir()
	file, shared := filepath.Join(dir, "faults.json"), filepath.Join(dir, "shared.json")
	write(t, file, faultSchema)
	write(t, shared, faultShared)
	var lines []string
	for _, f := range faults {
		lines = append(lines, `{"type":"m",`+f.message+"}")
	}
	stdout, stderr, _ := gatehouse(t, strings.Join(lines, "\n")+"\n", nil, "schema", "check", "-o", "json", file, "--shared", shared)
	var report struct{ Refused []refusal }
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || len(report.Refused) != len(lines) {
		t.Fatalf("%v, %d of %d messages refused: %s", err, len(report.Refused), len(lines), stderr)
	}
	messages := filepath.Join(dir, "messages")
	write(t, messages, strings.Join(lines, "\n")+"\n")
	out, err := exec.Command("node", "clients/refusals.mjs", filepath.Join(buildTwin(t, file, "--shared", shared), "index.js"), messages).Output()
	if err != nil {
		t.Fatal(err)
	}
	said := json.NewDecoder(strings.NewReader(string(out)))
	for i, f := range faults {
		want := report.Refused[i]
		_, want.Keyword, _ = strings.Cut(want.Keyword, "#")
		if f.pointer != "" {
			if other := (refusal{f.pointer, f.keyword}); other == want {
				t.Errorf("%s: both say %+v, which is told to differ", f.message, want)
			} else {
				want = other
			}
		}
		var got refusal
		if err := said.Decode(&got); err != nil || got != want {
			t.Errorf("%s: module %+v, want %+v, %v", f.message, got, want, err)
		}
	}
}
