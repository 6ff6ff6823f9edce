//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// newBrowser starts Chromium with a profile of its own that trusts ca, if any.
func newBrowser(t *testing.T, ca string) context.Context {
	t.Helper()
	needs(t, "chromium")
	home := t.TempDir()
	if ca != "" {
		needs(t, "certutil")
		db := filepath.Join(home, ".pki", "nssdb")
		for _, args := range [][]string{
			{"mkdir", "-p", db},
			{"certutil", "-d", "sql:" + db, "-N", "--empty-password"},
			{"certutil", "-d", "sql:" + db, "-A", "-t", "C,,", "-n", "gatehouse", "-i", ca},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.Env("HOME="+home),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	ctx, timeout := context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(timeout)
	return ctx
}

// site serves an empty page over https with the system's own CA, and sets a
// cookie.
func (s *system) site(l net.Listener) string {
	s.t.Helper()
	ca, err := pki.Load(filepath.Join(s.state, "ca"), time.Now, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "site-"+port(l.Addr().String()))
	if _, err := ca.EnsureServer(dir, []string{"localhost"}); err != nil {
		s.t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(dir+"/server.crt", dir+"/server.key")
	if err != nil {
		s.t.Fatal(err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "logged-in", Path: "/", Secure: true, SameSite: http.SameSiteNoneMode})
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<!doctype html><title>site</title>"))
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
	}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	s.t.Cleanup(func() { _ = srv.Close() })
	return "https://localhost:" + port(l.Addr().String())
}

// dialJS opens a WebSocket in the page and tells how it went: "open PROTOCOL
// ECHO", or "close CODE REASON".
const dialJS = `new Promise(done => {
  const ws = new WebSocket(%q, %s);
  let proto = "";
  ws.onopen = () => { proto = ws.protocol; ws.send(%q); };
  ws.onmessage = e => { done("open " + proto + " " + e.data); ws.close(); };
  ws.onclose = e => done("close " + e.code + " " + e.reason);
})`

func inPage(ctx context.Context, t *testing.T, url, protocols string) string {
	t.Helper()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf(dialJS, url, protocols, hello), chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Chromium over wss with the CA trusted: a page on an allowed origin connects,
// one on another origin is refused, and a cookie alone opens nothing.
func TestChromium(t *testing.T) {
	s := newSystem(t)
	good, evil := listen(t), listen(t)
	allowed, other := s.site(good), s.site(evil)
	n := s.addNode("node-1", "")
	n.stop()
	replaceInFile(t, n.config, `"https://app.example.com"`, `"`+allowed+`"`)
	s.startNode(n)

	admin := s.dial("")
	offer := func() string {
		return `["gatehouse.v1", "gatehouse.token.` + s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken() + `"]`
	}
	ctx := newBrowser(t, filepath.Join(s.state, "ca", "ca.crt"))
	url := "wss://localhost:" + port(n.wss)

	if err := chromedp.Do(ctx, chromedp.Navigate(allowed)); err != nil {
		t.Fatal(err)
	}
	if got := inPage(ctx, t, url+"/chat", offer()); got != "open gatehouse.v1 "+hello {
		t.Errorf("allowed origin: %s", got)
	}
	used := offer()
	inPage(ctx, t, url+"/closing", used)
	if got := inPage(ctx, t, url+"/closing", used); got != "close 4401 token_inactive" {
		t.Errorf("a used token: %s", got)
	}
	if got := inPage(ctx, t, url+"/closing", `["gatehouse.v1"]`); got != "close 4401 token_missing" {
		t.Errorf("a cookie alone: %s", got)
	}
	n.says(`"reason":"cookie_only"`) // for the browser sent its cookie
	if got := inPage(ctx, t, url+"/chat", `["gatehouse.v1"]`); got != "close 1006 " {
		t.Errorf("refused by HTTP, the page must not learn why: %s", got)
	}

	if err := chromedp.Do(ctx, chromedp.Navigate(other)); err != nil {
		t.Fatal(err)
	}
	if got := inPage(ctx, t, url+"/closing", offer()); got != "close 4504 origin_not_allowed" {
		t.Errorf("another origin: %s", got)
	}
	if got := inPage(ctx, t, url+"/chat", offer()); got != "close 1006 " {
		t.Errorf("another origin: %s", got)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func replaceInFile(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s holds no %s", path, old)
	}
	write(t, path, strings.ReplaceAll(string(b), old, new))
}
