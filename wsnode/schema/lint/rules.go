package lint

// Rule is one that schemas are judged by.
type Rule struct {
	Name  string
	Finds string // in a few words
	Why   string // it matters, and what is to be done
	// Bad is a schema in which it finds something, and Mended the same without.
	Bad, Mended string
}

// Rules returns all rules: of what is loose, of what does nothing, and of what a
// browser decides otherwise. Names do not change.
func Rules() []Rule { return rules }

var rules = []Rule{
	{
		Name: "does-not-load", Finds: "what a node refuses to start with",
		Why:    "An unknown keyword, a reference to nowhere, a contradiction, a pattern that takes more than linear time: a node does not start with it, and keeps its old schemas when it is reloaded.",
		Bad:    `{"type": "string", "maxLenght": 280}`,
		Mended: `{"type": "string", "maxLength": 280}`,
	},
	{
		Name: "any-type", Finds: "values of any type",
		Why:    `Keywords such as maxLength or properties say something about one type alone: where "type" is missing, values of all others pass, whatever is in them.`,
		Bad:    `{"maxLength": 280}`,
		Mended: `{"type": "string", "maxLength": 280}`,
	},
	{
		Name: "open-string", Finds: "strings without maxLength",
		Why:    "Only the limit on the whole message bounds them. The formats date, email, hostname, ipv4, ipv6 and uuid bound strings too, and so does a pattern from ^ to $ that ends somewhere.",
		Bad:    `{"type": "string"}`,
		Mended: `{"type": "string", "maxLength": 280}`,
	},
	{
		Name: "open-array", Finds: "arrays without maxItems",
		Why:    `Only the limit on the whole message bounds them. "items": false after prefixItems bounds them too.`,
		Bad:    `{"type": "array", "items": {"type": "boolean"}}`,
		Mended: `{"type": "array", "items": {"type": "boolean"}, "maxItems": 100}`,
	},
	{
		Name: "open-items", Finds: "items that no schema describes",
		Why:    "Where an array says nothing of its items, or only of the first by prefixItems, anything passes in it.",
		Bad:    `{"type": "array", "maxItems": 10}`,
		Mended: `{"type": "array", "maxItems": 10, "items": {"type": "boolean"}}`,
	},
	{
		Name: "open-object", Finds: "properties that no schema names",
		Why:    "Whatever a peer adds to a message reaches the application, which may take it for its own: an isAdmin that nobody thought of. unevaluatedProperties: false closes objects whose properties are named in several schemas.",
		Bad:    `{"type": "object", "properties": {"seen": {"type": "boolean"}}}`,
		Mended: `{"type": "object", "properties": {"seen": {"type": "boolean"}}, "additionalProperties": false}`,
	},
	{
		Name: "open-map", Finds: "any number of properties",
		Why:    "Where properties may have names of the peer's choice, only the guard on properties of one object bounds them.",
		Bad:    `{"type": "object", "additionalProperties": {"type": "boolean"}}`,
		Mended: `{"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 20}`,
	},
	{
		Name: "unbounded-pattern", Finds: "patterns in strings of any length",
		Why:    "A pattern with * or +, or one that is looked for anywhere, bounds no string.",
		Bad:    `{"type": "string", "pattern": "^[a-z]+$"}`,
		Mended: `{"type": "string", "pattern": "^[a-z]{1,32}$"}`,
	},
	{
		Name: "unanchored-pattern", Finds: "patterns without ^ or $",
		Why:    "A pattern is looked for anywhere in a string: [a-z]+ lets <script> pass, for there is an s in it. Patterns below not, if and contains are left alone.",
		Bad:    `{"type": "string", "pattern": "[a-z]", "maxLength": 32}`,
		Mended: `{"type": "string", "pattern": "^[a-z]*$", "maxLength": 32}`,
	},
	{
		Name: "slow-pattern", Finds: "patterns that cost too much in longer strings",
		Why:    "Most patterns cost the same for each byte, however large they are. Some can't be had so: those that repeat many times what may stand behind the repetition as well. Each byte is then held against all that they have, and longer strings are refused as too complex, whatever is in them. It is reckoned with the guards of a route that sets none; guards.effort can be raised for it.",
		Bad:    `{"type": "string", "maxLength": 280, "pattern": "^(?:[a-z]{1,30}[.]?){1,30}$"}`,
		Mended: `{"type": "string", "maxLength": 280, "pattern": "^(?:[a-z]+[.]?)+$"}`,
	},
	{
		Name: "unasserted-format", Finds: "formats and content* that nothing is held against",
		Why:    "A format that a node does not know stops its start, and annotate: true makes annotations of all of them: then a string is of the format only if its peer wishes.",
		Bad:    `{"type": "string", "format": "phone", "maxLength": 20}`,
		Mended: `{"type": "string", "pattern": "^\\+[0-9]{6,15}$"}`,
	},
	{
		Name: "contradiction", Finds: "schemas that allow no value together",
		Why:    "What contradicts itself within one schema does not load. Where several schemas apply to the same value, by $ref and allOf, each may be sound and nothing pass all of them.",
		Bad:    `{"type": "string", "maxLength": 3, "allOf": [{"minLength": 5}]}`,
		Mended: `{"type": "string", "maxLength": 9, "allOf": [{"minLength": 5}]}`,
	},
	{
		Name: "unreachable-branch", Finds: "branches and values that no message takes",
		Why:    "A branch of anyOf or oneOf whose type is not allowed, that is there twice, or that is beside one which allows everything; a then or else whose if is always the same; a value of an enum that a keyword beside it refuses. Its author meant messages to pass that do not, or to be refused that are not.",
		Bad:    `{"type": "string", "anyOf": [{"maxLength": 9}, {"type": "integer"}]}`,
		Mended: `{"anyOf": [{"type": "string", "maxLength": 9}, {"type": "integer"}]}`,
	},
	{
		Name: "idle-keyword", Finds: "keywords that do nothing where they stand",
		Why:    "A keyword about another type than the schema's, a then without if, a minContains without contains: it looks like a check and is none.",
		Bad:    `{"type": "integer", "maxLength": 5}`,
		Mended: `{"type": "integer", "maximum": 99999}`,
	},
	{
		Name: "unused-definition", Finds: "definitions that no message needs",
		Why:    "What nothing refers to checks nothing: a type of message was forgotten, or the definition can go.",
		Bad:    `{"type": "boolean", "$defs": {"name": {"type": "string", "maxLength": 40}}}`,
		Mended: `{"$ref": "#/$defs/name", "$defs": {"name": {"type": "string", "maxLength": 40}}}`,
	},
	{
		Name: "twin-number", Finds: "numbers that a browser reads as others",
		Why:    "A node compares numbers digit by digit, JavaScript as doubles. Beyond 15 digits, two numbers of a schema may be one to a browser.",
		Bad:    `{"type": "number", "maximum": 0.1234567890123456789}`,
		Mended: `{"type": "number", "maximum": 0.1234567890}`,
	},
	{
		Name: "twin-multiple", Finds: "steps that a browser can't divide by",
		Why:    "To a node 19.99 is a multiple of 0.01. A browser divides doubles, and says no. Nor does it know integers beyond 2^53 apart, so that a step needs bounds.",
		Bad:    `{"type": "number", "multipleOf": 0.01}`,
		Mended: `{"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100000}`,
	},
	{
		Name: "twin-pattern", Finds: "patterns that a browser has not, or reads otherwise",
		Why:    "Browsers take patterns with the flag u, where a brace that stands for itself needs a backslash, and a dash must have none. \\p{...} asks for a table of Unicode, which may be another version there.",
		Bad:    `{"type": "string", "pattern": "^[0-9]{4}\\-[0-9]{2}$"}`,
		Mended: `{"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}`,
	},
	{
		Name: "twin-format", Finds: "the format regex",
		Why:    "A browser takes for a pattern what its own version of ECMA-262 does. All other formats that a node checks are checked alike in the browser.",
		Bad:    `{"type": "string", "format": "regex", "maxLength": 100}`,
		Mended: `{"type": "string", "maxLength": 100}`,
	},
	{
		Name: "twin-unevaluated", Finds: "unevaluated* beside if, dependentSchemas, contains or items",
		Why:    "Which properties and items count as evaluated depends on the branches that a value takes. The library that makes the module does not know it of if and dependentSchemas, and of contains and items.",
		Bad:    `{"type": "object", "properties": {"a": {"type": "null"}}, "dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}}}, "unevaluatedProperties": false}`,
		Mended: `{"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "dependentRequired": {"b": ["a"]}, "additionalProperties": false}`,
	},
	{
		Name: "twin-reference", Finds: "references that the module can't follow",
		Why:    "What $dynamicRef leads to depends on the schemas around it, and schemas of the standard itself are not among the files.",
		Bad:    `{"$dynamicRef": "#name", "$defs": {"name": {"$dynamicAnchor": "name", "type": "string", "maxLength": 40}}, "$ref": "#/$defs/name"}`,
		Mended: `{"$ref": "#/$defs/name", "$defs": {"name": {"type": "string", "maxLength": 40}}}`,
	},
}
