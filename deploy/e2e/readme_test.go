//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// blocks are the shell blocks of a page, without comments.
func blocks(t *testing.T, page string) [][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		var lines []string
		for _, line := range strings.Split(strings.TrimSpace(m[1]), "\n") {
			lines = append(lines, strings.TrimSpace(line))
		}
		out = append(out, lines)
	}
	return out
}

// Every command of the README does what it says, in the order it stands there.
func TestReadme(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	all := blocks(t, filepath.Join(root, "README.md"))
	if len(all) != 4 || !slices.Equal(all[0], []string{"go run ./cmd/gatehouse dev"}) || !slices.Equal(all[1], []string{"./test"}) {
		t.Fatalf("the README has other shell blocks than this test runs: %q", all)
	}
	home := t.TempDir()
	env := []string{
		"XDG_STATE_HOME=" + home, "GOBIN=" + filepath.Join(home, "bin"),
		"PATH=" + filepath.Join(home, "bin") + ":" + os.Getenv("PATH"),
	}
	shell := func(dir, line string) string {
		t.Helper()
		cmd := exec.Command("bash", "-c", line)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "gh1_") {
				secrets.add(word)
			}
		}
		return string(out)
	}

	dev := startIn(t, root, env, "bash", "-c", "exec "+all[0][0])
	eventually(t, "dev runs", func() bool { return strings.Contains(dev.output(), "Ctrl-C stops it") })
	for _, line := range all[2] {
		out := shell(root, line)
		if strings.Contains(line, "gatehouse connect") && !strings.Contains(out, `{"type":"chat","text":"hello"}`) {
			t.Errorf("%s: no echo in %q", line, out)
		}
		if strings.Contains(line, "gatehouse revoke") && !strings.Contains(out, "on 1 of 1 node") {
			t.Errorf("%s: no receipt in %q", line, out)
		}
	}
	dev.signal(syscall.SIGINT)
	dev.wait()

	dir := t.TempDir()
	write(t, filepath.Join(dir, "node.yaml"), block(t, filepath.Join(root, "README.md"), "yaml"))
	for _, line := range all[3] {
		if !strings.HasSuffix(line, "# runs") {
			shell(dir, line)
			continue
		}
		p := startIn(t, dir, env, "bash", "-c", "exec "+strings.TrimSuffix(line, "# runs"))
		eventually(t, line, func() bool { return strings.Contains(p.output(), "started") })
	}
	eventually(t, "the node is attached", func() bool { code, _ := get("http://127.0.0.1:8442/readyz"); return code == 200 })

	build(t, root, filepath.Join(dir, "handler"), block(t, filepath.Join(root, "README.md"), "go"))
	token := strings.TrimSpace(shell(dir, "./handler"))
	mustOpen(t, offer{url: "ws://localhost:8081/chat", token: token}).echo(hello)
}

// block is the one block of a page in a language.
func block(t *testing.T, page, language string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(string(text), -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks of %s", page, len(found), language)
	}
	return found[0][1]
}

// build makes a program that prints one token out of the README's login handler.
// It lies in this module for the compiler only.
func build(t *testing.T, root, program, handler string) {
	t.Helper()
	file, overlay := program+".go", program+".json"
	write(t, file, `package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

`+handler+`
func main() {
	tokens, err := newTokens()
	if err != nil {
		panic(err)
	}
	text, err := issue(&http.Request{}, tokens, "u42")
	if err != nil {
		panic(err)
	}
	fmt.Println(text)
}
`)
	write(t, overlay, fmt.Sprintf(`{"Replace": {%q: %q}}`, filepath.Join(root, "deploy", "handler", "main.go"), file))
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", program, "./deploy/handler")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the README's login handler: %v\n%s", err, out)
	}
}

// Each promise of the README has tests that say so.
func TestPromisesHaveTests(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "## What it holds to\n")
	list, _, _ = strings.Cut(list, "\n## ")
	numbers := regexp.MustCompile(`(?m)^(\d)\. `).FindAllStringSubmatch(list, -1)
	if len(numbers) != 8 {
		t.Fatalf("the README has %d promises", len(numbers))
	}
	for _, n := range numbers {
		if out, err := exec.Command("grep", "-rn", "promise "+n[1], "--include=*_test.go", "../..").CombinedOutput(); err != nil {
			t.Errorf("promise %s: %v %s", n[1], err, out)
		}
	}
}
