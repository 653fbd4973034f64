package cli

import (
	"context"

	"prestop/internal/config"
	"prestop/registry"
	"prestop/registry/client"
	"prestop/registry/eureka"
	"prestop/registry/nacos"
)

// makers make a registry of each kind.
var makers = map[string]func(config.Registry, config.Source, *client.Client) registry.Registry{
	"eureka": func(c config.Registry, s config.Source, h *client.Client) registry.Registry {
		return eureka.New(eureka.Options{
			URLs: s.Servers, InstanceID: c.EurekaInstanceID, HeldBack: s.HeldBack, HTTP: h,
		})
	},
	"nacos": func(c config.Registry, s config.Source, h *client.Client) registry.Registry {
		return nacos.New(nacos.Options{
			Servers: s.Servers, Namespace: c.NacosNamespace, Group: c.NacosGroup,
			Username: c.NacosUsername, Password: c.NacosPassword.Get,
			HeldBack: s.HeldBack, HTTP: h,
		})
	},
}

// newRegistry connects one registry by itself; nothing is called yet. agent is who calls.
func newRegistry(c config.Registry, s config.Source, agent string) registry.Registry {
	return makers[s.Kind.Name](c, s, client.New(c.RegistryTLS, agent))
}

// newRegistries connects the configured registries; nothing is called yet. Their requests are
// counted by kind.
func newRegistries(
	c config.Registry, agent string,
) ([]registry.Registry, map[string]*registry.Traffic) {
	var all []registry.Registry
	clients := map[string]*client.Client{}
	traffic := map[string]*registry.Traffic{}
	for _, s := range c.Registries {
		kind := s.Kind.Name
		if clients[kind] == nil {
			clients[kind] = client.New(c.RegistryTLS, agent)
			traffic[kind] = clients[kind].Traffic()
		}
		all = append(all, makers[kind](c, s, clients[kind]))
	}
	return all, traffic
}

// elsewhere returns what looks for whatever a registry holds at the Pod's addresses, by the
// registry's number: on any port, in any group and under any name. It is asked where nothing is
// found.
func elsewhere(
	c config.Config, agent string,
) func(context.Context, int) ([]registry.Instance, error) {
	wide := c.Wide()
	p := pod(wide.Pod)
	p.AnyPort = true
	return func(ctx context.Context, i int) ([]registry.Instance, error) {
		return newRegistry(wide.Registry, c.Registries[i], agent).Find(ctx, p)
	}
}
