package docs

import (
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/gatehouse-ws/gatehouse/"

// Every package keeps to the table of design.md, whose longest name that fits
// rules it. "nothing" is nothing of this module.
func TestImportsRunOneWay(t *testing.T) {
	page, err := os.ReadFile("design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| room | may import |")
	table, _, _ = strings.Cut(table, "\n\n")
	code := regexp.MustCompile("`([^`]+)`")
	may := map[string][]string{}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, " | ")
		if len(cells) != 3 {
			continue
		}
		for _, room := range code.FindAllStringSubmatch(cells[0], -1) {
			may[room[1]] = []string{room[1]} // and what lies in it
			for _, other := range code.FindAllStringSubmatch(cells[1], -1) {
				may[room[1]] = append(may[room[1]], other[1])
			}
		}
	}
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		if pkg == "docs" || strings.HasPrefix(pkg, "deploy/") {
			continue
		}
		room := pkg
		for may[room] == nil && room != "." {
			room = path.Dir(room)
		}
		if room == "." {
			t.Errorf("%s: the table has no room for it", pkg)
			continue
		}
		for _, imported := range words[1:] {
			own, ok := strings.CutPrefix(imported, module)
			if !ok {
				continue
			}
			checked++
			allowed := false
			for _, prefix := range may[room] {
				allowed = allowed || own == prefix || strings.HasPrefix(own, prefix+"/")
			}
			if !allowed {
				t.Errorf("%s imports %s; the table of design.md lets %s import %v", pkg, own, room, may[room])
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d imports were seen", checked)
	}
}
