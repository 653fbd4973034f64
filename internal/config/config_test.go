package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// environ is short for the cases.
type environ = Environment

// valid loads a configuration that must be right.
func valid(t *testing.T, env environ, args ...string) Config {
	t.Helper()
	c, err := Load("", args, env)
	if err != nil {
		t.Fatalf("args %q, environment %v: %v", args, env, err)
	}
	return c
}

// refused loads a configuration that must be wrong, and returns what is said of it.
func refused(t *testing.T, env environ, args ...string) string {
	t.Helper()
	_, err := Load("", args, env)
	if err == nil {
		t.Fatalf("args %q, environment %v: not refused", args, env)
	}
	return err.Error()
}

// example is a setting as a user gives it, and what becomes of it.
type example struct {
	given string
	read  func(Config) any
	want  string // as fmt prints it
}

// examples has one of each setting.
func examples(t *testing.T) map[string]example {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, cert, key := certificates(t, dir)
	tls := func(c Config) any { return c.RegistryTLS != nil }
	clientTLS := func(c Config) any { return len(c.RegistryTLS.Certificates) }
	return map[string]example{
		"listen":                {"127.0.0.1:9", func(c Config) any { return c.Listen }, "127.0.0.1:9"},
		"eureka-url":            {"http://e1:8761/eureka,http://e2/eureka/", func(c Config) any { return c.clusters("eureka") }, "[[http://e1:8761/eureka http://e2/eureka/]]"},
		"eureka-instance-id":    {"orders-0:8080", func(c Config) any { return c.EurekaInstanceID }, "orders-0:8080"},
		"nacos-url":             {"n1:8848", func(c Config) any { return c.clusters("nacos") }, "[[http://n1:8848/nacos]]"},
		"nacos-namespace":       {"blue", func(c Config) any { return c.NacosNamespace }, "blue"},
		"nacos-group":           {"SHOP", func(c Config) any { return c.NacosGroup }, "SHOP"},
		"nacos-username":        {"nacos", func(c Config) any { return c.NacosUsername }, "nacos"},
		"nacos-password":        {"xyz", func(c Config) any { return c.NacosPassword.value }, "xyz"},
		"nacos-password-file":   {file("password", "xyz\n"), func(c Config) any { s, err := c.NacosPassword.Get(); return fmt.Sprint(s, err) }, "xyz<nil>"},
		"registry-ca-file":      {ca, tls, "true"},
		"registry-cert-file":    {cert, clientTLS, "1"},
		"registry-key-file":     {key, clientTLS, "1"},
		"registry-timeout":      {"7s", func(c Config) any { return c.RegistryTimeout }, "7s"},
		"service":               {"orders, carts", func(c Config) any { return c.Services }, "[orders carts]"},
		"instance-ip":           {"10.0.0.1,[fd00::1%eth0],orders-0.orders", func(c Config) any { return fmt.Sprint(c.Addresses[:2], c.Names[:1]) }, "[10.0.0.1 fd00::1] [orders-0.orders]"},
		"port":                  {"8080,9090", func(c Config) any { return c.Ports }, "[8080 9090]"},
		"exclude-port":          {"15090", func(c Config) any { return c.ExcludePorts }, "[15090]"},
		"exclude-peer":          {"10.0.0.7,10.1.2.3/16,::ffff:10.0.0.8", func(c Config) any { return c.ExcludePeers }, "[10.0.0.7/32 10.1.0.0/16 10.0.0.8/32]"},
		"grace-period":          {"1m30s", func(c Config) any { return c.GracePeriod }, "1m30s"},
		"reserve":               {"2s", func(c Config) any { return c.Reserve }, "2s"},
		"linger":                {"4s", func(c Config) any { return c.Linger }, "4s"},
		"quiet-period":          {"8s", func(c Config) any { return c.QuietPeriod }, "8s"},
		"min-open-connections":  {"3", func(c Config) any { return c.MinOpen }, "3"},
		"idle-after":            {"9s", func(c Config) any { return c.IdleAfter }, "9s"},
		"request-timeout":       {"2m", func(c Config) any { return c.RequestTimeout }, "2m0s"},
		"count":                 {"proc", func(c Config) any { return c.Count }, "proc"},
		"metrics-url":           {"unix:///a.sock:/stats", func(c Config) any { return c.Metrics.URL }, "unix:///a.sock:/stats"},
		"metric":                {"a,b:c", func(c Config) any { return c.Metrics.Names }, "[a b:c]"},
		"metric-exclude":        {"a=b{1,2},c=d", func(c Config) any { return c.Metrics.Exclude }, "[a=b{1,2} c=d]"},
		"drain-call":            {"post http://a/b?c=1,2,PUT unix:///a.sock:/d\nGET http+unix://%2Fe/f", func(c Config) any { return c.DrainCalls }, "[POST http://a/b PUT unix:///a.sock:/d GET unix:///e:/f]"},
		"ready-when-registered": {"true", func(c Config) any { return c.ReadyRegistered }, "true"},
		"unready-when-draining": {"true", func(c Config) any { return c.UnreadyDraining }, "true"},
		"ready-file":            {"/tmp/ok", func(c Config) any { return c.ReadyFile }, "/tmp/ok"},
		"token":                 {"abc", func(c Config) any { return c.Token.value }, "abc"},
		"token-file":            {file("token", " abc\n"), func(c Config) any { s, err := c.Token.Get(); return fmt.Sprint(s, err) }, "abc<nil>"},
		"termination-log":       {"/tmp/log", func(c Config) any { return c.TerminationLog }, "/tmp/log"},
		"log-format":            {"text", func(c Config) any { return c.LogFormat }, "text"},
		"log-level":             {"warn", func(c Config) any { return c.LogLevel }, "WARN"},
	}
}

// beside are the settings without which one alone is refused.
func beside(flag string, all map[string]example) environ {
	switch flag {
	case "nacos-password", "nacos-password-file":
		return environ{"PRESTOP_NACOS_USERNAME": "nacos"}
	case "registry-cert-file":
		return environ{"PRESTOP_REGISTRY_KEY_FILE": all["registry-key-file"].given}
	case "registry-key-file":
		return environ{"PRESTOP_REGISTRY_CERT_FILE": all["registry-cert-file"].given}
	case "metrics-url":
		return environ{"PRESTOP_COUNT": "prometheus", "PRESTOP_METRIC": "a"}
	case "metric":
		return environ{"PRESTOP_COUNT": "prometheus", "PRESTOP_METRICS_URL": "http://a/"}
	case "metric-exclude":
		return environ{"PRESTOP_COUNT": "prometheus", "PRESTOP_METRIC": "a", "PRESTOP_METRICS_URL": "http://a/"}
	}
	return environ{}
}

func variable(flag string) string { return Lookup(flag).Variable() }

func readBySidecar(s Setting) bool { return s.ReadBy("") }

func TestEverySettingIsReadFromItsFlagAndFromItsVariable(t *testing.T) {
	all := examples(t)
	names := map[string]bool{}
	Flags(readBySidecar).VisitAll(func(f *pflag.Flag) {
		names[f.Name] = true
		e, ok := all[f.Name]
		if !ok {
			t.Errorf("--%s has no example here: is it read at all?", f.Name)
			return
		}
		t.Run(f.Name, func(t *testing.T) {
			env := beside(f.Name, all)
			if got := fmt.Sprint(e.read(valid(t, env, "--"+f.Name+"="+e.given))); got != e.want {
				t.Errorf("--%s=%s is read as %s; want %s", f.Name, e.given, got, e.want)
			}
			env[variable(f.Name)] = e.given
			if got := fmt.Sprint(e.read(valid(t, env))); got != e.want {
				t.Errorf("%s=%s is read as %s; want %s", variable(f.Name), e.given, got, e.want)
			}
		})
	})
	for name := range all {
		if !names[name] {
			t.Errorf("--%s is no flag", name)
		}
	}
}

func TestDefaultsAreThoseOfTheContract(t *testing.T) {
	c := valid(t, nil)
	for name, is := range map[string]struct{ got, want any }{
		"listen":           {c.Listen, ":8090"},
		"nacos namespace":  {c.NacosNamespace, "public"},
		"nacos group":      {c.NacosGroup, ""},
		"registry timeout": {c.RegistryTimeout, 10 * time.Second},
		"grace period":     {c.GracePeriod, 30 * time.Second},
		"reserve":          {c.Reserve, 5 * time.Second},
		"linger":           {c.Linger, time.Duration(-1)},
		"quiet period":     {c.QuietPeriod, time.Duration(0)},
		"min open":         {c.MinOpen, 0},
		"idle after":       {c.IdleAfter, 5 * time.Second},
		"request timeout":  {c.RequestTimeout, time.Minute},
		"count":            {c.Count, "auto"},
		"ready registered": {c.ReadyRegistered, false},
		"unready draining": {c.UnreadyDraining, false},
		"ready file":       {c.ReadyFile, ""},
		"termination log":  {c.TerminationLog, "/dev/termination-log"},
		"log format":       {c.LogFormat, "json"},
		"log level":        {c.LogLevel.String(), "INFO"},
		"eureka":           {len(c.clusters("eureka")), 0},
		"nacos":            {len(c.clusters("nacos")), 0},
		"services":         {len(c.Services), 0},
		"ports":            {len(c.Ports), 0},
		"token":            {c.Token.Set(), false},
		"tls":              {c.RegistryTLS == nil, true},
		"host names":       {len(c.Names) > 0, true},
	} {
		if is.got != is.want {
			t.Errorf("%s is %v by default; want %v", name, is.got, is.want)
		}
	}
}

// TestSpringsVariablesAreReadInTheirOrder has the contract's table of variables again, so that none
// can be dropped.
func TestSpringsVariablesAreReadInTheirOrder(t *testing.T) {
	all := examples(t)
	for flag, names := range map[string][]string{
		"eureka-url":         {"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "EUREKA_CLIENT_SERVICE_URL_DEFAULTZONE"},
		"eureka-instance-id": {"EUREKA_INSTANCE_INSTANCE_ID", "EUREKA_INSTANCE_INSTANCEID"},
		"nacos-url":          {"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR", "SPRING_CLOUD_NACOS_SERVER_ADDR"},
		"nacos-namespace":    {"SPRING_CLOUD_NACOS_DISCOVERY_NAMESPACE"},
		"nacos-group":        {"SPRING_CLOUD_NACOS_DISCOVERY_GROUP"},
		"nacos-username":     {"SPRING_CLOUD_NACOS_DISCOVERY_USERNAME", "SPRING_CLOUD_NACOS_USERNAME"},
		"nacos-password":     {"SPRING_CLOUD_NACOS_DISCOVERY_PASSWORD", "SPRING_CLOUD_NACOS_PASSWORD"},
		"service":            {"SPRING_APPLICATION_NAME"},
		"instance-ip":        {"POD_IP", "POD_IPS"},
		"port":               {"SERVER_PORT"},
	} {
		t.Run(flag, func(t *testing.T) {
			if !slices.Equal(Lookup(flag).Variables, names) {
				t.Fatalf("--%s is also read from %q; want %q", flag, Lookup(flag).Variables, names)
			}
			if flag == "instance-ip" {
				return // see TestThePodIsKnownByAllItsAddressesAndNames
			}
			e := all[flag]
			read := e.read
			if hint := hintOf[flag]; hint != nil {
				read = hint
			}
			env := beside(flag, all)
			env[names[len(names)-1]] = e.given
			for i := len(names) - 2; i >= 0; i-- {
				env[names[i]] = " " // nothing but a blank is not set
			}
			if got := fmt.Sprint(read(valid(t, env))); got != e.want {
				t.Errorf("%s=%s is read as %s; want %s", names[len(names)-1], e.given, got, e.want)
			}
			// Each earlier one beats those behind it.
			other := map[string]string{"eureka-url": "http://other/eureka", "nacos-url": "other:1", "port": "9"}[flag]
			if other == "" {
				other = "other"
			}
			for _, name := range names {
				env[name] = other
			}
			for i := len(names) - 2; i >= 0; i-- {
				env[names[i+1]], env[names[i]] = other, e.given
				if got := fmt.Sprint(read(valid(t, env))); got != e.want {
					t.Errorf("%s does not beat %s: %s", names[i], names[i+1], got)
				}
			}
			// PRESTOP_… beats them all, and the flag beats that.
			env[names[0]], env[variable(flag)] = other, e.given
			if got := fmt.Sprint(e.read(valid(t, env))); got != e.want {
				t.Errorf("%s does not beat %s: %s", variable(flag), names[0], got)
			}
			env[variable(flag)] = other
			if got := fmt.Sprint(e.read(valid(t, env, "--"+flag, e.given))); got != e.want {
				t.Errorf("--%s does not beat %s: %s", flag, variable(flag), got)
			}
		})
	}
}

// hintOf is where the app's own word is that restricts nothing.
var hintOf = map[string]func(Config) any{
	"service":            func(c Config) any { return c.Hints.Services },
	"port":               func(c Config) any { return c.Hints.Ports },
	"nacos-group":        func(c Config) any { return c.Hints.Group },
	"eureka-instance-id": func(c Config) any { return c.Hints.InstanceID },
}

func TestSettingsAreReadLike(t *testing.T) {
	lingers := func(c Config) any { return c.Linger }
	nacos := func(c Config) any { return c.clusters("nacos") }
	ports := func(c Config) any { return c.Ports }
	hinted := func(c Config) any { return c.Hints.Ports }
	services := func(c Config) any { return c.Hints.Services }
	heldBack := func(c Config) any { return c.Hints.HeldBack }
	eureka := func(c Config) any { return c.clusters("eureka") }
	for sentence, c := range map[string]struct {
		env  environ
		args []string
		read func(Config) any
		want string
	}{
		"an app that Eureka is told is out of service":               {environ{"EUREKA_INSTANCE_INITIALSTATUS": "OUT_OF_SERVICE"}, nil, heldBack, "[eureka]"},
		"an app that registers disabled on Nacos":                    {environ{"SPRING_CLOUD_NACOS_DISCOVERY_INSTANCE_ENABLED": "${IN:False}"}, nil, heldBack, "[nacos]"},
		"an app that registers as it should":                         {environ{"EUREKA_INSTANCE_INITIAL_STATUS": "UP", "SPRING_CLOUD_NACOS_DISCOVERY_INSTANCE_ENABLED": "true"}, nil, heldBack, "[]"},
		"an empty variable is not set":                               {environ{"PRESTOP_GRACE_PERIOD": ""}, nil, func(c Config) any { return c.GracePeriod }, "30s"},
		"an empty flag beats a variable":                             {environ{"PRESTOP_SERVICE": "orders"}, []string{"--service="}, func(c Config) any { return c.Services }, "[]"},
		"a bare number is seconds":                                   {environ{"PRESTOP_GRACE_PERIOD": "90"}, nil, func(c Config) any { return c.GracePeriod }, "1m30s"},
		"a bare number is seconds in a flag":                         {nil, []string{"--linger", "12"}, lingers, "12s"},
		"a linger of 0 is none, not the registry's":                  {nil, []string{"--linger", "0"}, lingers, "0s"},
		"milliseconds are a time":                                    {nil, []string{"--linger", "250ms"}, lingers, "250ms"},
		"a Service named prestop sets no port":                       {environ{"PRESTOP_PORT": "tcp://10.96.0.1:8090"}, nil, ports, "[]"},
		"a Service's variable leaves the way for the app's":          {environ{"PRESTOP_PORT": "tcp://10.96.0.1:8090", "SERVER_PORT": "8080"}, nil, hinted, "[8080]"},
		"the app's port is no --port":                                {environ{"SERVER_PORT": "8080"}, nil, ports, "[]"},
		"the app's name is no --service":                             {environ{"SPRING_APPLICATION_NAME": "orders"}, nil, func(c Config) any { return len(c.Services) }, "0"},
		"the app's group is no --nacos-group":                        {environ{"SPRING_CLOUD_NACOS_DISCOVERY_GROUP": "SHOP"}, nil, func(c Config) any { return c.NacosGroup }, ""},
		"the app's ID is no --eureka-instance-id":                    {environ{"EUREKA_INSTANCE_INSTANCE_ID": "a"}, nil, func(c Config) any { return c.EurekaInstanceID }, ""},
		"a Service named server sets no port":                        {environ{"SERVER_PORT": "udp://10.96.0.1:53"}, nil, hinted, "[]"},
		"Spring's random port is found":                              {environ{"SERVER_PORT": "0"}, nil, hinted, "[]"},
		"a Nacos host gets port and path":                            {nil, []string{"--nacos-url", "nacos"}, nacos, "[[http://nacos:8848/nacos]]"},
		"a Nacos host with port gets the path":                       {nil, []string{"--nacos-url", "nacos:80"}, nacos, "[[http://nacos:80/nacos]]"},
		"a Nacos URL gets port and path":                             {nil, []string{"--nacos-url", "http://nacos"}, nacos, "[[http://nacos:8848/nacos]]"},
		"a Nacos URL with a slash is at the root":                    {nil, []string{"--nacos-url", "http://nacos/,https://n2/"}, nacos, "[[http://nacos:8848/ https://n2/]]"},
		"a Nacos host with a slash gets the path":                    {nil, []string{"--nacos-url", "nacos:1/"}, nacos, "[[http://nacos:1/nacos]]"},
		"the app's own Nacos with a slash gets the path":             {environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "http://nacos:1/"}, nil, nacos, "[[http://nacos:1/nacos]]"},
		"a Nacos context path stays":                                 {nil, []string{"--nacos-url", "http://nacos:8848/registry"}, nacos, "[[http://nacos:8848/registry]]"},
		"a Nacos by https has https' port":                           {nil, []string{"--nacos-url", "https://nacos"}, nacos, "[[https://nacos/nacos]]"},
		"a Nacos by IPv6 keeps its brackets":                         {nil, []string{"--nacos-url", "[fd00::1]"}, nacos, "[[http://[fd00::1]:8848/nacos]]"},
		"several Nacos servers in a list with a gap":                 {nil, []string{"--nacos-url", "n1, n2:1,,"}, nacos, "[[http://n1:8848/nacos http://n2:1/nacos]]"},
		"several clusters of Nacos":                                  {nil, []string{"--nacos-url", "n1,n2; n3;;"}, nacos, "[[http://n1:8848/nacos http://n2:8848/nacos] [http://n3:8848/nacos]]"},
		"several clusters of Eureka":                                 {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://a/eureka,http://b/eureka;http://c/eureka"}, nil, func(c Config) any { return c.clusters("eureka") }, "[[http://a/eureka http://b/eureka] [http://c/eureka]]"},
		"a server that is named twice in its cluster":                {nil, []string{"--nacos-url", "n1,n1"}, nacos, "[[http://n1:8848/nacos http://n1:8848/nacos]]"},
		"a placeholder is looked up":                                 {environ{"SPRING_APPLICATION_NAME": "${APP}-v2", "APP": "orders"}, nil, services, "[orders-v2]"},
		"a placeholder is looked up as Spring's relaxed names":       {environ{"SPRING_APPLICATION_NAME": "${my.app-name}", "MY_APPNAME": "orders"}, nil, services, "[orders]"},
		"a placeholder has a default":                                {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "${NACOS:nacos}:${PORT:8848}"}, nil, nacos, "[[http://nacos:8848/nacos]]"},
		"a placeholder's variable beats its default":                 {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "${NACOS:nacos}:1", "NACOS": "other"}, nil, nacos, "[[http://other:1/nacos]]"},
		"a default may be another placeholder":                       {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "${A:${B:nacos}}:1"}, nil, nacos, "[[http://nacos:1/nacos]]"},
		"a placeholder's variable may hold another":                  {environ{"SPRING_APPLICATION_NAME": "${A}", "A": "${B}", "B": "orders"}, nil, services, "[orders]"},
		"what is not closed is no placeholder":                       {environ{"SPRING_APPLICATION_NAME": "or${ders"}, nil, services, "[or${ders]"},
		"our own variables have no placeholders":                     {environ{"PRESTOP_SERVICE": "${A}"}, nil, func(c Config) any { return c.Services }, "[${A}]"},
		"a v4 address in v6 is the v4 one":                           {environ{"POD_IP": "::ffff:10.0.0.1"}, nil, func(c Config) any { return c.Addresses[0] }, "10.0.0.1"},
		"hostNetwork with the app's port":                            {environ{"POD_IP": "10.0.0.1", "HOST_IP": "10.0.0.1", "SERVER_PORT": "8080"}, nil, ports, "[8080]"},
		"a node that is not the Pod's address":                       {environ{"POD_IP": "10.0.0.1", "HOST_IP": "10.0.0.2"}, nil, ports, "[]"},
		"a switch alone is on":                                       {nil, []string{"--ready-when-registered"}, func(c Config) any { return c.ReadyRegistered }, "true"},
		"a switch that is on by its variable is switched off":        {environ{"PRESTOP_READY_WHEN_REGISTERED": "true"}, []string{"--ready-when-registered=false"}, func(c Config) any { return c.ReadyRegistered }, "false"},
		"a choice has no case":                                       {nil, []string{"--log-level", "WARN"}, func(c Config) any { return c.LogLevel }, "WARN"},
		"the sidecar's password file beats the app's own variable":   {environ{"SPRING_CLOUD_NACOS_PASSWORD": "app", "SPRING_CLOUD_NACOS_USERNAME": "nacos", "PRESTOP_NACOS_PASSWORD_FILE": "config.go"}, nil, func(c Config) any { return c.NacosPassword.value + c.NacosPassword.file }, "config.go"},
		"a quiet period may be off":                                  {nil, []string{"--quiet-period", "off"}, func(c Config) any { return c.QuietPeriod }, "0s"},
		"a quiet period as long as the linger is said":               {nil, []string{"--linger=8s", "--quiet-period", "8s"}, func(c Config) any { return strings.Contains(fmt.Sprint(c.Notes), "not shorter than the linger of 8s") }, "true"},
		"a shorter one is in order":                                  {nil, []string{"--linger=9s", "--quiet-period", "8s"}, func(c Config) any { return len(c.Notes) }, "0"},
		"a linger that does not fit is said and no reason to refuse": {nil, []string{"--linger", "40s"}, func(c Config) any { return strings.Contains(fmt.Sprint(c.Notes), "every drain will expire") }, "true"},
		"no idle time and no request timeout are allowed":            {nil, []string{"--idle-after=0", "--request-timeout=0"}, func(c Config) any { return c.IdleAfter + c.RequestTimeout }, "0s"},
		"a grace period of a second":                                 {nil, []string{"--grace-period=1"}, func(c Config) any { return c.Reserve }, "500ms"},
		"a grace period as long as the default reserve":              {nil, []string{"--grace-period=5"}, func(c Config) any { return c.Reserve }, "2.5s"},
		"a grace period of twice the reserve":                        {nil, []string{"--grace-period=10"}, func(c Config) any { return c.Reserve }, "5s"},
		"a reserve that is given does not shrink":                    {nil, []string{"--grace-period=5", "--reserve=4"}, func(c Config) any { return c.Reserve }, "4s"},
		"a property in another variable":                             {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "${spring.cloud.nacos.config.server-addr}", "SPRING_CLOUD_NACOS_CONFIG_SERVER_ADDR": "n:8848"}, nil, nacos, "[[http://n:8848/nacos]]"},
		"a property in another variable without hyphens":             {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "${spring.cloud.nacos.config.server-addr}", "SPRING_CLOUD_NACOS_CONFIG_SERVERADDR": "n:8848"}, nil, nacos, "[[http://n:8848/nacos]]"},
		"a hint without hyphens":                                     {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVERADDR": "n:8848"}, nil, nacos, "[[http://n:8848/nacos]]"},
		"a hint spelled as its property":                             {environ{"spring.cloud.nacos.discovery.server-addr": "n:8848"}, nil, nacos, "[[http://n:8848/nacos]]"},
		"a hint in small letters":                                    {environ{"eureka_client_serviceurl_defaultzone": "http://e/eureka"}, nil, eureka, "[[http://e/eureka]]"},
		"a name of a placeholder may be one":                         {environ{"SPRING_APPLICATION_NAME": "${${WHICH}.name:none}", "WHICH": "shop", "SHOP_NAME": "orders"}, nil, services, "[orders]"},
		"one server of the app that cannot be read":                  {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e1/eureka,${E2},e3:8761"}, nil, eureka, "[[http://e1/eureka]]"},
		"a Eureka that the app has switched off":                     {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e/eureka", "EUREKA_CLIENT_ENABLED": "false"}, nil, eureka, "[]"},
		"an app that does not register with Eureka":                  {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e/eureka", "EUREKA_CLIENT_REGISTERWITHEUREKA": "False"}, nil, eureka, "[]"},
		"a Eureka that is said to be on":                             {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e/eureka", "EUREKA_CLIENT_ENABLED": "true"}, nil, eureka, "[[http://e/eureka]]"},
		"a setting beats a switch":                                   {environ{"EUREKA_CLIENT_ENABLED": "false"}, []string{"--eureka-url=http://e/eureka"}, eureka, "[[http://e/eureka]]"},
		"a Nacos that the app has switched off":                      {environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "n", "SPRING_CLOUD_NACOS_DISCOVERY_ENABLED": "false"}, nil, nacos, "[]"},
		"an app that does not register with Nacos":                   {environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "n", "SPRING_CLOUD_NACOS_DISCOVERY_REGISTERENABLED": "false"}, nil, nacos, "[]"},
		"an app without any discovery":                               {environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "n", "SPRING_CLOUD_DISCOVERY_ENABLED": "${D:false}"}, nil, nacos, "[]"},
		"an app without automatic registration":                      {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://e/eureka", "SPRING_CLOUD_SERVICE_REGISTRY_AUTO_REGISTRATION_ENABLED": "false"}, nil, eureka, "[]"},
		"the token of a flag beats the file of a variable":           {environ{"PRESTOP_TOKEN_FILE": "/none"}, []string{"--token=x"}, func(c Config) any { return c.Token.value + c.Token.file }, "x"},
		"the file of a flag beats the token of a variable":           {environ{"PRESTOP_TOKEN": "x"}, []string{"--token-file=config.go"}, func(c Config) any { return c.Token.value + c.Token.file }, "config.go"},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := fmt.Sprint(c.read(valid(t, c.env, c.args...))); got != c.want {
				t.Errorf("got %s; want %s", got, c.want)
			}
		})
	}
}

// statefulPod is a dual-stack Pod of a StatefulSet with a second network.
func statefulPod() podSources {
	files := map[string]string{
		"/etc/hostname": "orders-0\n",
		"/etc/hosts": "\uFEFF# Kubernetes-managed hosts file.\r\n127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\nnonsense\n10.0.0.1\n" +
			"10.0.0.1  orders-0.orders.shop.svc.cluster.local\torders-0 # the Pod\nfd00::1 six.example.com\n10.9.9.9 stranger\n" +
			"10.0.0.1 localhost bad_-name- ü \xff\xfe alias\n" + strings.Repeat("x", 100_000) + "\n10.1.0.1 net1\n",
		"/etc/resolv.conf": "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
	}
	return podSources{
		interfaces: func() ([]net.Addr, error) {
			var all []net.Addr
			for _, s := range []string{"127.0.0.1/8", "::1/128", "10.0.0.1/24", "fd00::1/64", "fe80::1/64", "10.1.0.1/16"} {
				ip, n, err := net.ParseCIDR(s)
				if err != nil {
					return nil, err
				}
				all = append(all, &net.IPNet{IP: ip, Mask: n.Mask})
			}
			return all, nil
		},
		hostname: func() (string, error) { return "orders-0", nil },
		read: func(file string) ([]byte, error) {
			if text, there := files[file]; there {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		},
	}
}

func TestThePodIsKnownByAllItsAddressesAndNames(t *testing.T) {
	for sentence, c := range map[string]struct {
		env       environ
		args      []string
		addresses string
		names     []string // among them
		not       []string
	}{
		"nothing given": {nil, nil, "[10.0.0.1 fd00::1 10.1.0.1]", []string{
			"orders-0", "orders-0.orders", "orders-0.orders.shop", "orders-0.orders.shop.svc", "orders-0.orders.shop.svc.cluster.local",
			"orders-0.shop.svc.cluster.local", "orders-0.cluster.local", "six.example.com", "six", "alias", "net1",
		}, []string{"localhost", "stranger", "ip6-localhost", "", "nonsense"}},
		"its own address given":         {environ{"POD_IP": "10.0.0.1"}, nil, "[10.0.0.1 fd00::1 10.1.0.1]", []string{"six"}, nil},
		"all of its addresses given":    {environ{"POD_IP": "fd00::1", "POD_IPS": "fd00::1,10.0.0.1"}, nil, "[fd00::1 10.0.0.1 10.1.0.1]", nil, nil},
		"another address given":         {environ{"POD_IP": "10.0.0.1"}, []string{"--instance-ip=192.0.2.1,[2001:db8::1]"}, "[192.0.2.1 2001:db8::1 10.0.0.1 fd00::1 10.1.0.1]", []string{"orders-0"}, nil},
		"a name given":                  {nil, []string{"--instance-ip=gateway.example.com"}, "[10.0.0.1 fd00::1 10.1.0.1]", []string{"gateway.example.com", "orders-0"}, []string{"gateway"}},
		"a node that is another":        {environ{"HOST_IP": "10.7.7.7"}, nil, "[10.0.0.1 fd00::1 10.1.0.1]", nil, nil},
		"hostNetwork":                   {environ{"HOST_IP": "10.0.0.1", "POD_IP": "10.0.0.1"}, []string{"--port=80"}, "[10.0.0.1]", []string{"orders-0"}, []string{"six", "net1"}},
		"hostNetwork of both families":  {environ{"HOST_IP": "10.0.0.1", "POD_IPS": "10.0.0.1,fd00::1"}, []string{"--port=80"}, "[10.0.0.1 fd00::1]", []string{"six"}, []string{"net1"}},
		"hostNetwork, no address given": {environ{"HOST_IP": "10.0.0.1"}, []string{"--port=80"}, "[10.0.0.1]", nil, nil},
		"addresses that are none":       {environ{"HOST_IP": "$(HOST)", "POD_IP": "${POD}", "POD_IPS": "10.0.0.1, orders-0"}, nil, "[10.0.0.1 fd00::1 10.1.0.1]", nil, nil},
	} {
		t.Run(sentence, func(t *testing.T) {
			cfg, err := load("", c.args, c.env, statefulPod())
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(cfg.Addresses); got != c.addresses {
				t.Errorf("the addresses are %s; want %s", got, c.addresses)
			}
			for _, name := range c.names {
				if !slices.Contains(cfg.Names, name) {
					t.Errorf("%q is not among the names: %q", name, cfg.Names)
				}
			}
			for _, name := range c.not {
				if slices.Contains(cfg.Names, name) {
					t.Errorf("%q is among the names: %q", name, cfg.Names)
				}
			}
		})
	}
}

func TestAPodWithoutFilesOrInterfacesStarts(t *testing.T) {
	cfg, err := load("", nil, environ{"POD_IP": "10.0.0.1"}, podSources{
		interfaces: func() ([]net.Addr, error) { return nil, errors.New("denied") },
		hostname:   func() (string, error) { return "", errors.New("denied") },
		read:       func(string) ([]byte, error) { return nil, errors.New("denied") },
	})
	if err != nil || fmt.Sprint(cfg.Addresses) != "[10.0.0.1]" || !strings.Contains(fmt.Sprint(cfg.Notes), "denied") {
		t.Errorf("%v: %v, %q", err, cfg.Addresses, cfg.Notes)
	}
}

// FuzzNoHintStopsTheStart: whatever the app has for itself, the sidecar starts, with no limit by it.
func FuzzNoHintStopsTheStart(f *testing.F) {
	for _, seed := range []string{
		"-1", "0", "8090", "65536", "http", "${random.int[10000,20000]}", "${spring.cloud.client.ip-address}:${server.port}", "${random.value}",
		"${A", "${}", "${:}", "#{systemProperties['a']}", "nacos://n", "http://", "://", "http://n:99999/", "a b", ",;,", "[::1", "tcp://10.0.0.1:1", "\x00", "%zz",
		"http://e/eureka;http://e/eureka", "user:pass@h", "0.0.0.0", "10.0.0.300", "false",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		all := []string{"HOST_IP"}
		for _, s := range settings {
			all = append(all, s.Variables...)
		}
		for _, k := range kinds {
			all = append(append(all, k.off...), k.heldBack[0])
		}
		all = append(all, everyOff...)
		env := environ{}
		for _, name := range all {
			one, err := load("", nil, environ{name: value}, statefulPod())
			if name == "HOST_IP" && one.HostNetwork {
				continue // which wants a setting
			}
			if err != nil {
				t.Errorf("%s=%q keeps it from starting: %v", name, value, err)
			}
			if len(one.Ports)+len(one.Services) > 0 || one.NacosGroup != "" || one.EurekaInstanceID != "" || len(one.Addresses) < 3 {
				t.Errorf("%s=%q is a limit: %+v", name, value, one)
			}
			env[name] = value
		}
		if _, err := load("", nil, env, statefulPod()); err != nil && !strings.Contains(err.Error(), "hostNetwork") {
			t.Errorf("%q in every variable keeps it from starting: %v", value, err)
		}
	})
}

func TestAHintThatCannotBeReadIsAWarning(t *testing.T) {
	for sentence, c := range map[string]struct {
		env  environ
		want []string // in one warning
	}{
		"an ID of Spring's documentation": {environ{"EUREKA_INSTANCE_INSTANCE_ID": "${spring.cloud.client.ip-address}:${server.port}"}, []string{"EUREKA_INSTANCE_INSTANCE_ID=", "${spring.cloud.client.ip-address}", "only a hint"}},
		"a random port":                   {environ{"SERVER_PORT": "${random.int[10000,20000]}"}, []string{`SERVER_PORT="${random.int`, "only a hint"}},
		"no web port":                     {environ{"SERVER_PORT": "-1"}, []string{`SERVER_PORT="-1"`, "no port"}},
		"any port":                        {environ{"SERVER_PORT": "0"}, []string{`SERVER_PORT="0"`, "no port"}},
		"a name that is set nowhere":      {environ{"SPRING_APPLICATION_NAME": "${APP}"}, []string{`SPRING_APPLICATION_NAME="${APP}"`, "set nowhere"}},
		"a placeholder without a name":    {environ{"SPRING_APPLICATION_NAME": "a${}"}, []string{"${}"}},
		"placeholders in a circle":        {environ{"SPRING_APPLICATION_NAME": "${A}", "A": "${A}"}, []string{"${A}"}},
		"a Nacos that is set nowhere":     {environ{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "${N}"}, []string{"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR", "${N}", "--nacos-url"}},
		"a Nacos of another scheme":       {environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "nacos://n"}, []string{"nacos://n", "--nacos-url"}},
		"a Eureka without scheme":         {environ{"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "e:8761/eureka"}, []string{"e:8761/eureka", "--eureka-url"}},
		"an address that is none":         {environ{"POD_IP": "orders-0"}, []string{`POD_IP="orders-0"`, "no address", "interfaces"}},
		"a node that is none":             {environ{"HOST_IP": "$(HOST)"}, []string{`HOST_IP="$(HOST)"`, "hostNetwork"}},
		"a password without a user":       {environ{"SPRING_CLOUD_NACOS_PASSWORD": "xyz"}, []string{"SPRING_CLOUD_NACOS_PASSWORD", "--nacos-username"}},
		"hostNetwork with the app's port": {environ{"POD_IP": "10.0.0.1", "HOST_IP": "10.0.0.1", "SERVER_PORT": "8080"}, []string{"hostNetwork", "[8080]", "--port"}},
		"our own variable, mistyped":      {environ{"PRESTOP_GRACEPERIOD": "60"}, []string{"PRESTOP_GRACEPERIOD is no setting", "PRESTOP_GRACE_PERIOD meant?"}},
		"our own variable, shortened":     {environ{"PRESTOP_GRACE": "60"}, []string{"PRESTOP_GRACE_PERIOD meant?"}},
		"our own variable, misspelled":    {environ{"PRESTOP_EURKEA_URL": "x"}, []string{"PRESTOP_EUREKA_URL meant?"}},
		"our own variable, of nothing":    {environ{"PRESTOP_XYZZY_PLUGH": "x"}, []string{"PRESTOP_XYZZY_PLUGH is no setting"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			cfg, err := load("", nil, c.env, statefulPod())
			if err != nil {
				t.Fatal(err)
			}
			if len(cfg.Notes) != 1 {
				t.Fatalf("the warnings are %q", cfg.Notes)
			}
			for _, want := range c.want {
				if !strings.Contains(cfg.Notes[0], want) {
					t.Errorf("%q is not in %q", want, cfg.Notes[0])
				}
			}
		})
	}
}

// Kubernetes tells a Pod of every Service of its namespace, also of one called prestop.
func TestAServiceCalledPrestopSetsNothing(t *testing.T) {
	env := environ{}
	for _, service := range []string{"PRESTOP", "PRESTOP_NACOS", "PRESTOP_EXCLUDE", "SERVER"} {
		for name, value := range map[string]string{
			"_SERVICE_HOST": "10.96.0.9", "_SERVICE_PORT": "8090", "_SERVICE_PORT_HTTP": "8090", "_PORT": "tcp://10.96.0.9:8090",
			"_PORT_8090_TCP": "tcp://10.96.0.9:8090", "_PORT_8090_TCP_PROTO": "tcp", "_PORT_8090_TCP_PORT": "8090", "_PORT_8090_TCP_ADDR": "10.96.0.9",
			"_PORT_53_UDP": "udp://10.96.0.9:53",
		} {
			env[service+name] = value
		}
	}
	c, err := load("", nil, env, statefulPod())
	if err != nil || len(c.Notes) > 0 || len(c.Ports)+len(c.ExcludePorts)+len(c.Services)+len(c.Hints.Ports) > 0 {
		t.Errorf("%v: %q, %+v", err, c.Notes, c)
	}
}

func TestACallReadsItsOwnFlagsAndTheTokenAlone(t *testing.T) {
	odd := environ{
		"PRESTOP_GRACE_PERIOD": "soon", "PRESTOP_COUNT": "guess", "SERVER_PORT": "${x}", "PRESTOP_PORT": "tcp://10.0.0.1:1", "HOST_IP": "10.0.0.1", "POD_IP": "10.0.0.1",
		"PRESTOP_NACOS_PASSWORD_FILE": "/none", "PRESTOP_REGISTRY_CA_FILE": "/none", "PRESTOP_TOKEN_FILE": "/none", "PRESTOP_LISTEN": ":9", "PRESTOP_OUTPUT": "xml",
	}
	for _, command := range []string{"shutdown", "resume", "status"} {
		c, err := load(command, nil, odd, statefulPod())
		if err != nil || c.Listen != ":9" || c.Token.Set() {
			t.Errorf("%s: %v, %+v", command, err, c)
		}
	}
	for _, listen := range []string{"8090", "here", ":x"} {
		c, err := load("shutdown", nil, environ{"PRESTOP_LISTEN": listen}, statefulPod())
		if err != nil || c.Listen != ":8090" || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "PRESTOP_LISTEN") {
			t.Errorf("PRESTOP_LISTEN=%s: %v, %+v", listen, err, c)
		}
		if _, err := load("shutdown", []string{"--listen=" + listen}, nil, statefulPod()); err == nil {
			t.Errorf("--listen=%s is not refused", listen)
		}
	}
	if _, err := load("shutdown", []string{"--token-file=/none"}, odd, statefulPod()); err == nil {
		t.Error("a file that is given and not there is not refused")
	}
	if c, err := load("shutdown", []string{"--token=x"}, odd, statefulPod()); err != nil || c.Token.value != "x" {
		t.Errorf("%v, %+v", err, c.Token)
	}
	if _, err := load("shutdown", []string{"--watch"}, nil, statefulPod()); err == nil || !strings.Contains(err.Error(), "belongs to") {
		t.Errorf("another command's flag: %v", err)
	}
	c, err := load("shutdown", []string{"--grace-period=5", "--token=x"}, nil, statefulPod())
	if err != nil || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "belongs to the sidecar") || c.Token.value != "x" {
		t.Errorf("the sidecar's flag: %v, %+v", err, c)
	}
}

func TestTheSettingsInForceHoldNoSecret(t *testing.T) {
	c := valid(t, environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "n1,n2", "SERVER_PORT": "8080", "PRESTOP_TOKEN": hush},
		"--eureka-url=http://me:"+hush+"@e/eureka?x="+hush, "--nacos-username=u", "--nacos-password="+hush, "--drain-call=POST http://me:"+hush+"@host/fail", "--grace-period=4", "--linger=1")
	if text := fmt.Sprint(c.InForce); strings.Contains(text, hush) {
		t.Errorf("a secret is told: %s", text)
	}
	for flag, want := range map[string]string{
		"nacos-url": "http://n1:8848/nacos,http://n2:8848/nacos", "eureka-url": "http://hidden@e/eureka", "token": isSet, "nacos-password": isSet,
		"grace-period": "4", "reserve": "2s", "linger": "1", "port": "", "count": "auto",
	} {
		if got := c.InForce[flag]; got != want {
			t.Errorf("--%s is told as %q; want %q", flag, got, want)
		}
	}
}

func TestWhatIsWrongIsNamedWithItsRemedy(t *testing.T) {
	for sentence, c := range map[string]struct {
		env  environ
		args []string
		want []string // each in the error
	}{
		"an unknown flag":                       {nil, []string{"--grace", "3"}, []string{"command line", "is --grace-period meant?", "--help"}},
		"a flag with one dash":                  {nil, []string{"-port=8080"}, []string{"command line", "two dashes: --port"}},
		"a flag without its value":              {nil, []string{"--port"}, []string{"command line", "--port"}},
		"something behind the flags":            {nil, []string{"--port", "80", "shutdown"}, []string{`"shutdown"`, "before the flags"}},
		"a time that is none":                   {nil, []string{"--grace-period", "soon"}, []string{`--grace-period="soon"`, "30s"}},
		"a time below zero":                     {nil, []string{"--linger", "-3s"}, []string{`--linger="-3s"`, "0 or more"}},
		"a quiet period that is none":           {nil, []string{"--quiet-period=soon"}, []string{`--quiet-period="soon"`, "3"}},
		"a quiet period that nobody can see":    {nil, []string{"--quiet-period=5s", "--count=proc"}, []string{`--quiet-period="5s"`, "--count"}},
		"a grace period of nothing":             {environ{"PRESTOP_GRACE_PERIOD": "0"}, nil, []string{`PRESTOP_GRACE_PERIOD="0"`, "more than 0"}},
		"a reserve as long as the grace period": {nil, []string{"--grace-period=5s", "--reserve=5"}, []string{`--reserve="5"`, "terminationGracePeriodSeconds"}},
		"a grace period below zero":             {nil, []string{"--grace-period=-5"}, []string{`--grace-period="-5"`, "more than 0"}},
		"an address without a port":             {nil, []string{"--listen", "8090"}, []string{`--listen="8090"`, ":8090"}},
		"a port that is none":                   {environ{"PRESTOP_PORT": "http"}, nil, []string{`PRESTOP_PORT="http"`, "65535"}},
		"a port too high":                       {nil, []string{"--port", "65536"}, []string{`--port="65536"`, "65535"}},
		"our own port as the app's":             {environ{"PRESTOP_PORT": "8090"}, nil, []string{`PRESTOP_PORT="8090"`, "--listen"}},
		"an app's port that is excluded":        {nil, []string{"--port=1", "--exclude-port=1"}, []string{`--port="1"`, "--exclude-port"}},
		"an address that is none":               {environ{"PRESTOP_INSTANCE_IP": "10.0.0.300"}, nil, []string{`PRESTOP_INSTANCE_IP="10.0.0.300"`, "status.podIP"}},
		"a name that is none":                   {nil, []string{"--instance-ip=a b"}, []string{`--instance-ip="a b"`, "host names"}},
		"a peer that is none":                   {nil, []string{"--exclude-peer", "10.0.0.0/33"}, []string{`"10.0.0.0/33"`, "fd00::/8"}},
		"a Eureka without scheme":               {nil, []string{"--eureka-url", "eureka:8761/eureka"}, []string{"--eureka-url", "http://host:port/path"}},
		"a Nacos by another scheme":             {nil, []string{"--nacos-url", "nacos://n:8848"}, []string{"--nacos-url", "http"}},
		"a server in two clusters":              {nil, []string{"--nacos-url", "n1,n2;n2:8848"}, []string{"--nacos-url", "http://n2:8848/nacos", "two clusters", "commas"}},
		"a URL with a port that is none":        {nil, []string{"--nacos-url", "n:88480"}, []string{`"n:88480"`, "port"}},
		"metrics without where and which":       {nil, []string{"--count=prometheus"}, []string{"--metrics-url: is missing", "--metric: is missing", "/stats/prometheus"}},
		"metrics that are not asked":            {environ{"PRESTOP_METRIC": "a"}, []string{"--metrics-url=http://a/", "--metric-exclude=a=b"}, []string{"PRESTOP_METRIC", "--metrics-url", "--metric-exclude", "set --count prometheus"}},
		"a URL of metrics that is none":         {nil, []string{"--count=prometheus", "--metric=a", "--metrics-url=/stats"}, []string{`--metrics-url="/stats"`, "unix:///"}},
		"a socket without a path":               {nil, []string{"--count=prometheus", "--metric=a", "--metrics-url=unix:///a.sock"}, []string{"unix:///a.sock", "no path"}},
		"a metric with labels":                  {nil, []string{"--count=prometheus", "--metrics-url=http://a/", "--metric=a{b=\"c\"}"}, []string{"--metric", "without labels"}},
		"an exclusion without a label":          {nil, []string{"--count=prometheus", "--metrics-url=http://a/", "--metric=a", "--metric-exclude=admin"}, []string{"--metric-exclude", "admin", "label=regexp"}},
		"an expression that is none":            {nil, []string{"--count=prometheus", "--metrics-url=http://a/", "--metric=a", "--metric-exclude=a=("}, []string{"--metric-exclude", "a=(", "regular expression"}},
		"a call without a method":               {nil, []string{"--drain-call=http://a/b"}, []string{"--drain-call", "http://a/b", "GET, POST", "'POST http://"}},
		"a call of nothing":                     {environ{"PRESTOP_DRAIN_CALL": "POST nowhere"}, nil, []string{"PRESTOP_DRAIN_CALL", "POST nowhere", "is not an http"}},
		"a count that is none":                  {nil, []string{"--count", "guess"}, []string{`"guess"`, "netlink"}},
		"a number that is none":                 {nil, []string{"--min-open-connections=-1"}, []string{`"-1"`, "0 or more"}},
		"a switch that is neither":              {nil, []string{"--ready-when-registered=perhaps"}, []string{`"perhaps"`, "true"}},
		"a log format that is none":             {nil, []string{"--log-format", "xml"}, []string{`"xml"`, "json, text"}},
		"a log level that is none":              {nil, []string{"--log-level", "loud"}, []string{`"loud"`, "debug, info, warn, error"}},
		"a password without a user":             {environ{"PRESTOP_NACOS_PASSWORD": "xyz"}, nil, []string{"nacos-username", "drop the password"}},
		"a token and its file":                  {nil, []string{"--token=x", "--token-file=config.go"}, []string{"--token-file", "beside --token", "one of the two"}},
		"a token file that is not there":        {nil, []string{"--token-file=/none"}, []string{`--token-file="/none"`, "no such file", "mount"}},
		"a token file with nothing in it":       {nil, []string{"--token-file=/dev/null"}, []string{`"/dev/null"`, "empty"}},
		"a CA file that holds none":             {nil, []string{"--registry-ca-file=/dev/null"}, []string{`"/dev/null"`, "PEM"}},
		"a certificate without its key":         {nil, []string{"--registry-cert-file=/x"}, []string{"--registry-key-file", "give both"}},
		"a key without its certificate":         {nil, []string{"--registry-key-file=/x"}, []string{"--registry-cert-file", "give both"}},
		"a certificate that does not load":      {nil, []string{"--registry-cert-file=/dev/null", "--registry-key-file=/dev/null"}, []string{"--registry-cert-file", "belong together"}},
		"hostNetwork without the app's port":    {environ{"POD_IP": "10.0.0.1", "HOST_IP": "10.0.0.1"}, nil, []string{"--port", "hostNetwork"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			got := refused(t, c.env, c.args...)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in:\n%s", want, got)
				}
			}
		})
	}
}

func TestAllProblemsComeTogether(t *testing.T) {
	got := refused(t, environ{"PRESTOP_RESERVE": "x", "PRESTOP_INSTANCE_IP": "1.2.3", "PRESTOP_PORT": "z"},
		"--grace-period=never", "--count=guess", "--min-open-connections=some", "--unready-when-draining=perhaps")
	for _, want := range []string{"--grace-period", "PRESTOP_RESERVE", "PRESTOP_INSTANCE_IP", "PRESTOP_PORT", "--count", "--min-open-connections", "--unready-when-draining"} {
		if !strings.Contains(got, want+"=") {
			t.Errorf("%s is not among the problems:\n%s", want, got)
		}
	}
	if lines := strings.Count(got, "\n") + 1; lines != 7 {
		t.Errorf("%d lines for 7 problems:\n%s", lines, got)
	}
}

func TestAProblemIsTyped(t *testing.T) {
	_, err := Load("", []string{"--count=guess"}, environ{})
	if p := (Problem{}); !errors.As(err, &p) || p.Setting != "--count" || p.Value != "guess" || p.Wrong == "" || p.Remedy == "" {
		t.Errorf("the error is %#v", p)
	}
}

const hush = "hunter2"

func TestNoErrorHoldsASecret(t *testing.T) {
	for sentence, c := range map[string]struct {
		env  environ
		args []string
	}{
		"a token beside its file":                  {nil, []string{"--token=" + hush, "--token-file=/none"}},
		"a password without a user":                {nil, []string{"--nacos-password=" + hush}},
		"a flag with one dash":                     {nil, []string{"-token=" + hush}},
		"a flag that is spelled wrong":             {nil, []string{"--tokn=" + hush}},
		"a shorthand":                              {nil, []string{"-p" + hush}},
		"bad syntax":                               {nil, []string{"--=" + hush}},
		"userinfo before a bad scheme":             {nil, []string{"--eureka-url=ftp://me:" + hush + "@host/eureka"}},
		"userinfo without a scheme":                {nil, []string{"--eureka-url=me:" + hush + "@host/eureka"}},
		"a slash in a password":                    {nil, []string{"--eureka-url=http://me:" + hush + "/x@host/eureka"}},
		"a comma in a password":                    {nil, []string{"--eureka-url=http://me:" + hush + ",x@host/eureka"}},
		"a comma before the password's end":        {nil, []string{"--eureka-url=http://me:x," + hush + "@host/eureka"}},
		"a semicolon in a password":                {nil, []string{"--eureka-url=http://me:" + hush + ";x@host/eureka"}},
		"a server with a password in two clusters": {nil, []string{"--eureka-url=http://me:" + hush + "@host/eureka;http://host/eureka"}},
		"a percent in a password":                  {nil, []string{"--eureka-url=http://me:%" + hush + "@host/eureka"}},
		"a space in a password":                    {nil, []string{"--nacos-url=http://me:" + hush + " x@host"}},
		"the second of two":                        {nil, []string{"--nacos-url=http://n:1,nacos://me:" + hush + "@host"}},
		"the first of two":                         {nil, []string{"--nacos-url=nacos://me:" + hush + "@host,http://n:1"}},
		"a bad call with userinfo":                 {nil, []string{"--drain-call=POST ftp://me:" + hush + "@host/fail"}},
		"bad metrics with userinfo":                {nil, []string{"--count=prometheus", "--metric=a", "--metrics-url=ftp://me:" + hush + "@host/stats"}},
		"a secret by the variable beside its file": {environ{"PRESTOP_TOKEN": hush, "PRESTOP_TOKEN_FILE": "/none"}, nil},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := refused(t, c.env, c.args...); strings.Contains(got, hush) || strings.Contains(got, hush[:3]) {
				t.Errorf("the secret is in:\n%s", got)
			}
		})
	}
}

func TestNoWarningHoldsASecret(t *testing.T) {
	for sentence, env := range map[string]environ{
		"a placeholder in a password":            {"SPRING_CLOUD_NACOS_PASSWORD": hush + "${NONE}"},
		"a password without a user":              {"SPRING_CLOUD_NACOS_PASSWORD": hush},
		"a placeholder in a URL with a password": {"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://me:" + hush + "@${NONE}/eureka"},
		"a comma in a password":                  {"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://me:x," + hush + "@e/eureka"},
		"a variable of ours that is misspelled":  {"PRESTOP_TOKN": hush},
	} {
		c := valid(t, env)
		if text := fmt.Sprint(c.Notes); len(c.Notes) == 0 || strings.Contains(text, hush) {
			t.Errorf("%s: %s", sentence, text)
		}
	}
}

func TestASecretFileIsReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	c := valid(t, nil, "--token-file", path)
	write("two\n")
	if got, err := c.Token.Get(); got != "two" || err != nil {
		t.Errorf("got %q, %v after the file was rotated", got, err)
	}
	write("")
	if got, err := c.Token.Get(); err == nil {
		t.Errorf("an empty file gives %q: everybody would be let in", got)
	}
}

// FuzzAPasswordInAURLIsInNoError: whatever a password looks like, what is said of the URL does not tell it.
func FuzzAPasswordInAURLIsInNoError(f *testing.F) {
	for _, seed := range []string{"hunter2", "a/b", "a,b", "%zz", "a@b", "a b", "${A}", "${A:b}", "${}", "a://b", "[::1", ",http://x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed string) {
		password := "hush" + seed + "hush"
		for name, list := range map[string]string{
			"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE":     "http://me:" + password + "@host:8761/eureka,ftp://other",
			"SPRING_CLOUD_NACOS_DISCOVERY_SERVER_ADDR": "me:" + password + "@host,nacos://other",
		} {
			c, err := load("", nil, environ{name: list}, statefulPod())
			if err != nil || len(c.Notes) == 0 {
				t.Fatalf("%q: %v, and no warning", list, err)
			}
			if text := fmt.Sprint(c.Notes); strings.Contains(text, "hush") {
				t.Errorf("the password of %q is in: %v", list, text)
			}
			flag := map[bool]string{true: "--eureka-url=", false: "--nacos-url="}[strings.HasPrefix(name, "EUREKA")]
			if _, err := load("", []string{flag + list}, nil, statefulPod()); err == nil || strings.Contains(err.Error(), "hush") {
				t.Errorf("the password of %q is in: %v", list, err)
			}
		}
	})
}
