//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// twinPackages is where ./test e2e installs what builds modules.
const twinPackages = "../../cmd/gatehouse/twin"

func gatehouse(t *testing.T, stdin string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.Command(bin("gatehouse"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = strings.NewReader(stdin), &out, &errs, append(os.Environ(), env...)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// buildTwin makes a module of schema files in a folder of its own.
func buildTwin(t *testing.T, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "twin")
	if _, stderr, code := gatehouse(t, "", nil, append([]string{"schema", "build", "--out", dir, "--packages", twinPackages}, args...)...); code != 0 {
		t.Fatalf("schema build: exit %d\n%s", code, stderr)
	}
	write(t, filepath.Join(dir, "package.json"), `{"type": "module"}`)
	return dir
}

// nodeVerdicts holds each line against schemas with the node's program: a mark for
// each, as clients/verdicts.mjs prints them, or ? where what refuses it is no part
// of what browsers decide.
func nodeVerdicts(t *testing.T, lines []string, args ...string) []byte {
	t.Helper()
	stdout, stderr, code := gatehouse(t, strings.Join(lines, "\n")+"\n", nil, append([]string{"schema", "check", "-o", "json"}, args...)...)
	if code > 1 {
		t.Fatalf("schema check: exit %d\n%s", code, stderr)
	}
	var report struct {
		Refused []struct {
			Line  int
			Error string
		}
		Messages int
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.Messages != len(lines) {
		t.Fatalf("%v, %d messages of %d", err, report.Messages, len(lines))
	}
	marks := []byte(strings.Repeat(".", len(lines)))
	for _, r := range report.Refused {
		mark := byte('x')
		switch r.Error {
		case "not JSON", "lone surrogate in an escape":
			mark = 'j'
		case "duplicate property name":
			mark = '?'
		case "message too complex for its schema":
			t.Errorf("%.200s: %s", lines[r.Line-1], r.Error)
		}
		marks[r.Line-1] = mark
	}
	return marks
}

// compare reports where two sides decide differently. Both refuse where one stops
// at a guard and the other reads on to find that it is no JSON.
func compare(t *testing.T, lines []string, node []byte, name string, twin string) {
	t.Helper()
	if len(twin) != len(lines) {
		t.Fatalf("%s: %d verdicts of %d", name, len(twin), len(lines))
	}
	shown := 0
	for i, line := range lines {
		if node[i] != '?' && (node[i] == '.') != (twin[i] == '.') {
			if shown++; shown <= 20 {
				t.Errorf("%s: node %c, browser %c: %.300s", name, node[i], twin[i], line)
			}
		}
	}
	if shown > 0 {
		t.Errorf("%s: %d of %d verdicts differ", name, shown, len(lines))
	}
}

func underNode(t *testing.T, dir string, lines []string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "messages")
	write(t, file, strings.Join(lines, "\n")+"\n")
	out, err := exec.Command("node", "clients/verdicts.mjs", filepath.Join(dir, "index.js"), file).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
	}
	return strings.TrimSpace(string(out))
}

// strictPolicy lets a page run its own files and nothing else: no eval.
const strictPolicy = "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; require-trusted-types-for 'script'"

// inChromium holds lines against a module in a page with a strict content security
// policy.
func inChromium(t *testing.T, dir string, lines []string) string {
	t.Helper()
	const page = `<!doctype html><title>twin</title><script type="module" src="page.js"></script>`
	const script = `import { checkText } from "./twin/index.js";
const mark = { invalid_json: "j", message_not_allowed: "x" };
const lines = (await (await fetch("messages")).text()).split("\n").slice(0, -1);
let evals = "allowed";
try { new Function("return 1")(); } catch { evals = "refused"; }
window.verdicts = evals + " " + lines.map((line) => mark[checkText(line)?.reason] ?? ".").join("");
`
	mux := http.NewServeMux()
	serve := func(pattern, kind, text string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Security-Policy", strictPolicy)
			_, _ = w.Write([]byte(text)) // if the browser is gone, the test says so
		})
	}
	module, err := os.ReadFile(filepath.Join(dir, "index.js"))
	if err != nil {
		t.Fatal(err)
	}
	serve("/{$}", "text/html; charset=utf-8", page)
	serve("/page.js", "text/javascript; charset=utf-8", script)
	serve("/twin/index.js", "text/javascript; charset=utf-8", string(module))
	serve("/messages", "text/plain; charset=utf-8", strings.Join(lines, "\n")+"\n")
	l := listen(t)
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }() // ends by Close
	t.Cleanup(func() { _ = srv.Close() })

	ctx := newBrowser(t, "")
	if err := chromedp.Do(ctx, chromedp.Navigate("http://localhost:"+port(l.Addr().String())+"/")); err != nil {
		t.Fatal(err)
	}
	got, err := chromedp.Run(ctx, chromedp.Evaluate[string](`new Promise((done) => {
  const look = () => (window.verdicts ? done(window.verdicts) : setTimeout(look, 20));
  look();
})`, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	verdicts, refused := strings.CutPrefix(got, "refused ")
	if !refused {
		t.Error("the page's policy lets new Function run, so it proves nothing")
	}
	return verdicts
}

// The module decides as the node's own program does, message by message, under
// Node.js and in a browser whose policy forbids eval.
func TestTwinDecidesAsTheNode(t *testing.T) {
	needs(t, "node")
	schemas := []string{"schemas/messages.json", "--shared", "schemas/shared.json"}
	lines := messageLines(t)
	node := nodeVerdicts(t, lines, schemas...)
	passed := strings.Count(string(node), ".")
	if len(lines) < 8000 || passed < len(lines)/20 || passed > len(lines)/2 {
		t.Fatalf("%d of %d messages pass: they prove too little", passed, len(lines))
	}
	for i := range allowedMessages {
		if at := indexOf(lines, allowedMessages[i]); node[at] != '.' {
			t.Errorf("not allowed: %s", allowedMessages[i])
		}
	}
	dir := buildTwin(t, schemas...)
	compare(t, lines, node, "Node.js", underNode(t, dir, lines))
	compare(t, lines, node, "Chromium", inChromium(t, dir, lines))
	t.Logf("%d messages, of which %d pass", len(lines), passed)
}

func indexOf(lines []string, line string) int {
	for i := range lines {
		if lines[i] == line {
			return i
		}
	}
	panic("a message is missing: " + line)
}

// The types take what is allowed and nothing else, as far as types go.
func TestTwinTypes(t *testing.T) {
	needs(t, "node")
	compiler, err := filepath.Abs("clients/node_modules/typescript/bin/tsc")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(buildTwin(t, "schemas/messages.json", "--shared", "schemas/shared.json"))
	text, err := os.ReadFile("clients/typed.ts")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "typed.ts"), string(text))
	cmd := exec.Command("node", compiler, "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "--lib", "es2022", "typed.ts")
	cmd.Dir = dir
	write(t, filepath.Join(dir, "package.json"), `{"type": "module"}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// What the linter calls a difference is none that a module is made of unasked, and
// is one.
func TestTwinDifferences(t *testing.T) {
	needs(t, "node")
	for rule, c := range map[string]struct{ schema, message string }{
		"twin-multiple": {`{"type": "number", "multipleOf": 0.01}`, "19.99"},
		"twin-number":   {`{"type": "number", "exclusiveMaximum": 0.10000000000000000001}`, "0.1"},
		"twin-pattern":  {`{"type": "string", "pattern": "^a{$"}`, ""},
	} {
		file := filepath.Join(t.TempDir(), "a.json")
		write(t, file, c.schema)
		_, stderr, code := gatehouse(t, "", nil, "schema", "build", "--out", t.TempDir(), "--packages", twinPackages, file)
		if code != 1 || !strings.Contains(stderr, rule) {
			t.Errorf("%s: exit %d, %s", rule, code, stderr)
		}
		if c.message == "" { // a browser does not even have it
			continue
		}
		dir := buildTwin(t, "--allow-differences", file)
		lines := []string{c.message}
		if node, twin := nodeVerdicts(t, lines, file), underNode(t, dir, lines); string(node) == twin {
			t.Errorf("%s: both say %s about %s", rule, twin, c.message)
		}
	}
}

// npm installs what is pinned once; then it is not needed any more.
func TestTwinInstalls(t *testing.T) {
	needs(t, "node")
	cache, out := t.TempDir(), t.TempDir()
	args := []string{"schema", "build", "--out", out, "schemas/messages.json", "--shared", "schemas/shared.json"}
	if _, stderr, code := gatehouse(t, "", []string{"XDG_CACHE_HOME=" + cache}, args...); code != 0 || !strings.Contains(stderr, "npm installs what builds the module, once") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	if err := os.Symlink(node, filepath.Join(path, "node")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := gatehouse(t, "", []string{"XDG_CACHE_HOME=" + cache, "PATH=" + path}, args...); code != 0 || stderr != "" {
		t.Errorf("again, without npm: exit %d, %s", code, stderr)
	}
	if left, err := filepath.Glob(filepath.Join(cache, "gatehouse", "installing-*")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
