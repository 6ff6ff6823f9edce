package lint

import (
	"slices"
	"strings"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// site looks at what schemas let through that apply to one value of a message
// together, and at the values within it.
func (l *linter) site(nodes []*schema.Node) {
	if len(nodes) == 0 {
		return
	}
	var key strings.Builder
	for _, n := range nodes {
		key.WriteString(n.Place())
		key.WriteByte('\n')
	}
	if l.sites[key.String()] {
		return
	}
	l.sites[key.String()] = true

	all := together(nodes)
	v := l.verdict(nodes)
	switch {
	case v.allowed == 0:
		l.impossible(nodes, all)
	case v.allowed == anything:
		l.anyType(nodes[0], all)
	default:
		for _, k := range []kinds{text, array, items, object} {
			if v.open()&k != 0 {
				l.blame(nodes, k)
			}
		}
		why := contradiction(all, v.allowed)
		if why == "" && v.allowed == object {
			why = disjoint(all)
		}
		if why != "" {
			l.find("contradiction", nodes[0], nodes[0].Pointer, why, "correct one of the schemas that meet here, or write false if that is meant")
		}
	}
	if v.allowed&object != 0 {
		l.manyProperties(all)
	}
	l.within(all, nil)
}

// within looks at the values in one that these schemas apply to. Where some of
// them, new, are of a branch, the rest has been looked at without it.
func (l *linter) within(all, new []*schema.Node) {
	if l.left -= len(all); l.left < 0 {
		return
	}
	declares := func(n *schema.Node) bool { return new == nil || slices.Contains(new, n) }
	for _, n := range all {
		for _, c := range n.Children {
			if !declares(n) {
				break
			}
			switch c.Under {
			case "properties":
				l.site(propertySchemas(all, c.Name))
			case "prefixItems":
				l.site(itemSchemas(all, c.Name))
			case "items":
				l.site(below(all, "items"))
			case "patternProperties", "additionalProperties", "unevaluatedProperties", "unevaluatedItems":
				l.site([]*schema.Node{c})
			}
		}
		if declares(n) {
			for _, b := range branchesOf(n) {
				l.branches(all, n, b)
			}
			for _, c := range n.Below("dependentSchemas") {
				l.branch(all, []*schema.Node{c})
			}
		}
	}
}

func (l *linter) branch(all, nodes []*schema.Node) {
	var new []*schema.Node
	for _, n := range together(nodes) {
		if !slices.Contains(all, n) {
			new = append(new, n)
		}
	}
	if len(new) > 0 {
		l.within(append(slicesOf(all), new...), new)
	}
}

// propertySchemas are those of a property's value. false ends it: there is none.
func propertySchemas(all []*schema.Node, name string) []*schema.Node {
	var out []*schema.Node
	for _, n := range all {
		at := slices.IndexFunc(n.Children, func(c *schema.Node) bool { return c.Under == "properties" && c.Name == name })
		switch {
		case at >= 0 && n.Children[at].Never:
			return nil
		case at >= 0:
			out = append(out, n.Children[at])
		case never(n, "additionalProperties") && n.Keywords["patternProperties"] == nil:
			return nil
		}
	}
	return out
}

// itemSchemas are those of the item at an index that prefixItems has.
func itemSchemas(all []*schema.Node, index string) []*schema.Node {
	var out []*schema.Node
	for _, n := range all {
		at := slices.IndexFunc(n.Children, func(c *schema.Node) bool { return c.Under == "prefixItems" && c.Name == index })
		switch {
		case at >= 0 && n.Children[at].Never:
			return nil
		case at >= 0:
			out = append(out, n.Children[at])
		case never(n, "items"):
			return nil
		default:
			out = append(out, n.Below("items")...)
		}
	}
	return out
}

func below(all []*schema.Node, keyword string) []*schema.Node {
	var out []*schema.Node
	for _, n := range all {
		for _, c := range n.Below(keyword) {
			if c.Never {
				return nil
			}
			out = append(out, c)
		}
	}
	return out
}

// blame is a look for the schema that lets through too much of a kind.
type blame struct {
	at   *schema.Node
	kind kinds
}

// blame finds the schema at which a kind of value should be bounded.
func (l *linter) blame(nodes []*schema.Node, k kinds) {
	if l.blamed[blame{nodes[0], k}] {
		return
	}
	l.blamed[blame{nodes[0], k}] = true
	all := together(nodes)
	for _, n := range all {
		if typesOf(n) != anything && typesOf(n)&k != 0 {
			l.open(n, k)
			return
		}
	}
	for _, n := range all {
		for _, b := range branchesOf(n) {
			if l.oneOf(b).allowed == anything {
				continue
			}
			for _, branch := range b.nodes {
				if l.verdict(branch).open()&k != 0 {
					l.blame(branch, k)
				}
			}
			return
		}
	}
	l.open(nodes[0], k)
}

// open tells of a kind of values that a schema lets through whatever their size.
func (l *linter) open(n *schema.Node, k kinds) {
	switch k {
	case text:
		if pattern, ok := n.Keywords["pattern"].(string); ok {
			l.find("unbounded-pattern", n, n.At("pattern"), quoted(pattern)+" is in texts of any length, and there is no maxLength",
				`add "maxLength", or write ^ and $ and {0,N} for each * and +`)
			return
		}
		why := "strings of any length pass"
		if format, ok := n.Keywords["format"].(string); ok {
			why += ": the format " + format + " does not bound them"
		}
		l.find("open-string", n, n.Pointer, why, `add "maxLength"`)
	case array:
		l.find("open-array", n, n.Pointer, "arrays of any length pass", `add "maxItems"`)
	case items:
		l.find("open-items", n, n.Pointer, "items that no schema describes pass, with anything in them", `add "items" with a schema, or "items": false after prefixItems`)
	case object:
		fix := `add "additionalProperties": false`
		if n.Ref != nil || n.Keywords["allOf"] != nil || n.Keywords["anyOf"] != nil || n.Keywords["oneOf"] != nil {
			fix = `add "unevaluatedProperties": false`
		}
		l.find("open-object", n, n.Pointer, "properties that no schema names pass, with anything in them", fix)
	}
}

// anyType tells of a schema that does not ask for a type.
func (l *linter) anyType(n *schema.Node, all []*schema.Node) {
	var implied kinds
	at := n
	for _, s := range all {
		for keyword := range s.Keywords {
			if k := assertsOn[keyword]; k != 0 {
				implied |= k
				at = s
			}
		}
	}
	if implied.single() {
		l.find("any-type", at, at.Pointer, "values of any type pass: what it says is about "+implied.names()+"s alone", `add "type": "`+implied.names()+`"`)
		return
	}
	l.find("any-type", n, n.Pointer, "values of any type pass, with anything in them", `add a "type", or "const" or "enum"`)
}

// manyProperties finds objects with schemas for properties of any name, of which
// there may be any number.
func (l *linter) manyProperties(all []*schema.Node) {
	for _, n := range all {
		if _, ok := n.Keywords["maxProperties"]; ok {
			return
		}
	}
	for _, n := range all {
		for _, keyword := range []string{"additionalProperties", "patternProperties", "unevaluatedProperties"} {
			value, isObject := n.Keywords[keyword].(map[string]any)
			if isObject && len(value) > 0 {
				l.find("open-map", n, n.At(keyword), "any number of properties passes", `add "maxProperties" beside it`)
			}
		}
	}
}
