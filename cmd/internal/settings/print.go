package settings

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// PrintOptions adds comments to what Print writes.
type PrintOptions struct {
	Help    bool    // above each key, its help
	Origins Origins // behind each value that is not a default, where it was set
}

// Print writes cfg as a file that loads as cfg does, secrets excepted: those
// that are set are masked, and the mask is refused by Load.
func Print(w io.Writer, cfg any, opts PrintOptions) error {
	v := reflect.ValueOf(cfg)
	checkType(v.Type(), "", nil)
	n, err := opts.node(v, "", false)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return enc.Close()
}

func (o PrintOptions) node(v reflect.Value, path string, secret bool) (*yaml.Node, error) {
	var n *yaml.Node
	switch k := kindOf(v.Type()); {
	case secret && !v.IsZero() && k != section:
		n = textNode(masked)
	case k == scalar:
		text, err := textOf(v)
		if err != nil {
			return nil, fmt.Errorf("print %s: %w", path, err)
		}
		n = &yaml.Node{Kind: yaml.ScalarNode, Value: text}
		if hasText(v.Type()) || v.Kind() == reflect.String {
			n = textNode(text)
		}
	case k == list:
		n = &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			elem, err := o.node(v.Index(i), fmt.Sprintf("%s[%d]", path, i), secret)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, elem)
		}
	case k == table:
		n = &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			elem, err := o.node(v.MapIndex(key), entry(path, shown(key.String())), secret)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, textNode(key.String()), elem)
		}
	case k == section:
		return o.section(v, path, secret)
	}
	if len(n.Content) == 0 {
		n.Style |= yaml.FlowStyle // so that none is written [] or {}
	}
	if n.Kind == yaml.ScalarNode {
		n.LineComment = o.Origins[path]
	}
	return n, nil
}

func (o PrintOptions) section(v reflect.Value, path string, secret bool) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fieldsOf(v.Type()) {
		at := join(path, f.key)
		val, err := o.node(v.FieldByIndex(f.index), at, secret || f.secret)
		if err != nil {
			return nil, err
		}
		key := textNode(f.key)
		if o.Help {
			key.HeadComment = f.help
		}
		if val.Kind != yaml.ScalarNode {
			key.LineComment = o.Origins[at]
		}
		n.Content = append(n.Content, key, val)
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n, nil
}

// textNode leaves it to the encoder whether plain text needs quotes, and
// quotes whatever is not plain.
func textNode(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	for _, r := range text {
		if r < ' ' || r > '~' {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	return n
}

// Reference writes cfg's keys as Markdown tables, one for each section, with
// cfg's values as defaults.
func Reference(w io.Writer, cfg any) error {
	v := reflect.ValueOf(cfg)
	checkType(v.Type(), "", nil)
	r := reference{}
	r.section(v, "", "", false)
	_, err := io.WriteString(w, strings.TrimLeft(r.String(), "\n"))
	return err
}

type reference struct{ strings.Builder }

// section writes the table of v, then those of the sections in it. In elements
// of lists and maps no variable or flag reaches a key.
func (r *reference) section(v reflect.Value, path, help string, inList bool) {
	var below []func()
	if path != "" {
		fmt.Fprintf(r, "\n## %s\n", path)
	}
	if help != "" {
		fmt.Fprintf(r, "\n%s\n", help)
	}
	rows := 0
	for _, f := range fieldsOf(v.Type()) {
		f.path = join(path, f.key)
		k, fv := kindOf(f.typ), v.FieldByIndex(f.index)
		if k == section {
			below = append(below, func() { r.section(fv, f.path, f.help, inList) })
			continue
		}
		if rows++; rows == 1 {
			r.WriteString("\n| key | default | environment | flag | |\n| --- | --- | --- | --- | --- |\n")
		}
		env, flag := "", ""
		if k == scalar && !inList {
			env = code(f.env())
			if !f.secret {
				flag = code("--" + f.flag())
			}
		}
		fmt.Fprintf(r, "| %s | %s | %s | %s | %s |\n", code(f.path), code(brief(fv, f.secret)), env, flag, cell(f.help))
		if (k == list || k == table) && kindOf(f.typ.Elem()) == section {
			below = append(below, func() { r.section(newElem(f.typ.Elem()), f.path+"[]", "One element of "+code(f.path)+".", true) })
		}
	}
	for _, write := range below {
		write()
	}
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + cell(s) + "`"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// brief shows a default in one cell.
func brief(v reflect.Value, secret bool) string {
	if secret && !v.IsZero() {
		return masked
	}
	switch kindOf(v.Type()) {
	case list, table:
		if v.Len() == 0 {
			return map[kind]string{list: "[]", table: "{}"}[kindOf(v.Type())]
		}
		fallthrough
	case section:
		n, err := PrintOptions{}.node(v, "", false)
		if err != nil {
			return ""
		}
		n.Style = yaml.FlowStyle
		text, err := yaml.Marshal(n)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	text, err := textOf(v)
	if err != nil {
		return ""
	}
	if text == "" {
		return `""`
	}
	return text
}
