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
	nodeConfig(t, dir)
	for _, line := range all[3] {
		if !strings.HasSuffix(line, "# runs") {
			shell(dir, line)
			continue
		}
		p := startIn(t, dir, env, "bash", "-c", "exec "+strings.TrimSuffix(line, "# runs"))
		eventually(t, line, func() bool { return strings.Contains(p.output(), "started") })
	}
	eventually(t, "the node is attached", func() bool { code, _ := get("http://127.0.0.1:8442/readyz"); return code == 200 })
}

// nodeConfig writes the smallest node.yaml.
func nodeConfig(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "node.yaml"), fmt.Sprintf(`listeners: [{address: %s, plain: true}]
allow_plain: true
credential: {ca_file: node-1/ca.crt, cert_file: node-1/tls.crt, key_file: node-1/tls.key}
routes: [{path: /chat, audience: chat, missing_origin: allow, unchecked: true}]
`, address(t)))
}
