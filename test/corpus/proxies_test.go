package corpus

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"prestop/test/servers"
)

// fleet is a server that listens on many ports, one for each shape.
type fleet struct {
	name string
	// start starts it with the ports of each protocol. A request's arrival is told by begun.
	start func(t testing.TB, ports map[protocol][]uint16) (begun func(v *visit, id string) bool)
	// tools are the shapes that other clients than Go's make with it.
	tools []shape
}

var fleets = []fleet{
	{"nginx", runNginx, toolShapes}, {"Envoy", runEnvoy, nil},
	{"Tomcat", runJava("tomcat"), slices.Concat(toolShapes, upgradeShapes)}, {"Netty", runJava("netty"), nil},
}

// runBackend serves the app behind a proxy.
func runBackend(t testing.TB) (port int, begun func(v *visit, id string) bool) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := new(desk)
	serveGo(t, d, web1, l)
	return l.Addr().(*net.TCPAddr).Port, func(v *visit, id string) bool {
		select {
		case <-d.begun(id):
			return true
		default:
			return false
		}
	}
}

// nginxSite is a server of nginx: its listen parameters, and the backend.
const nginxSite = `
  server {
    listen %d %s;
    location = /fast { proxy_pass http://app; }
    location / { proxy_pass http://app; }
  }`

func runNginx(t testing.TB, ports map[protocol][]uint16) func(v *visit, id string) bool {
	backend, begun := runBackend(t)
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx"
	}
	dir := t.TempDir()
	id := certificate(t)
	var config strings.Builder
	fmt.Fprintf(&config, `
daemon off; master_process off; pid %[1]s/pid; error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off; keepalive_timeout 600s; keepalive_requests 100000; client_body_timeout 600s; client_header_timeout 600s;
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  client_max_body_size 0; proxy_request_buffering off; proxy_buffering off; proxy_read_timeout 600s; proxy_send_timeout 600s; proxy_http_version 1.1;
  proxy_set_header Connection "";
  ssl_certificate %[2]s; ssl_certificate_key %[3]s;
  upstream app { server 127.0.0.1:%[4]d; keepalive 16; }`, dir, id.certAt, id.keyAt, backend)
	for p, parameters := range map[protocol]string{web1: "", web1TLS: "ssl", web2: "http2", web2TLS: "ssl http2"} {
		for _, port := range ports[p] {
			fmt.Fprintf(&config, nginxSite, port, parameters)
		}
	}
	config.WriteString("\n}\n")
	at := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(at, []byte(config.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, "-p", dir, "-c", at)
	run(t, cmd, cancel, ports, "nginx (Debian: apt-get install nginx-light)")
	return begun
}

// run starts a server, waits until it listens on all ports, and ends it with the test.
func run(t testing.TB, cmd *exec.Cmd, cancel func(), ports map[protocol][]uint16, name string) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	ended, err := servers.StartBound(cmd)
	if err != nil {
		cancel()
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		cancel()
		<-ended.Done()
		if t.Failed() {
			t.Logf("%s:\n%s", name, log.String())
		}
	})
	for _, all := range ports {
		for _, port := range all {
			for {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err == nil {
					c.Close()
					break
				}
				select {
				case <-ended.Done():
					t.Fatalf("%s has ended:\n%s", name, log.String())
				default:
				}
			}
		}
	}
}

const envoyListener = `
  - address: {socket_address: {address: 0.0.0.0, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress_http
          stream_idle_timeout: 0s
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app, timeout: 0s}}]}]}
          http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]`

const envoyTLS = `
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {alpn_protocols: [h2, http/1.1], tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]}`

func runEnvoy(t testing.TB, ports map[protocol][]uint16) func(v *visit, id string) bool {
	backend, begun := runBackend(t)
	id := certificate(t)
	var config strings.Builder
	config.WriteString("static_resources:\n  listeners:")
	for p, all := range ports {
		for _, port := range all {
			fmt.Fprintf(&config, envoyListener, port)
			if p.secure() {
				fmt.Fprintf(&config, envoyTLS, id.certAt, id.keyAt)
			}
		}
	}
	fmt.Fprintf(&config, `
  clusters:
  - name: app
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`, backend)
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := servers.EnvoyCommand(ctx, config.String())
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	run(t, cmd, cancel, ports, "Envoy")
	return begun
}

// runJava starts Tomcat or Netty.
func runJava(kind string) func(t testing.TB, ports map[protocol][]uint16) func(v *visit, id string) bool {
	return func(t testing.TB, ports map[protocol][]uint16) func(v *visit, id string) bool {
		var listeners []string
		for p, name := range map[protocol]string{web1: "-http1", web1TLS: "-http1-tls", web2: "-http2", web2TLS: "-http2-tls"} {
			for _, port := range ports[p] {
				listeners = append(listeners, fmt.Sprintf("%s%s:%d", kind, name, port))
			}
		}
		id := certificate(t)
		app := servers.RunJavaWeb(t, id.certAt, id.keyAt, listeners)
		return func(v *visit, id string) bool {
			answer, err := http.Get(app.Begun + id)
			if err != nil {
				v.Fatal(err)
			}
			answer.Body.Close()
			return answer.StatusCode == http.StatusOK
		}
	}
}
