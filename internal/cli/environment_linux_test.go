package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"prestop/registry/registrytest"
)

// TestTheSidecarStartsInTheAppsEnvironment starts the binary in environments as they are found, shared
// with the app by envFrom: it must listen, say what it could not use, and be limited by none of it.
func TestTheSidecarStartsInTheAppsEnvironment(t *testing.T) {
	for sentence, c := range map[string]struct {
		env  []string
		says []string          // in the log
		not  []string          // in the log
		has  map[string]string // settings in force; "" is none
	}{
		"an instance ID as in Spring's documentation": {
			env:  []string{"EUREKA_INSTANCE_INSTANCE_ID=${spring.cloud.client.ip-address}:${spring.application.name}:${server.port}"},
			says: []string{"EUREKA_INSTANCE_INSTANCE_ID=", "cannot be used", "spring.cloud.client.ip-address"},
			has:  map[string]string{"eureka-instance-id": ""},
		},
		"an instance ID with a random value": {
			env:  []string{"EUREKA_INSTANCE_INSTANCE_ID=${spring.application.name}:${random.value}", "SPRING_APPLICATION_NAME=orders"},
			says: []string{"${random.value}"},
			has:  map[string]string{"eureka-instance-id": "", "service": ""},
		},
		"no web port":   {env: []string{"SERVER_PORT=-1"}, says: []string{`SERVER_PORT=\"-1\"`}, has: map[string]string{"port": ""}},
		"any web port":  {env: []string{"SERVER_PORT=0"}, has: map[string]string{"port": ""}},
		"a random port": {env: []string{"SERVER_PORT=${random.int[10000,20000]}"}, says: []string{"random.int"}, has: map[string]string{"port": ""}},
		"a port by a placeholder": {
			env:  []string{"SERVER_PORT=${APP_PORT:${HTTP_PORT}}", "HTTP_PORT=8080"},
			says: []string{"restricts nothing", `"port":[8080]`}, has: map[string]string{"port": ""},
		},
		"a Nacos by a property of another one": {
			env: []string{"SPRING_CLOUD_NACOS_CONFIG_SERVER_ADDR=127.0.0.1:1", "SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR=${spring.cloud.nacos.config.server-addr}"},
			not: []string{"cannot be used"}, has: map[string]string{"nacos-url": "http://127.0.0.1:1/nacos"},
		},
		"a Nacos by a property whose hyphen is dropped": {
			env: []string{"SPRING_CLOUD_NACOS_CONFIG_SERVERADDR=127.0.0.1:1", "SPRING_CLOUD_NACOS_DISCOVERY_SERVERADDR=${spring.cloud.nacos.config.server-addr}"},
			has: map[string]string{"nacos-url": "http://127.0.0.1:1/nacos"},
		},
		"a Nacos that nobody knows, beside one that is known": {
			env:  []string{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR=${nowhere}", "SPRING_CLOUD_NACOS_SERVER_ADDR=127.0.0.1:1"},
			says: []string{"${nowhere}"}, has: map[string]string{"nacos-url": "http://127.0.0.1:1/nacos"},
		},
		"a Nacos behind a Service whose variables Kubernetes sets": {
			env: []string{"NACOS_PORT=tcp://10.96.0.3:8848", "NACOS_SERVICE_HOST=127.0.0.1", "SPRING_CLOUD_NACOS_SERVER_ADDR=${NACOS_SERVICE_HOST}:${NACOS_PORT:8848}"},
			has: map[string]string{"nacos-url": "http://127.0.0.1:8848/nacos"},
		},
		"a Nacos at the root path":           {env: []string{"PRESTOP_NACOS_URL=http://127.0.0.1:1/"}, has: map[string]string{"nacos-url": "http://127.0.0.1:1/"}},
		"a group that the app has":           {env: []string{"SPRING_CLOUD_NACOS_DISCOVERY_GROUP=SHOP"}, has: map[string]string{"nacos-group": ""}},
		"a Eureka that is switched off":      {env: []string{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=http://127.0.0.1:1/", "EUREKA_CLIENT_ENABLED=false"}, says: []string{"EUREKA_CLIENT_ENABLED"}, has: map[string]string{"eureka-url": ""}},
		"a Eureka that is only read":         {env: []string{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=http://127.0.0.1:1/", "EUREKA_CLIENT_REGISTER_WITH_EUREKA=false"}, has: map[string]string{"eureka-url": ""}},
		"a Nacos that is switched off":       {env: []string{"SPRING_CLOUD_NACOS_SERVER_ADDR=127.0.0.1:1", "SPRING_CLOUD_NACOS_DISCOVERY_ENABLED=FALSE"}, says: []string{"SPRING_CLOUD_NACOS_DISCOVERY_ENABLED"}, has: map[string]string{"nacos-url": ""}},
		"a Nacos that is only read":          {env: []string{"SPRING_CLOUD_NACOS_SERVER_ADDR=127.0.0.1:1", "SPRING_CLOUD_NACOS_DISCOVERY_REGISTERENABLED=false"}, has: map[string]string{"nacos-url": ""}},
		"every discovery switched off":       {env: []string{"SPRING_CLOUD_NACOS_SERVER_ADDR=127.0.0.1:1", "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=http://127.0.0.1:1/", "SPRING_CLOUD_DISCOVERY_ENABLED=false"}, has: map[string]string{"nacos-url": "", "eureka-url": ""}},
		"a Eureka off and a Nacos on":        {env: []string{"SPRING_CLOUD_NACOS_SERVER_ADDR=127.0.0.1:1", "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=http://127.0.0.1:1/", "EUREKA_CLIENT_ENABLED=false"}, has: map[string]string{"nacos-url": "http://127.0.0.1:1/nacos", "eureka-url": ""}},
		"a setting beside a switch":          {env: []string{"PRESTOP_NACOS_URL=127.0.0.1:1", "SPRING_CLOUD_NACOS_DISCOVERY_ENABLED=false"}, has: map[string]string{"nacos-url": "http://127.0.0.1:1/nacos"}},
		"a namespace that nobody knows":      {env: []string{"SPRING_CLOUD_NACOS_DISCOVERY_NAMESPACE=${NS}"}, says: []string{"${NS}", "--nacos-namespace"}, has: map[string]string{"nacos-namespace": "public"}},
		"a Service called prestop":           {env: []string{"PRESTOP_PORT=tcp://10.96.0.9:8090", "PRESTOP_SERVICE_HOST=10.96.0.9", "PRESTOP_SERVICE_PORT=8090", "PRESTOP_PORT_8090_TCP=tcp://10.96.0.9:8090", "PRESTOP_PORT_8090_TCP_ADDR=10.96.0.9", "PRESTOP_SERVICE_PORT_HOOK=8090"}, not: []string{"no setting", "cannot be used"}, has: map[string]string{"port": "", "service": ""}},
		"a variable that is mistyped":        {env: []string{"PRESTOP_GRACEPERIOD=60"}, says: []string{"PRESTOP_GRACEPERIOD is no setting", "PRESTOP_GRACE_PERIOD meant?"}, has: map[string]string{"grace-period": "30s"}},
		"variables of nothing":               {env: []string{"PRESTOP_GRACE_PERIOD=", "PRESTOP_LINGER= ", "PRESTOP_PORT=", "PRESTOP_COUNT=", "PRESTOP_READY_WHEN_REGISTERED=", "PRESTOP_MIN_OPEN_CONNECTIONS=", "PRESTOP_TOKEN_FILE="}, not: []string{"no setting"}, has: map[string]string{"grace-period": "30s", "count": "auto"}},
		"a grace period of a second":         {env: []string{"PRESTOP_GRACE_PERIOD=1"}, has: map[string]string{"reserve": "500ms"}},
		"a grace period of the reserve":      {env: []string{"PRESTOP_GRACE_PERIOD=5"}, has: map[string]string{"reserve": "2.5s"}},
		"an address of the Pod that is none": {env: []string{"POD_IP=$(POD_IP)", "HOST_IP=unknown"}, says: []string{"POD_IP", "HOST_IP"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			p := launch(t, nil, c.env, "--listen=127.0.0.1:0", "--termination-log=")
			p.must("/healthz", 200, "OK")
			p.says("on the hook a drain will leave the registries, let the callers' caches run out, and wait until no connection is in use")
			eventually(t, "the log has every warning", func() error {
				for _, want := range c.says {
					if !strings.Contains(p.logs.String(), want) {
						return fmt.Errorf("%q is not said", want)
					}
				}
				return nil
			})
			for _, text := range c.not {
				if strings.Contains(p.logs.String(), text) {
					t.Errorf("%q is said", text)
				}
			}
			has := p.settings()
			for flag, want := range c.has {
				if has[flag] != want {
					t.Errorf("--%s is %q; want %q", flag, has[flag], want)
				}
			}
		})
	}
}

// TestWhatTheAppSaysOfItselfRestrictsNothing is an app of Spring and Dubbo: its variables name one of its
// two ports, one of its services and another group.
func TestWhatTheAppSaysOfItselfRestrictsNothing(t *testing.T) {
	if !alone(t) {
		return
	}
	nacos := registrytest.NewNacos(registrytest.NacosConfig{})
	serve(t, "127.0.0.1:8848", nacos)
	world := &registrytest.NacosWorld{Servers: []string{"http://127.0.0.1:8848/nacos"}, Heartbeat: 200 * time.Millisecond, Major: 2}
	web, dubbo := newApp(t), newApp(t)
	of := map[string]*app{"orders": web, "providers:com.acme.OrderApi:1.0.0:": dubbo, "orders-dubbo": dubbo}
	for service, a := range of {
		world.Start(t, registrytest.App{Service: service, Address: netip.MustParseAddrPort("127.0.0.1:" + a.port)})
	}
	called := func() (all []string) {
		for service := range of {
			if len(world.Callers(t, service)[0]) > 0 {
				all = append(all, service)
			}
		}
		return all
	}
	p := launch(t, nil, []string{
		"POD_IP=127.0.0.1", "SERVER_PORT=" + web.port, "SPRING_APPLICATION_NAME=orders",
		"SPRING_CLOUD_NACOS_DISCOVERY_GROUP=SHOP", "SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR=127.0.0.1:8848",
	}, "--listen=127.0.0.1:0", "--exclude-port=8848", "--linger=0", "--grace-period=60", "--termination-log=")
	eventually(t, "every instance is found", func() error {
		for _, r := range p.status().Registries {
			if len(r.Instances) == len(of) {
				return nil
			}
		}
		return errors.New("not yet")
	})
	if got := called(); len(got) != len(of) {
		t.Fatalf("callers are sent to %q only", got)
	}
	answered := dubbo.call(t)
	hook := p.hook()
	eventually(t, "no caller is sent to any of them", func() error {
		if got := called(); len(got) > 0 {
			return fmt.Errorf("they are sent to %q", got)
		}
		return nil
	})
	p.inUse(1)
	p.must("/ok", 503, "")
	dubbo.release()
	if err := <-answered; err != nil {
		t.Errorf("the call was cut: %v", err)
	}
	p.is(hook, 200, "OK drained in ")
	if r := command(t, nil, "check", "--listen="+p.listen); !strings.Contains(r.out, "orders-dubbo") {
		t.Errorf("check does not tell of all: %+v", r)
	}
}

// TestTheCommandsWorkInAnyEnvironment runs the exec hook in the app's container.
func TestTheCommandsWorkInAnyEnvironment(t *testing.T) {
	t.Parallel()
	p := sidecarOf(t, newApp(t), nil)
	p.says("the app listens")
	odd := []string{
		"PRESTOP_GRACE_PERIOD=soon", "PRESTOP_COUNT=guess", "PRESTOP_PORT=http", "SERVER_PORT=-1", "PRESTOP_NACOS_PASSWORD=x", "PRESTOP_TOKEN_FILE=/none",
		"PRESTOP_REGISTRY_CA_FILE=/none", "HOST_IP=10.0.0.1", "POD_IP=10.0.0.1", "EUREKA_INSTANCE_INSTANCE_ID=${x}", "PRESTOP_SERVICE_HOST=1", "PRESTOP_LISTEN=" + p.listen,
	}
	for _, c := range []struct{ args, out string }{
		{"shutdown", "OK drained in "}, {"resume", "OK"}, {"shutdown --port=1 --grace-period=soon", "OK drained in "}, {"resume --linger=x", "OK"},
		{"status", "state "}, {"status --instance-ip=127.0.0.1", "state "},
	} {
		if r := command(t, odd, strings.Fields(c.args)...); r.code != exitOK || !strings.HasPrefix(r.out, c.out) {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	// What is of no use is said, and is no reason not to stop the Pod.
	r := command(t, odd, "shutdown", "--port=1")
	for _, want := range []string{"--port", "belongs to the sidecar", "/none"} {
		if !strings.Contains(r.errOut, want) {
			t.Errorf("%q is not told: %q", want, r.errOut)
		}
	}
}

func TestAllProblemsOfACommandLineAndItsEnvironmentComeTogether(t *testing.T) {
	r := command(t, []string{"PRESTOP_GRACE_PERIOD=soon", "PRESTOP_PORT=z", "PRESTOP_TOKEN=" + hush}, "--grace-perod=3", "--count=guess", "--lingr", "4", "--reserve=-1")
	for _, want := range []string{"--grace-perod", "is --grace-period meant?", "--lingr", "is --linger meant?", `PRESTOP_GRACE_PERIOD="soon"`, `PRESTOP_PORT="z"`, `--count="guess"`, `--reserve="-1"`} {
		if !strings.Contains(r.errOut, want) {
			t.Errorf("%q is not among the problems:\n%s", want, r.errOut)
		}
	}
	if r.code != exitUsage || strings.Contains(r.errOut, hush) || strings.Count(r.errOut, "\n") != 7 {
		t.Errorf("exit %d:\n%s", r.code, r.errOut)
	}
}

// A grace period of a few seconds is one of Kubernetes' own: hook and process keep it.
func TestAShortGracePeriodIsKept(t *testing.T) {
	for _, grace := range []string{"1", "2", "5"} {
		t.Run(grace, func(t *testing.T) {
			t.Parallel()
			a := newApp(t)
			p := launch(t, nil, nil, "--listen=127.0.0.1:0", "--instance-ip=127.0.0.1", "--port="+a.port, "--grace-period="+grace, "--termination-log=")
			p.says("the app listens")
			a.call(t)
			p.is(p.hook(), 504, "EXPIRED after ")
			allowed, err := time.ParseDuration(grace + "s")
			if err != nil {
				t.Fatal(err)
			}
			took, err := seconds(p.says("the drain is over")["took"])
			if err != nil || took > allowed {
				t.Errorf("the hook took %v of %v, %v", took, allowed, err)
			}
		})
	}
	r := command(t, nil, "--grace-period=5", "--reserve=5")
	if r.code != exitUsage || !strings.Contains(r.errOut, "leaves nothing of the grace period") {
		t.Errorf("%+v", r)
	}
}

// settings are those that the process says it has.
func (p *process) settings() map[string]string {
	p.t.Helper()
	var s sidecarStatus
	if err := json.Unmarshal([]byte(p.must("/status", 200, "{")), &s); err != nil {
		p.t.Fatal(err)
	}
	return s.Settings
}

// TestANacosAtTheRootPath runs a drain with a server that has no context path.
func TestANacosAtTheRootPath(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	h := holds(t, "nacos", a)
	to, err := url.Parse(h.world.URLs()[0])
	if err != nil {
		t.Fatal(err)
	}
	// In front of it, what makes the root of the context path.
	root := serveHere(t, (&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}).ServeHTTP)
	p := sidecarOf(t, a, nil, "--nacos-url="+root+"/")
	p.says("registered")
	p.is(p.hook(), 200, "OK drained in ")
	h.becomes(t, false)
	p.must("/resume", 200, "OK")
	h.becomes(t, true)
}
