package wsnode

import (
	"net/http"
	"testing"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// A token in the URL opens a socket only if it opens just one: the authority is
// told where it came from.
func TestOnlySingleUseTokensInTheURL(t *testing.T) {
	for _, c := range []struct {
		uses   int
		inURL  bool
		status int
	}{
		{1, true, http.StatusSwitchingProtocols},
		{2, true, http.StatusUnauthorized},
		{2, false, http.StatusSwitchingProtocols},
	} {
		inLab(t, func(cfg *Config, _ *wstest.Authority) {
			for i := range cfg.Routes {
				cfg.Routes[i].QueryToken = true
			}
		}, func(l *lab) {
			text := l.a.Issue(wstest.Token{Uses: c.uses}).Text
			o := wstest.Opening{Target: echoPath, Bearer: text}
			if c.inURL {
				o = wstest.Opening{Target: echoPath + "?token=" + text}
			}
			p := l.dial()
			p.Write(o.Bytes())
			if resp, body := p.Response(); resp.StatusCode != c.status {
				t.Errorf("%d uses, in the URL %t: %d %s, want %d", c.uses, c.inURL, resp.StatusCode, body, c.status)
			}
			if asked := l.a.Seen().Redeems[0].GetSingleUseOnly(); asked != c.inURL {
				t.Errorf("in the URL %t: the authority is told %t", c.inURL, asked)
			}
		})
	}
}
