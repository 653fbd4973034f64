package registrytest

import (
	"cmp"
	"crypto/rand"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// NacosConfig sets up an in-memory Nacos. The zero value is a 2.3.2 without a login at /nacos, with
// the real one's times.
type NacosConfig struct {
	// Version is the server's, and decides which API it speaks: "1.4.1", "2.3.2" (also ""),
	// "3.1.0", "3.2.0".
	Version string
	// Upgrading: a 2.0 or 2.1 whose cluster still has a 1.x in it. It works as a 1.x does.
	Upgrading bool
	// Path is the context path; "" is /nacos.
	Path string
	// Rebuild is how long after a change the list of a service is made anew; 0 is 500 ms, negative:
	// at once. A 1.x does it at once anyway.
	Rebuild time.Duration
	// Expire is how long the record of a disabled instance outlives it; 0 is 60 s.
	Expire time.Duration
	// Unhealthy and Delete are how long after its last heartbeat an HTTP-registered instance is
	// unhealthy and is removed; 0 is 15 s and 30 s.
	Unhealthy, Delete time.Duration
	// Auth asks for a login everywhere. A 3.x asks for one in its admin API anyway unless
	// NoAdminAuth is set.
	Auth, NoAdminAuth bool
	// User and Password are the login; "" is nacos for both.
	User, Password string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// NacosInstance is what an app publishes. Namespace "" is public, Group DEFAULT_GROUP, Cluster
// DEFAULT.
type NacosInstance struct {
	Namespace, Group, Service, Cluster string
	IP                                 string
	Port                               int
	Weight                             float64 // 0 is 0, as on the real one
	Metadata                           map[string]string
	Persistent                         bool
	// Disabled: published as enabled=false by the app itself.
	Disabled bool
}

// Nacos is one in-memory Nacos server, an http.Handler. It keeps clients, the records of what was
// changed from outside and the lists that everything is answered from, as naming of 2.3.2 and 3.1.0
// does (and of 1.4.1, where an instance is its own record), with the traps that come of it; the
// contract suite runs on it and on the real one. Safe for concurrent use. It starts no goroutine:
// what a real server does by timers is made up for at the next call.
type Nacos struct {
	config       NacosConfig
	major, minor int

	mu       sync.Mutex
	services map[nacosName]*nacosService
	clients  int // how many connections there have been
	alive    map[*NacosClient]bool
	tokens   map[string]time.Time // and when they end
	requests map[string]int
}

type nacosName struct{ namespace, group, service string }

func (n nacosName) grouped() string { return n.group + "@@" + n.service }

// nacosService is what the server knows of one service.
type nacosService struct {
	published map[nacosPublication]*nacosPublished
	records   map[nacosAddress]*nacosRecord
	list      []nacosListed // what everything is answered from
	changed   time.Time     // when something changed first since list was made; zero: nothing has
}

// nacosAddress is what a record is kept under: two clients that publish the same share it.
type nacosAddress struct {
	ip      string
	port    int
	cluster string
}

// nacosPublication is an address published by a client: a connection, "ip:port#true" for heartbeats
// over HTTP, "ip:port#false" for a persistent instance.
type nacosPublication struct {
	client string
	nacosAddress
}

type nacosPublished struct {
	NacosInstance
	http    bool
	beat    time.Time
	healthy bool
}

// preserved is a time that the app has set in its metadata, in milliseconds, else otherwise.
func (p *nacosPublished) preserved(name string, otherwise time.Duration) time.Duration {
	if ms, err := strconv.Atoi(p.Metadata[name]); err == nil {
		return time.Duration(ms) * time.Millisecond
	}
	return otherwise
}

// nacosRecord is laid over whatever is published under its address.
type nacosRecord struct {
	enabled  bool
	weight   float64
	metadata map[string]string
	expires  time.Time // zero: never
}

// nacosListed is an instance as a list shows it.
type nacosListed struct {
	NacosInstance
	enabled, healthy bool
}

func (l nacosListed) address() nacosAddress { return nacosAddress{l.IP, l.Port, l.Cluster} }

// NewNacos returns a server that holds nothing.
func NewNacos(c NacosConfig) *Nacos {
	c.Version = cmp.Or(c.Version, "2.3.2")
	c.Path = cmp.Or(c.Path, "/nacos")
	c.Rebuild = cmp.Or(c.Rebuild, 500*time.Millisecond)
	c.Expire = cmp.Or(c.Expire, 60*time.Second)
	c.Unhealthy = cmp.Or(c.Unhealthy, 15*time.Second)
	c.Delete = cmp.Or(c.Delete, 30*time.Second)
	c.User, c.Password = cmp.Or(c.User, "nacos"), cmp.Or(c.Password, "nacos")
	if c.Now == nil {
		c.Now = time.Now
	}
	n := &Nacos{config: c, requests: map[string]int{}, alive: map[*NacosClient]bool{}}
	n.generation()
	n.Restart()
	return n
}

// Restart is a restart without data: the server forgets everything but its users. Connected clients
// come back at once.
func (n *Nacos) Restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services, n.tokens = map[nacosName]*nacosService{}, map[string]time.Time{}
	for c := range n.alive {
		n.publish(n.config.Now(), c.id, c.instance, false)
	}
}

// EndTokens makes every token given so far one that has expired.
func (n *Nacos) EndTokens() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.tokens)
}

// Upgrade makes the server one of another version with the same data.
func (n *Nacos) Upgrade(version string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.config.Version = version
	n.generation()
}

// generation derives major from the configuration.
func (n *Nacos) generation() {
	numbers := append(strings.Split(n.config.Version, "."), "")
	n.major, _ = strconv.Atoi(numbers[0])
	n.minor, _ = strconv.Atoi(numbers[1])
	if n.config.Upgrading {
		n.major = 1
	}
}

// Requests counts the requests so far by method and path, e.g. "PATCH /v1/ns/instance".
func (n *Nacos) Requests() map[string]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.requests)
}

// NacosClient is an app connected over gRPC (to a 1.x: one whose heartbeats never fail).
type NacosClient struct {
	server   *Nacos
	id       string
	instance NacosInstance
}

// Register connects a client and publishes i.
func (n *Nacos) Register(i NacosInstance) *NacosClient {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clients++
	c := &NacosClient{server: n, id: strconv.Itoa(n.clients) + "_grpc", instance: i}
	n.alive[c] = true
	n.publish(n.advance(), c.id, i, false)
	return c
}

// Disconnect ends every connection, as the death of the apps does.
func (n *Nacos) Disconnect() {
	n.mu.Lock()
	clients := slices.Collect(maps.Keys(n.alive))
	n.mu.Unlock()
	for _, c := range clients {
		c.Close()
	}
}

// Close ends the connection, in order or by the death of the app: the server cannot tell.
func (c *NacosClient) Close() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	delete(c.server.alive, c)
	i := c.instance.named()
	c.server.unpublish(c.server.advance(), i.name(), nacosPublication{c.id, i.address()})
}

// Listed returns the instances that callers of the service in the public namespace and
// DEFAULT_GROUP get now.
func (n *Nacos) Listed(service string) []NacosInstance {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.advance()
	var list []NacosInstance
	if s := n.services[NacosInstance{Service: service}.named().name()]; s != nil {
		for _, l := range s.list {
			if l.enabled && l.healthy {
				list = append(list, l.NacosInstance)
			}
		}
	}
	return list
}

func (i NacosInstance) named() NacosInstance {
	i.Namespace = cmp.Or(i.Namespace, "public")
	i.Group = cmp.Or(i.Group, "DEFAULT_GROUP")
	i.Cluster = cmp.Or(i.Cluster, "DEFAULT")
	return i
}

func (i NacosInstance) name() nacosName       { return nacosName{i.Namespace, i.Group, i.Service} }
func (i NacosInstance) address() nacosAddress { return nacosAddress{i.IP, i.Port, i.Cluster} }

// httpClient is the id under which the server keeps what registered over HTTP.
func (i NacosInstance) httpClient() string {
	return net.JoinHostPort(i.IP, strconv.Itoa(i.Port)) + "#" + strconv.FormatBool(!i.Persistent)
}

// The rest is called with mu held.

// advance does what timers would have done by now, and returns now.
func (n *Nacos) advance() time.Time {
	now := n.config.Now()
	for name, s := range n.services {
		for id, p := range s.published {
			if !p.http || p.Persistent {
				continue
			}
			silent := now.Sub(p.beat)
			if silent >= p.preserved("preserved.ip.delete.timeout", n.config.Delete) {
				n.unpublish(now, name, id)
			} else if healthy := silent < p.preserved("preserved.heart.beat.timeout", n.config.Unhealthy); healthy != p.healthy {
				p.healthy = healthy
				n.change(s, now)
			}
		}
		for a, r := range s.records {
			// The list is not made anew: who was disabled stays out of it until something else
			// changes in the service.
			if !r.expires.IsZero() && !now.Before(r.expires) {
				delete(s.records, a)
			}
		}
		if !s.changed.IsZero() && now.Sub(s.changed) >= n.rebuild() {
			s.list, s.changed = n.show(s), time.Time{}
		}
	}
	return now
}

func (n *Nacos) rebuild() time.Duration {
	if n.major < 2 {
		return -1
	}
	return n.config.Rebuild
}

// change notes that the list of s is not true any more.
func (n *Nacos) change(s *nacosService, now time.Time) {
	if n.rebuild() < 0 {
		s.list = n.show(s)
	} else if s.changed.IsZero() {
		s.changed = now
	}
}

func (n *Nacos) publish(now time.Time, client string, i NacosInstance, http bool) {
	i = i.named()
	s := n.services[i.name()]
	if s == nil {
		s = &nacosService{published: map[nacosPublication]*nacosPublished{}, records: map[nacosAddress]*nacosRecord{}}
		n.services[i.name()] = s
	}
	s.published[nacosPublication{client, i.address()}] = &nacosPublished{i, http, now, true}
	if n.major < 2 {
		delete(s.records, i.address()) // the new registration is the record
	} else if r := s.records[i.address()]; r != nil {
		r.expires = time.Time{} // the record of a former instance stays, and is this one's now
	}
	n.change(s, now)
}

func (n *Nacos) unpublish(now time.Time, name nacosName, id nacosPublication) {
	s := n.services[name]
	if s == nil || s.published[id] == nil {
		return
	}
	// Also when another client publishes the same address: the late death of the first makes the
	// second's record expire. The record of a persistent one never expires on 2.x (nacos#8717).
	if r := s.records[id.nacosAddress]; r != nil && (n.major >= 3 || !s.published[id].Persistent) {
		r.expires = now.Add(n.config.Expire)
	}
	if n.major < 2 {
		delete(s.records, id.nacosAddress)
	}
	delete(s.published, id)
	n.change(s, now)
}

// show makes the list from what is published and the records laid over it.
func (n *Nacos) show(s *nacosService) []nacosListed {
	var list []nacosListed
	for id, p := range s.published {
		l := nacosListed{NacosInstance: p.NacosInstance, enabled: !p.Disabled, healthy: p.healthy}
		if r := s.records[id.nacosAddress]; r != nil {
			l.enabled, l.Weight = r.enabled, r.weight
			if strings.HasPrefix(n.config.Version, "2.0.") {
				l.Persistent = false // sic: what was changed from outside is shown as ephemeral
			}
			l.Metadata = maps.Clone(l.Metadata)
			for k, v := range r.metadata {
				if l.Metadata == nil {
					l.Metadata = map[string]string{}
				}
				l.Metadata[k] = v
			}
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b nacosListed) int {
		return cmp.Or(strings.Compare(a.IP, b.IP), cmp.Compare(a.Port, b.Port), strings.Compare(a.Cluster, b.Cluster))
	})
	return list
}

// token makes one that is good for as long as the real one's.
func (n *Nacos) token(now time.Time) string {
	t := rand.Text()
	n.tokens[t] = now.Add(5 * time.Hour)
	return t
}
