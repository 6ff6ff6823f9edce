package schema

import (
	"bytes"
	"encoding/base64"
)

// What tunnels call their subprotocol. The names say what a client means to do;
// a client that hides it calls it otherwise, and meets the schemas. Protocols of
// messages, such as mqtt, v12.stomp or wamp.2.json, are not here: they carry
// what an application understands, and a route's schema decides about them.
//
// Lower case. A name that ends in "*" stands for all that begin like it, one
// that begins with "*" for all that end like it.
var tunnels = []string{
	// VNC and whatever else is behind websockify: raw bytes, in frames or in
	// base64 (novnc/websockify, README, "WebSockets binary data"). rfb is VNC's
	// name in IANA's registry of subprotocols (RFC 6143).
	"binary", "base64", "rfb",
	// VMware's remote console: VNC under other names (hashicorp/
	// packer-plugin-vmware, step_configure_vnc.go).
	"uint8utf8", "vmware-vvc", "wmks",
	// Apache Guacamole: remote desktops (guacamole-common-js, Tunnel.js).
	"guacamole",
	// Terminals: ttyd (tsl0922/ttyd, html/src/components/terminal), GoTTY
	// (yudai/gotty, js/src/webtty.ts), GitLab (gitlab-workhorse, doc/channel.md);
	// Cockpit, whose channels lead to any port of a machine (cockpit-project/
	// cockpit, pkg/lib/cockpit.js).
	"tty", "webtty", "terminal.gitlab.com", "base64.terminal.gitlab.com", "cockpit1",
	// Kubernetes: exec, attach and logs as channels of bytes, with or without
	// version (k8s.io/apimachinery, pkg/util/httpstream/wsstream), and ports
	// (kubernetes/enhancements, KEP 4006). KubeVirt's consoles and screens
	// (kubevirt/client-go, kubecli/streamer.go).
	"channel.k8s.io", "*.channel.k8s.io", "binary.k8s.io", "*.binary.k8s.io", "portforward.k8s.io", "*.portforward.k8s.io", "*+portforward.k8s.io", "plain.kubevirt.io",
	// chisel, with its version (jpillora/chisel, share/version.go and
	// server/server_handler.go, which looks for this prefix).
	"chisel-*",
	// wstunnel of npm (mhzed/wstunnel, lib/wst_client.js). The one of erebe is
	// known by its token, see wstunnelToken.
	"tunnel-protocol",
	// Ports through clouds: Google's Identity-Aware Proxy (gcloud,
	// iap_tunnel_websocket_utils.py), AWS IoT (aws-samples/
	// aws-iot-securetunneling-localproxy, V2WebSocketProtocolGuide.md), Microsoft's
	// dev tunnels (microsoft/dev-tunnels, tunnelClientBase.ts).
	"relay.tunnel.cloudproxy.app", "aws.iot.securetunneling-*", "tunnel-relay-*",
	// Into networks: Boundary (hashicorp/boundary, globals), Teleport (gravitational/
	// teleport, api/constants), Tailscale's relays and control (tailscale/tailscale,
	// derp/derphttp, control/controlhttp), GitLab's agent (gitlab-agent,
	// internal/tool/wstunnel).
	"boundary-tcp-proxy-*", "alpn", "alpn-ping", "derp", "tailscale-control-protocol", "ws-tunnel",
	// SOCKS (wkgcass/vproxy, doc/websocks.md).
	"socks", "socks4", "socks4a", "socks5", "socks5h",
	// SSH (libapps/libapps-mirror, nassh_stream_relay_corpv4.js) and telnet.
	"ssh", "telnet", "telnet.*",
	// Not seen in a tool of renown, but what else could they mean.
	"tcp", "udp", "vnc", "rdp",
}

// TunnelSubprotocol reports whether a name in Sec-WebSocket-Protocol belongs to a
// tunnel: a protocol that carries the bytes of another one. Case does not
// matter. It allocates nothing.
func TunnelSubprotocol(name []byte) bool {
	for _, pattern := range tunnels {
		last := len(pattern) - 1
		switch {
		case pattern[last] == '*':
			if len(name) >= last && equalFold(name[:last], pattern[:last]) {
				return true
			}
		case pattern[0] == '*':
			if at := len(name) - last; at >= 0 && equalFold(name[at:], pattern[1:]) {
				return true
			}
		case equalFold(name, pattern):
			return true
		}
	}
	return wstunnelToken(name)
}

// equalFold compares without the case of ASCII; lower is in lower case.
func equalFold(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// wstunnelToken recognizes erebe/wstunnel (wstunnel/src/tunnel/transport/jwt.rs).
// It offers "v1" and "authorization.bearer." with a JSON Web Token, as others do
// too; but its claims say where the tunnel leads: protocol p, host r, port rp.
func wstunnelToken(name []byte) bool {
	const prefix = "authorization.bearer."
	if len(name) < len(prefix) || !equalFold(name[:len(prefix)], prefix) {
		return false
	}
	_, claims, _ := bytes.Cut(name[len(prefix):], []byte("."))
	claims, _, _ = bytes.Cut(claims, []byte("."))
	var buf [1024]byte
	if base64.RawURLEncoding.DecodedLen(len(claims)) > len(buf) {
		return false
	}
	n, err := base64.RawURLEncoding.Decode(buf[:], claims)
	return err == nil && bytes.Contains(buf[:n], []byte(`"p":`)) && bytes.Contains(buf[:n], []byte(`"r":`)) && bytes.Contains(buf[:n], []byte(`"rp":`))
}
