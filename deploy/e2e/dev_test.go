//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
)

// devSystem is a running gatehouse dev, with a state directory of its own.
type devSystem struct {
	*process
	t    *testing.T
	home string
	args []string
	page string
}

// newDev starts dev as a new user does, but on ports of its own.
func newDev(t *testing.T) *devSystem {
	t.Helper()
	d := &devSystem{t: t, home: t.TempDir()}
	web := address(t)
	d.page = "http://localhost:" + port(web)
	d.args = []string{
		"dev", "--authority-address", local(address(t)), "--wss-address", local(address(t)),
		"--ws-address", local(address(t)), "--page-address", local(web),
	}
	d.start()
	return d
}

func local(address string) string { return "localhost:" + port(address) }

func (d *devSystem) env() []string { return []string{"XDG_STATE_HOME=" + d.home, "HOME=" + d.home} }

func (d *devSystem) start(more ...string) {
	d.t.Helper()
	d.process = startIn(d.t, "", d.env(), bin("gatehouse"), append(append([]string{}, d.args...), more...)...)
	eventually(d.t, "dev says what listens where", func() bool { return strings.Contains(d.output(), "Ctrl-C stops it") })
}

func (d *devSystem) cli(args ...string) result {
	d.t.Helper()
	return command(d.t, "", d.env(), bin("gatehouse"), args...)
}

// printed finds a line of what dev printed.
func (d *devSystem) printed(pattern string) string {
	d.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(d.output())
	if m == nil {
		d.t.Fatalf("dev did not print %s:\n%s", pattern, d.output())
	}
	return m[1]
}

func (d *devSystem) interrupt() {
	d.t.Helper()
	d.signal(syscall.SIGINT)
	if code := d.wait(); code != 0 {
		d.t.Fatalf("Ctrl-C: exit code %d\n%s", code, tail(d.output(), 10))
	}
	trail, err := os.ReadFile(filepath.Join(d.home, "gatehouse", "dev", "audit.jsonl"))
	if err != nil {
		d.t.Fatal(err)
	}
	write(d.t, newLog(d.t, "audit"), string(trail))
}

// What dev prints works as it is printed; state outlives a restart; Ctrl-C
// closes sockets with 1012.
func TestDev(t *testing.T) {
	d := newDev(t)
	if !strings.Contains(d.output(), "without TLS") {
		t.Error("the plain listener is not said")
	}
	issue := strings.Fields(d.printed(`(?m)^  (gatehouse token issue .*)$`))
	token := strings.TrimSpace(d.cli(issue[1:]...).want(t, 0).stdout)
	secrets.add(token)
	ws := d.printed(`(?m)^  ws +(ws://\S+)`)
	sock := mustOpen(t, offer{url: ws, token: token, origin: d.page})
	sock.echo(hello)
	kept := strings.TrimSpace(d.cli("token", "issue", "--subject", "keeper", "--audience", "chat", "--ttl", "10m").want(t, 0).stdout)
	secrets.add(kept)
	d.interrupt()
	sock.wantClose(1012, "node restarts")

	d.start()
	mustOpen(t, offer{url: ws, token: kept, origin: d.page}).echo(hello)
	revoke := strings.Fields(d.printed(`(?m)^  (gatehouse revoke .*)$`))
	again := mustOpen(t, offer{url: ws, token: strings.TrimSpace(d.issueSecret(issue[1:]...)), origin: d.page})
	d.cli(revoke[1:]...).want(t, 0)
	again.wantClose(4501, "token revoked")

	if info, err := os.Stat(filepath.Join(d.home, "gatehouse", "dev")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state folder: %v %v", info.Mode(), err)
	}
	second := command(t, "", d.env(), bin("gatehouse"), d.args...).want(t, 1)
	if !strings.Contains(second.stderr, "--authority-address") {
		t.Errorf("a busy port does not name its flag: %s", second.stderr)
	}
	d.interrupt()
	if r := d.cli("node", "list"); r.code != 7 {
		t.Errorf("without a running dev: exit code %d\n%s", r.code, r.stderr)
	}

	if r := command(t, "", d.env(), bin("gatehouse"), append(d.args, "--fresh")...); r.code != 2 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("--fresh without a terminal: exit code %d\n%s", r.code, r.stderr)
	}
	d.start("--fresh", "--yes")
	wantStatusOrClose(t, offer{url: ws, token: token, origin: d.page})
	if out := d.cli("token", "list", "-o", "json").want(t, 0).stdout; strings.Contains(out, "token_id") {
		t.Errorf("--fresh kept tokens: %s", out)
	}
	d.interrupt()
}

func (d *devSystem) issueSecret(args ...string) string {
	d.t.Helper()
	text := d.cli(args...).want(d.t, 0).stdout
	secrets.add(strings.TrimSpace(text))
	return text
}

// wantStatusOrClose wants a refusal, by HTTP or by close.
func wantStatusOrClose(t *testing.T, o offer) {
	t.Helper()
	sock, err := open(t, o)
	if err != nil {
		return
	}
	sock.wantClose(4401, "token_inactive")
}

// The page, in a real browser: get a token, connect, say something, be revoked
// from another terminal and read why.
func TestDevPage(t *testing.T) {
	d := newDev(t)
	ctx := newBrowser(t, "")
	do := func(what string, actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, actions...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	text := func(js string) string {
		t.Helper()
		s, err := chromedp.Run(ctx, chromedp.Evaluate[string](js))
		if err != nil {
			t.Fatalf("%s: %v", js, err)
		}
		return s
	}
	click := func(id string) {
		t.Helper()
		text(`(document.getElementById("` + id + `").click(), "")`)
	}
	until := func(what, js, want string) {
		t.Helper()
		eventually(t, what, func() bool {
			s, err := chromedp.Run(ctx, chromedp.Evaluate[string](js))
			return err == nil && s == want
		})
	}
	do("open the page", chromedp.Navigate(d.page))
	click("get-token")
	until("a token", `document.body.dataset.token`, "fresh")
	id := text(`document.getElementById("token-id").textContent.trim()`)
	if masked := text(`document.getElementById("token-text").textContent`); strings.Contains(masked, "gh1_") && len(masked) > 20 && !strings.Contains(masked, "•") {
		t.Errorf("the token is shown: %s", masked)
	}
	click("connect")
	until("connected", `document.body.dataset.phase`, "open")
	click("sample-chat")
	click("send")
	until("the echo", `String(document.querySelectorAll('#log li[data-kind="received"]').length)`, "1")

	click("connect-again")
	const result = `document.getElementById("again-result")`
	until("the second socket is refused", result+`.dataset.code`, "4401")
	if got := text(result + `.textContent`); !strings.Contains(got, "The first socket stays open.") {
		t.Errorf("the page says %q", got)
	}

	line := text(`document.getElementById("command-0").textContent`)
	if !strings.Contains(line, "revoke --token "+id) {
		t.Errorf("the page shows %q", line)
	}
	fields := strings.Fields(line)
	d.cli(fields[1:]...).want(t, 0)
	until("the close code", `document.getElementById("banner").dataset.code ?? ""`, "4501")
	words := text(`document.getElementById("banner").innerText`)
	if !strings.Contains(strings.ToLower(words), "revoked") {
		t.Errorf("the banner says %q", words)
	}
	if hidden := text(`String(` + result + `.hidden)`); hidden != "true" {
		t.Error("the page still says that the first socket stays open")
	}
	const offered = `String(!document.getElementById("banner-restart").hidden)`
	if text(offered) != "true" {
		t.Error("after a revocation the user may log in again")
	}

	// A certificate that the browser does not trust is no matter of pauses.
	click("get-token")
	until("a token", `document.body.dataset.token`, "fresh")
	text(`(document.getElementById("endpoint").selectedIndex = 1, document.getElementById("endpoint").dispatchEvent(new Event("change")), "")`)
	click("connect")
	until("no connection", `document.getElementById("banner").dataset.code ?? ""`, "1006")
	if got := text(`document.getElementById("banner-again").textContent`); got != "May try again once the certificate is trusted" {
		t.Errorf("the banner says %q", got)
	}

	// Whoever is locked out is offered nothing that would be refused too.
	text(`(document.getElementById("endpoint").selectedIndex = 0, document.getElementById("endpoint").dispatchEvent(new Event("change")), "")`)
	click("connect")
	until("connected", `document.body.dataset.phase`, "open")
	d.cli("lock", "--subject", "demo-user", "--reason", "test").want(t, 0)
	until("the close code", `document.getElementById("banner").dataset.code ?? ""`, "4503")
	if text(offered) != "false" {
		t.Error("a new token is offered beside the words that it would be refused")
	}
	if leak := text(`String(document.documentElement.outerHTML.includes("gh1_A"))`); leak != "false" {
		t.Error("the document holds token text")
	}
	d.interrupt()
}
