package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"prestop/registry/registrytest"
)

// TestAnAppThatHoldsItselfBackIsLeftSo is an app that registers itself out of service in both kinds of
// registries, as its variables say. The sidecar writes nothing of it, neither before nor in a drain.
func TestAnAppThatHoldsItselfBackIsLeftSo(t *testing.T) {
	t.Parallel()
	web := newApp(t)
	address := netip.MustParseAddrPort("127.0.0.1:" + web.port)

	eureka := registrytest.NewEureka(registrytest.EurekaConfig{Cache: 100 * time.Millisecond})
	nacos := registrytest.NewNacos(registrytest.NacosConfig{})
	eurekaAt, nacosAt := serveHere(t, eureka.ServeHTTP), serveHere(t, nacos.ServeHTTP)
	world := &registrytest.EurekaWorld{Servers: []string{eurekaAt + "/eureka/"}, Heartbeat: 200 * time.Millisecond}
	world.StartOut(t, registrytest.App{Service: "orders", Address: address})
	nacos.Register(registrytest.NacosInstance{
		Service: "orders", IP: "127.0.0.1", Port: int(address.Port()), Weight: 1, Disabled: true,
	})

	p := sidecarOf(t, web, []string{
		"EUREKA_INSTANCE_INITIAL_STATUS=OUT_OF_SERVICE", "SPRING_CLOUD_NACOS_DISCOVERY_INSTANCE_ENABLED=false",
	}, "--eureka-url="+eurekaAt+"/eureka/", "--nacos-url="+nacosAt+"/nacos", "--linger=0", "--grace-period=60")
	eventually(t, "both instances are found", func() error {
		found := 0
		for _, r := range p.status().Registries {
			found += len(r.Instances)
		}
		if found != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	p.is(p.hook(), http.StatusOK, "OK")
	p.must("/resume", http.StatusOK, "")
	p.reaches("serving")

	var written []string
	for request, n := range eureka.Requests() {
		if strings.HasPrefix(request, "DELETE ") || strings.HasSuffix(request, "/status") {
			written = append(written, fmt.Sprint(n, " ", request))
		}
	}
	for request, n := range nacos.Requests() {
		if !strings.HasPrefix(request, "GET ") {
			written = append(written, fmt.Sprint(n, " ", request))
		}
	}
	if len(written) > 0 {
		t.Errorf("the app's own word was changed: %q", written)
	}
}
