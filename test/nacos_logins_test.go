package test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"prestop/registry"
	"prestop/registry/registrytest"
	"prestop/test/servers"
)

// TestNacosWithLogins: servers that want a login of everybody, and whose tokens live six seconds.
func TestNacosWithLogins(t *testing.T) {
	clients := servers.RunNacosClients(t, nacosClientVersion)
	for _, version := range []string{"2.3.2", "3.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := runNacos(t, version, "nacos.core.auth.enabled=true", "nacos.core.auth.plugin.nacos.token.expire.seconds=6",
				"nacos.core.auth.caching.enabled=false")
			g := &guarded{n: n, clients: clients}
			g.user(t, "orders", "dev:*:*")
			g.user(t, "one-service", "dev:DEFAULT_GROUP:naming/with-logins")
			i := nacosOrder("with-logins")
			i.Namespace = "dev"
			// The Java client's own token may end, on a busy machine, before it is used.
			waitFor(t, "register", func() error {
				_, err := connectAs(clients, n.URL, i, n.User, n.Password)
				return err
			})
			t.Run("a user with rights in one namespace leaves and rejoins there", g.oneNamespace)
			t.Run("a token that ends in mid-drain is renewed", g.tokenEnds)
			t.Run("a user who may read one service and not the catalog leaves and rejoins by its name", g.oneService)
			t.Run("a login that cannot work is refused with its remedy and without a secret", g.wrongLogins)
		})
	}
}

// guarded is a server that wants logins.
type guarded struct {
	n       *servers.Nacos
	clients *servers.NacosClients
}

// user makes a user who may read and write the resource. His password is geheim-1.
func (g *guarded) user(t *testing.T, name, resource string) {
	t.Helper()
	users, roles, permissions := "v1/auth/users", "v1/auth/roles", "v1/auth/permissions"
	if g.n.Major >= 3 {
		users, roles, permissions = "v3/auth/user", "v3/auth/role", "v3/auth/permission"
	}
	role := strings.ToUpper(name)
	for _, c := range []struct {
		path string
		q    url.Values
	}{
		{users, url.Values{"username": {name}, "password": {"geheim-1"}}},
		{roles, url.Values{"username": {name}, "role": {role}}},
		{permissions, url.Values{"role": {role}, "resource": {resource}, "action": {"rw"}}},
	} {
		token, err := g.n.Token(t.Context())
		mustNot(t, err, "log in")
		c.q.Set("accessToken", token)
		_, err = g.n.Call(t.Context(), http.MethodPost, c.path, c.q)
		mustNot(t, err, c.path)
	}
}

func (g *guarded) as(t *testing.T, user string) registry.Registry {
	return nacosAs(t, g.n.URL, user, "geheim-1", "dev")
}

func (g *guarded) oneNamespace(t *testing.T) {
	r := g.as(t, "orders")
	findOne(t, r) // the server reads its rights anew every 15 s
	mustNot(t, r.Leave(t.Context()), "leave")
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
}

func (g *guarded) tokenEnds(t *testing.T) {
	r := g.as(t, "orders")
	findOne(t, r)
	mustNot(t, r.Leave(t.Context()), "leave")
	later, err := g.n.Token(t.Context())
	mustNot(t, err, "log in")
	waitFor(t, "have a later token expire", func() error {
		q := url.Values{"serviceName": {"with-logins"}, "namespaceId": {"dev"}, "accessToken": {later}}
		_, err := g.n.Call(t.Context(), http.MethodGet, "v1/ns/instance/list", q)
		if err == nil || !strings.Contains(err.Error(), "403") {
			return fmt.Errorf("it is still good: %w", err)
		}
		return nil
	})
	if i, err := r.Check(t.Context()); err != nil || i[0].State != registry.Out {
		t.Fatalf("%+v, %v", i, err)
	}
	mustNot(t, r.Leave(t.Context()), "leave with an expired token")
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
}

func (g *guarded) oneService(t *testing.T) {
	r := g.as(t, "one-service")
	if _, err := r.Find(t.Context(), nacosPod); !registry.IsFinal(err) || !strings.Contains(err.Error(), "403") {
		t.Fatalf("without the service's name: %v", err)
	}
	pod := nacosPod
	pod.Services = []string{"with-logins"}
	var found []registry.Instance
	waitFor(t, "find the instance", func() (err error) {
		found, err = r.Find(t.Context(), pod)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("found %+v", found)
		}
		return err
	})
	mustNot(t, r.Leave(t.Context()), "leave")
	if i, err := r.Check(t.Context()); err != nil || i[0].State != registry.Out {
		t.Fatalf("%+v, %v", i, err)
	}
	if done, err := r.Published(t.Context()); !done || err != nil {
		t.Fatalf("published %v, %v", done, err)
	}
	mustNot(t, r.Rejoin(t.Context()), "rejoin")
	if i, err := r.Check(t.Context()); err != nil || i[0].State != registry.In {
		t.Fatalf("%+v, %v", i, err)
	}
}

func (g *guarded) wrongLogins(t *testing.T) {
	for name, r := range map[string]registry.Registry{
		"a wrong password":         nacosAs(t, g.n.URL, "orders", "geheim-2", "dev"),
		"an unknown user":          nacosAs(t, g.n.URL, "nobody", "geheim-2", "dev"),
		"another namespace's user": nacosAs(t, g.n.URL, "orders", "geheim-1", ""),
		"no login at all":          nacosAs(t, g.n.URL, "", "", "dev"),
	} {
		_, err := r.Find(t.Context(), nacosPod)
		e := (*registry.Error)(nil)
		if !errors.As(err, &e) || !e.Final || e.Remedy == "" || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}

// connectAs registers with a login.
func connectAs(clients *servers.NacosClients, server string, i registrytest.NacosInstance, user, password string) (nacosConnection, error) {
	return connectWith(clients, server, i, url.Values{"username": {user}, "password": {password}})
}
