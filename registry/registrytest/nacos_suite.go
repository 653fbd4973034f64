package registrytest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"prestop/registry"
)

// RunNacos judges a Registry of Nacos by what only Nacos has: groups, clusters, namespaces,
// persistent instances, and the record that outlives who was disabled. The cases play at the same
// time as those of no other suite.
func RunNacos(t *testing.T, w *NacosWorld) {
	cases := map[string]func(*nacosPlace){
		"instances are found in every group unless one is given":             inEveryGroup,
		"an instance in a cluster of its own leaves and rejoins":             inACluster,
		"only the namespace that is given is looked at":                      inANamespace,
		"a persistent instance leaves, rejoins and is forgotten":             persistent,
		"a weight that was set from outside survives a leave and a rejoin":   weightFromOutside,
		"an app that dies while it is being disabled can be born again":      orphan,
		"an app that dies while it is being disabled and comes back rejoins": orphanComesBack,
		"two connections with one address: the later one rejoins":            twoConnections,
		"a record that may be a dead Pod's is not enabled":                   strangersRecord,
		"hundreds of names of one Pod leave and rejoin":                      hundredsOfNames,
		"names with colons, dots and other odd characters leave and rejoin":  oddNames,
	}
	for name, beside := range map[string]func(*nacosPlace) []string{
		"dead":              func(p *nacosPlace) []string { return []string{p.dead()} },
		"hanging":           func(p *nacosPlace) []string { return []string{p.hanging()} },
		"dead and hanging":  func(p *nacosPlace) []string { return []string{p.dead(), p.hanging()} },
		"without a leader":  func(p *nacosPlace) []string { return []string{p.leaderless()} },
		"of something else": func(p *nacosPlace) []string { return []string{p.elsewhere()} },
		"each of these at once": func(p *nacosPlace) []string {
			return []string{p.dead(), p.hanging(), p.leaderless(), p.elsewhere()}
		},
	} {
		cases["an instance leaves and rejoins by one server beside others: "+name] = func(p *nacosPlace) { p.byOneServer(beside(p)) }
	}
	if w.Major >= 2 { // on a 1.x what is set from outside is the app's own until its next registration
		cases["metadata that was set from outside survives a leave and a rejoin"] = metadataFromOutside
	}
	if w.HeldBack != nil && w.Connect == nil {
		cases["an app that registers itself disabled is left so until it is let in"] = registersDisabled
	}
	t.Run("nacos", func(t *testing.T) {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c(&nacosPlace{newPlace(t, w), w})
			})
		}
	})
}

// nacosPlace is a place in a world of Nacos.
type nacosPlace struct {
	*place
	world *NacosWorld
}

func (p *nacosPlace) instance() NacosInstance { return nacosInstance(p.app) }

// listed waits until callers get i at every server, or do not, and returns what they see of it.
func (p *nacosPlace) listed(i NacosInstance, want bool) (seen Seen) {
	p.Helper()
	p.eventually(fmt.Sprintf("be listed: %v", want), func() error {
		for n, s := range p.world.Servers {
			list, err := p.world.list(s, i)
			if err != nil {
				return err
			}
			k := slices.IndexFunc(list, func(s Seen) bool { return s.Address.String() == i.IP+":"+strconv.Itoa(i.Port) })
			if (k >= 0) != want {
				return fmt.Errorf("server %d's callers see %v", n, list)
			}
			if want {
				seen = list[k]
			}
		}
		return nil
	})
	return seen
}

func inEveryGroup(p *nacosPlace) {
	a, b := p.instance(), p.instance()
	b.Group = "PAYMENT"
	p.world.start(p, a)
	p.world.start(p, b)
	one := p.world.client(p, p.URLs(), "", "PAYMENT")
	if i := p.find(one, 1)[0]; i.ID != "PAYMENT@@"+b.Service+"@DEFAULT@"+b.IP+":8080" {
		p.Fatalf("found %+v", i)
	}
	p.leave(one)
	p.listed(b, false)
	p.listed(a, true)
	all := p.found(2)
	p.must(p.within(patience, "Leave", all.Leave), "leave")
	p.listed(a, false)
	p.rejoin(all)
	p.listed(a, true)
	p.listed(b, true)
}

func inACluster(p *nacosPlace) {
	i := p.instance()
	i.Cluster = "HANGZHOU"
	p.world.start(p, i)
	r := p.found(1)
	p.leave(r)
	p.listed(i, false)
	if done, err := r.Published(p.Context()); !done || err != nil {
		p.Fatalf("published: %v, %v", done, err)
	}
	p.rejoin(r)
	p.listed(i, true)
}

func inANamespace(p *nacosPlace) {
	here, elsewhere := p.instance(), p.instance()
	here.Namespace = "dev"
	p.world.start(p, here)
	p.world.start(p, elsewhere)
	r := p.world.client(p, p.URLs(), "dev", "")
	if i := p.find(r, 1)[0]; !strings.HasPrefix(i.ID, "dev@@DEFAULT_GROUP@@") {
		p.Fatalf("found %+v", i)
	}
	p.leave(r)
	p.listed(here, false)
	p.listed(elsewhere, true)
	p.rejoin(r)
	p.listed(here, true)
}

func persistent(p *nacosPlace) {
	i := p.instance()
	i.Service, i.Persistent = i.Service+"-persistent", true
	app := p.world.start(p, i)
	r := p.found(1)
	p.leave(r)
	p.rejoin(r)
	p.becomesNot(r, registry.Out)
	p.leave(r)
	app.Crash(p)
	p.must(p.within(patience, "Forget", r.Forget), "forget")
	p.becomes(r, registry.Absent)
	p.world.start(p, i)
	p.becomesNot(p.found(1), registry.Out)
}

// becomesNot waits until Check says another state than state: the server's own health check may say
// Down of persistent instances, since nobody listens at their addresses here.
func (p *nacosPlace) becomesNot(r registry.Registry, state registry.State) {
	p.Helper()
	p.eventually("not be "+state.String(), func() error {
		instances, err := r.Check(p.Context())
		if err == nil && (len(instances) != 1 || instances[0].State == state || instances[0].State == registry.Absent) {
			err = fmt.Errorf("%+v", instances)
		}
		return err
	})
}

// console changes the instance as the console does, with more parameters.
func (p *nacosPlace) console(i NacosInstance, more url.Values) {
	p.Helper()
	a := &nacosApp{world: p.world, instance: i}
	method, path := http.MethodPatch, "v1/ns/instance"
	if p.world.Major >= 3 {
		method, path = http.MethodPut, "v3/admin/ns/instance/partial"
	}
	q := a.query()
	q.Del("metadata")
	for k, v := range more {
		q[k] = v
	}
	err := p.world.login(p.world.Servers[0], q)
	if err == nil {
		_, err = nacosCall(context.Background(), method, p.world.Servers[0], path, q)
	}
	p.must(err, "change from outside")
}

func weightFromOutside(p *nacosPlace) {
	i := p.instance()
	p.world.start(p, i)
	r := p.found(1)
	i.Weight = 7.25
	p.console(i, nil)
	p.eventually("have the weight", func() error {
		if w := p.listed(i, true).Weight; w != 7.25 {
			return fmt.Errorf("weight %v", w)
		}
		return nil
	})
	p.find(r, 1)
	p.leave(r)
	p.listed(i, false)
	p.rejoin(r)
	if w := p.listed(i, true).Weight; w != 7.25 {
		p.Fatalf("the weight is %v", w)
	}
}

func metadataFromOutside(p *nacosPlace) {
	i := p.instance()
	p.world.start(p, i)
	p.console(i, url.Values{"metadata": {`{"canary":"yes"}`}})
	p.eventually("have the metadata", func() error {
		if m := p.listed(i, true).Metadata; m["canary"] != "yes" {
			return fmt.Errorf("metadata %v", m)
		}
		return nil
	})
	r := p.found(1)
	p.leave(r)
	p.listed(i, false)
	p.rejoin(r)
	if m := p.listed(i, true).Metadata; m["canary"] != "yes" || m["zone"] != "b" {
		p.Fatalf("the metadata is %v", m)
	}
}

// orphan: for half a second after the app has died, the server takes changes of it. One that comes
// then leaves a record that nothing makes expire, and whoever gets the address next would be
// disabled for ever.
func orphan(p *nacosPlace) {
	app := p.Start(p, p.app)
	r := p.found(1)
	app.Crash(p)
	p.must(p.within(patience, "Leave", r.Leave), "leave")
	p.notCalled(p.app)
	p.must(p.within(patience, "Forget", r.Forget), "forget")
	p.Start(p, p.app)
	p.called(p.app)
	p.becomes(p.found(1), registry.In)
}

func orphanComesBack(p *nacosPlace) {
	app := p.Start(p, p.app)
	r := p.found(1)
	app.Crash(p)
	p.must(p.within(patience, "Leave", r.Leave), "leave")
	p.Start(p, p.app)
	p.rejoin(r)
	p.called(p.app)
	p.find(r, 1)
	p.becomes(r, registry.In)
}

func twoConnections(p *nacosPlace) {
	first := p.Start(p, p.app)
	r := p.found(1)
	p.leave(r)
	p.Start(p, p.app)
	first.Crash(p)
	if p.world.Connect == nil {
		p.Start(p, p.app) // over HTTP the two are one, and have both stopped
	}
	p.rejoin(r)
	p.called(p.app)
}

// names is how many interfaces the Dubbo app has.
const names = 120

func hundredsOfNames(p *nacosPlace) {
	one := p.instance()
	// Nobody sends heartbeats for so many.
	one.Metadata = map[string]string{"preserved.heart.beat.timeout": "600000", "preserved.ip.delete.timeout": "600000"}
	for n := range names {
		i := one
		i.Service = fmt.Sprintf("providers:com.example.Orders%d-%s:1.0:", n, p.app.Service)
		a := &nacosApp{world: p.world, instance: i}
		p.must(a.register(p.Context()), "register")
		p.Cleanup(func() {
			_, err := nacosCall(context.Background(), http.MethodDelete, p.world.Servers[0], p.world.path(), a.query())
			p.must(err, "deregister")
		})
	}
	r := p.client()
	p.find(r, names)
	p.leave(r)
	p.rejoin(r)
	instances, err := r.Check(p.Context())
	p.must(err, "check")
	for _, i := range instances {
		if i.State != registry.In {
			p.Fatalf("%+v", i)
		}
	}
}

// strangersRecord is a Pod whose address belonged to another one, which has left. Nacos does not tell
// whether that one lives; here it does, which is as long as its record can last.
func strangersRecord(p *nacosPlace) {
	stranger := p.another(p.app.Service+"-stranger", 8080)
	p.Start(p, stranger)
	p.leave(p.found(1))
	p.notCalled(stranger)
	p.Start(p, p.app)
	r := p.client()
	for _, i := range p.find(r, 2) {
		if want := map[bool]registry.State{true: registry.In, false: registry.Down}[i.Service == p.app.Service]; i.State != want {
			p.Errorf("%+v, want %v", i, want)
		}
	}
	p.must(r.Leave(p.Context()), "leave")
	p.notCalled(p.app)
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.called(p.app)
	if err := absent(p.Callers(p, stranger.Service), stranger); err != nil {
		p.Errorf("the stranger's callers are sent to us: %v", err)
	}
}

// registersDisabled is an app with spring.cloud.nacos.discovery.instance-enabled=false.
func registersDisabled(p *nacosPlace) {
	i := p.instance()
	i.Disabled = true
	app := p.world.start(p, i)
	var urls []*url.URL
	for _, s := range p.URLs() {
		u, err := url.Parse(s)
		p.must(err, "parse the address")
		urls = append(urls, u)
	}
	r := p.world.HeldBack(p, urls)
	if found := p.find(r, 1)[0]; found.State != registry.Down {
		p.Fatalf("%+v, as if it were ours to put in", found)
	}
	p.must(r.Rejoin(p.Context()), "rejoin")
	p.must(r.Leave(p.Context()), "leave")
	p.must(r.Rejoin(p.Context()), "rejoin")
	app.Beat(p)
	p.mustBe(r, registry.Down)
	p.listed(i, false)

	p.console(i, url.Values{"enabled": {"true"}})
	p.listed(i, true)
	p.becomes(r, registry.In)
	p.leave(r)
	p.listed(i, false)
	p.rejoin(r)
	p.listed(i, true)
}

func oddNames(p *nacosPlace) {
	i := p.instance()
	i.Service = "providers:com.example.A_" + i.Service + "-1.0:"
	i.Group = "G-1.a_b"
	p.world.start(p, i)
	r := p.found(1)
	p.leave(r)
	p.listed(i, false)
	p.rejoin(r)
	p.listed(i, true)
}

// byOneServer leaves and rejoins with the addresses of others before the good ones.
func (p *nacosPlace) byOneServer(others []string) {
	p.Start(p, p.app)
	r := p.world.client(p, append(others, p.URLs()...), "", "")
	p.find(r, 1)
	p.leave(r)
	p.notCalled(p.app)
	if done, err := r.Published(p.Context()); !done || err != nil {
		p.Fatalf("published: %v, %v", done, err)
	}
	p.rejoin(r)
	p.called(p.app)
}

// dead is the address of a server that is gone.
func (p *nacosPlace) dead() string {
	s := httptest.NewServer(nil)
	s.Close()
	return s.URL + "/nacos"
}

// hanging is one that takes requests and does not answer.
func (p *nacosPlace) hanging() string {
	f := newFaults(p, p.URLs()[:1])
	f.set(hang)
	return f.urls[0]
}

// elsewhere is one of something that is no Nacos.
func (p *nacosPlace) elsewhere() string {
	f := newFaults(p, p.URLs()[:1])
	f.set(answer(http.StatusOK, "text/html", page))
	return f.urls[0]
}

// leaderless answers what is read, and no change.
func (p *nacosPlace) leaderless() string {
	to, err := url.Parse(p.URLs()[0])
	p.must(err, "parse the address")
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && !strings.HasSuffix(r.URL.Path, "/login") {
			plain(w, 500, "caused: errCode: 500, errMsg: do metadata operation failed ;caused: com.alibaba.nacos.consistency.exception.ConsistencyException: "+
				"The Raft Group [naming_instance_metadata] did not find the Leader node;")
			return
		}
		forward.ServeHTTP(w, r)
	}))
	p.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL + to.Path
}
