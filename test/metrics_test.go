package test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"prestop/test/servers"
)

// TestSidecarCountsTheRequestsThatASpringAppTells: HTTP/2 with a request or two in a connection's life is what the kernel does
// not tell idle; what Tomcat and Spring tell of themselves is exact. The settings are those of docs/operations.md.
func TestSidecarCountsTheRequestsThatASpringAppTells(t *testing.T) {
	t.Parallel()
	port, management := freePort(t), freePort(t)
	servers.RunEurekaApp(t, "orders", "orders", port, nil, "--eureka.client.enabled=false", "--server.http2.enabled=true",
		fmt.Sprintf("--management.server.port=%d", management), "--management.endpoints.web.exposure.include=prometheus", "--server.tomcat.mbeanregistry.enabled=true")
	app := fmt.Sprintf("http://127.0.0.1:%d", port)
	for _, metric := range []string{"tomcat_threads_busy_threads", "http_server_requests_active_seconds_count"} {
		t.Run(metric, func(t *testing.T) {
			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetUnencryptedHTTP2(true)
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			call := func(path string) error {
				resp, err := client.Get(app + path)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				return err
			}
			s := runSidecar(t, port, nil, "--linger", "0", "--request-timeout", "1h", "--grace-period", "5m",
				"--count", "prometheus", "--metrics-url", fmt.Sprintf("http://127.0.0.1:%d/actuator/prometheus", management), "--metric", metric)
			if err := call("/"); err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			go func() { answered <- call("/hold") }()
			eventually(t, "the request is counted", func() bool { return s.status(t).Connections.Active == 1 })
			hook := make(chan string, 1)
			go func() { _, body := get(s.url + "/shutdown"); hook <- body }()
			eventually(t, "it drains", func() bool { return s.status(t).State == "draining" })
			select {
			case body := <-hook:
				t.Errorf("the hook was answered while a request was in flight: %s", body)
			case <-time.After(time.Second):
			}
			if err := call("/release"); err != nil {
				t.Error(err)
			}
			if err := <-answered; err != nil {
				t.Error(err)
			}
			if body := <-hook; !strings.HasPrefix(body, "OK drained") || !strings.Contains(body, "0 connections in use") {
				t.Errorf("the hook: %s", body)
			}
		})
	}
}
