package docs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema/lint"
)

// lint.md is what the linter's table of rules says.
func TestLintPage(t *testing.T) {
	page := lintPage()
	if *update {
		if err := os.WriteFile("lint.md", []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile("lint.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != page {
		t.Error("lint.md is out of date: go test ./docs -update")
	}
}

func lintPage() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`# Rules for schemas

Written by ` + "`go test ./docs -update`" + ` from the table in the code.

` + "`gatehouse schema lint FILE...`" + ` judges schema files by these rules, and its exit code is 1 if it finds anything. ` + "`--only` and `--except`" + ` choose among them, by names in which ` + "`*`" + ` stands for any letters: ` + "`--except 'twin-*'`" + ` where no browser checks messages. Names do not change.

What several schemas say of one value counts together: a string may have its ` + "`maxLength`" + ` in a schema that it refers to, or in each branch of an ` + "`anyOf`" + `. A finding stands where the type is asked for.

| rule | finds |
| --- | --- |`)
	for _, r := range lint.Rules() {
		line("| [%s](#%[1]s) | %s |", r.Name, r.Finds)
	}
	for _, r := range lint.Rules() {
		line("\n## %s\n\n%s\n\n```json\n%s\n```\n\nmended:\n\n```json\n%s\n```", r.Name, r.Why, r.Bad, r.Mended)
	}
	return b.String()
}
