package test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// TestSidecarLeavesTheOthersWhileOneRegistryHangs is a migration: the app is in two Eureka clusters and in a Nacos, and one
// of the clusters hangs when the hook comes.
func TestSidecarLeavesTheOthersWhileOneRegistryHangs(t *testing.T) {
	t.Parallel()
	one, hangs := servers.RunEureka(t, 1, servers.EurekaOptions{})[0], servers.RunEureka(t, 1, servers.EurekaOptions{})[0]
	n := runNacos(t, "2.3.2")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	app := registrytest.App{Service: "orders", Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))}
	id := registrytest.EurekaID(app)
	for _, w := range []registrytest.World{eurekaWorld([]*servers.Eureka{one}), eurekaWorld([]*servers.Eureka{hangs}), nacosWorld(n)} {
		w.Start(t, app)
	}
	s := runSidecar(t, port, []string{"PRESTOP_NACOS_URL=" + n.URL, "PRESTOP_NACOS_USERNAME=nacos", "PRESTOP_NACOS_PASSWORD=nacos"},
		"--eureka-url", one.URL+";"+hangs.URL, "--linger", "0", "--grace-period", "10m", "--registry-timeout", "5m")
	eventually(t, "the sidecar found the instance in all three", func() bool {
		registries := s.status(t).Registries
		for _, r := range registries {
			if len(r.Instances) != 1 {
				return false
			}
		}
		return len(registries) == 3
	})

	must(t, hangs.Signal(syscall.SIGSTOP))
	defer hangs.Signal(syscall.SIGCONT) // or it could not be told to end
	answer := make(chan string, 1)
	go func() {
		code, body := get(s.url + "/shutdown")
		answer <- fmt.Sprint(code, " ", body)
	}()
	says(t, one.URL, app.Service, id, "OUT_OF_SERVICE(OUT_OF_SERVICE)")
	eventually(t, "Nacos' callers do not read it", func() bool {
		_, list := get(n.URL + "/v1/ns/instance/list?serviceName=" + app.Service)
		return strings.Contains(list, `"hosts"`) && !strings.Contains(list, fmt.Sprintf(`"port":%d`, port))
	})
	select {
	case a := <-answer:
		t.Fatalf("the hook was answered while a registry that might answer still hangs: %s", a)
	default:
	}
	must(t, hangs.Signal(syscall.SIGCONT))
	if a := <-answer; !strings.HasPrefix(a, "200 OK drained") {
		t.Error(a)
	}
	comesTrue(t, "out of the one that hung", func() error {
		r, err := readEureka(t.Context(), hangs.URL, app.Service, id)
		if err == nil && r.Status != "OUT_OF_SERVICE" {
			err = errors.New(r.String())
		}
		return err
	})
}
