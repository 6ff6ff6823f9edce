package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-ws/gatehouse/auditlog"
)

// The example of audit.md is a trail that verifies, and a line that is changed
// in it shows.
func TestAuditExample(t *testing.T) {
	_, example, _ := strings.Cut(auditPage(t), "```jsonl\n")
	example, _, _ = strings.Cut(example, "```")
	verify := func(text string) auditlog.Report {
		var v auditlog.Verifier
		if err := v.Read("audit.md", strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		return v.Finish()
	}
	if r := verify(example); len(r.Problems) > 0 || r.Head.Sequence != 2 {
		t.Errorf("%+v", r)
	}
	if r := verify(strings.Replace(example, "u42", "u43", 1)); len(r.Problems) != 1 {
		t.Errorf("%+v", r)
	}
}

// The table of actions has each that the authority writes by name.
func TestAuditActions(t *testing.T) {
	page := auditPage(t)
	files, err := filepath.Glob("../authority/*.go")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); !ok || !slices.Contains([]string{"record", "AppendLine", "Begin"}, f.Sel.Name) {
				return true
			}
			for _, arg := range call.Args[:min(len(call.Args), 3)] {
				if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					action, _ := strconv.Unquote(lit.Value)
					written[action] = true
					break // what follows is the outcome
				}
			}
			return true
		})
	}
	if len(written) < 12 {
		t.Errorf("only %d actions were seen", len(written))
	}
	_, table, _ := strings.Cut(page, "| action | written when |")
	table, _, _ = strings.Cut(table, "\n\n")
	row := regexp.MustCompile("(?m)^\\| `(\\w+)`(?:, `(\\w+)`)? \\|")
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		for _, action := range m[1:] {
			if action != "" && !written[action] {
				t.Errorf("audit.md has the action %s, which nothing writes", action)
			}
			delete(written, action)
		}
	}
	for action := range written {
		t.Errorf("the table of audit.md lacks the action %s", action)
	}
}

func auditPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("audit.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}
