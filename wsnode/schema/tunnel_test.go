package schema

import (
	"encoding/base64"
	"strings"
	"testing"
)

// jwt is a JSON Web Token with these claims and no signature worth the name.
func jwt(claims string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestTunnelSubprotocol(t *testing.T) {
	wstunnel := jwt(`{"id":"018c1a2b-aaaa-7bbb-8ccc-0123456789ab","p":{"Tcp":{"proxy_protocol":false}},"r":"10.0.0.5","rp":22}`)
	for _, test := range []struct {
		rule  string
		names []string
		want  bool
	}{
		{"websockify and noVNC", []string{"binary", "base64", "rfb", "Binary", "BASE64"}, true},
		{"VMware", []string{"uint8utf8", "vmware-vvc", "wmks"}, true},
		{"Guacamole", []string{"guacamole", "Guacamole"}, true},
		{"ttyd and GoTTY", []string{"tty", "webtty"}, true},
		{"Kubernetes, each version", []string{
			"channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io", "v99.channel.k8s.io", "base64.channel.k8s.io", "v4.base64.channel.k8s.io", "V5.Channel.K8s.IO",
			"binary.k8s.io", "base64.binary.k8s.io", "portforward.k8s.io", "v2.portforward.k8s.io", "SPDY/3.1+portforward.k8s.io",
		}, true},
		{"chisel, each version", []string{"chisel-v1", "chisel-v3", "chisel-v4", "CHISEL-V3"}, true},
		{"wstunnel of npm", []string{"tunnel-protocol"}, true},
		{"wstunnel of erebe", []string{"authorization.bearer." + wstunnel, "Authorization.Bearer." + wstunnel}, true},
		{"clouds", []string{"relay.tunnel.cloudproxy.app", "aws.iot.securetunneling-1.0", "aws.iot.securetunneling-3.0", "tunnel-relay-client", "tunnel-relay-client-v2-dev", "tunnel-relay-host"}, true},
		{"terminals in web pages", []string{"terminal.gitlab.com", "base64.terminal.gitlab.com", "cockpit1"}, true},
		{"KubeVirt", []string{"plain.kubevirt.io"}, true},
		{"ways into networks", []string{"boundary-tcp-proxy-v1", "alpn", "alpn-ping", "derp", "tailscale-control-protocol", "ws-tunnel"}, true},
		{"SOCKS", []string{"socks", "socks4", "socks5", "SOCKS5"}, true},
		{"SSH and telnet", []string{"ssh", "telnet", "telnet.ietf.org"}, true},
		{"plain names of transports and desktops", []string{"tcp", "udp", "vnc", "rdp"}, true},

		{"Gatehouse's own names", []string{"gatehouse.v1", "gatehouse.token.gh1_AAAA"}, false},
		{"protocols of messages", []string{
			"mqtt", "mqttv3.1", "v10.stomp", "v12.stomp", "wamp.2.json", "wamp.2.msgpack", "graphql-ws", "graphql-transport-ws", "soap", "xmpp", "sip", "ocpp1.6", "ocpp2.0.1",
			"json", "chat", "chat.v2", "protobuf", "actioncable-v1-json", "v1.kernel.websocket.jupyter.org",
		}, false},
		{"names that contain a tunnel's", []string{"binaryjson", "my-binary", "tty2", "sshd-events", "guacamole-recipes", "tcpdump.v1", "chisel", "chiseled", "xchannel.k8s.io", "channel.k8s.io.example.com", "socksshop", "alpnet", "derpy.v1", "cockpit", "terminal", "boundary.v1"}, false},
		{"tokens of others", []string{
			"authorization.bearer." + jwt(`{"id":"u42","exp":1800000000}`), "authorization.bearer." + jwt(`{"p":1,"r":2}`), "authorization.bearer.NNSXS.ABC", "authorization.bearer.", "authorization.bearer",
			"authorization.bearer.." + jwt("{}"), "authorization.bearer.a." + strings.Repeat("A", 4000) + ".b", "base64url.bearer.authorization.k8s.io.dG9rZW4", "v1",
		}, false},
		{"nothing", []string{"", "*", "-", "."}, false},
	} {
		for _, name := range test.names {
			if got := TunnelSubprotocol([]byte(name)); got != test.want {
				t.Errorf("%s: %q is a tunnel: %v, want %v", test.rule, name, got, test.want)
			}
		}
	}
}

func TestTunnelNamesAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range tunnels {
		if name != strings.ToLower(name) || len(strings.Trim(name, "*")) < 3 || strings.Count(name, "*") > 1 || seen[name] {
			t.Errorf("%q is not in lower case, too short, has two stars or is there twice", name)
		}
		seen[name] = true
	}
}

func TestTunnelAllocs(t *testing.T) {
	for _, name := range []string{"gatehouse.v1", "authorization.bearer." + jwt(`{"id":"1","p":2,"r":3,"rp":4}`)} {
		b := []byte(name)
		if got := testing.AllocsPerRun(1000, func() { TunnelSubprotocol(b) }); got != 0 {
			t.Errorf("%q: %v allocations, want 0", name, got)
		}
	}
}

func FuzzTunnelSubprotocol(f *testing.F) {
	f.Add([]byte("v4.channel.k8s.io"))
	f.Add([]byte("authorization.bearer." + jwt(`{"p":1,"r":2,"rp":3}`)))
	f.Add([]byte("authorization.bearer..."))
	f.Fuzz(func(t *testing.T, name []byte) {
		got := TunnelSubprotocol(name)
		for i, c := range name { // ASCII has case, the token's base64 apart
			if 'a' <= c && c <= 'z' && i < len("authorization.bearer.") {
				name[i] = c &^ 0x20
			}
		}
		if TunnelSubprotocol(name) != got {
			t.Fatalf("case matters in %q", name)
		}
	})
}

func BenchmarkTunnelSubprotocol(b *testing.B) {
	name := []byte("gatehouse.v1")
	b.ReportAllocs()
	for b.Loop() {
		TunnelSubprotocol(name)
	}
}
