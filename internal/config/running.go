package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Running returns the Config of the running sidecar, made of the settings that it tells. Its
// secrets are not told: they are those of own, the command's, which are the same where the sidecar
// has them by variables or files. A Source with a HiddenLogin is one where that is not so.
func Running(own Config, told map[string]string) (Config, error) {
	var args []string
	for flag, value := range told {
		if value != isSet && flag != "token-file" && flag != "nacos-password-file" &&
			flag != "listen" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	slices.Sort(args)
	c, err := Load("", args,
		own.env.only(append([]string{"HOST_IP"}, Lookup("instance-ip").Variables...)))
	if err != nil {
		return own, err
	}
	c.Output, c.Listen, c.Token = own.Output, own.Listen, own.Token
	c.GraceGiven = told["grace-period"] != Lookup("grace-period").Default
	hidden := told["nacos-password"] == isSet && !own.NacosPassword.Set()
	if c.NacosPassword = own.NacosPassword; told["nacos-password-file"] != "" {
		c.NacosPassword = Secret{file: told["nacos-password-file"]}
		_, err := c.NacosPassword.Get()
		hidden = err != nil
	}
	for i := range c.Registries {
		s := &c.Registries[i]
		s.HiddenLogin = s.logIn(own) || s.Kind.Name == "nacos" && hidden
	}
	return c, nil
}

// inForce are the settings as they are used, by flag, without secrets.
func (r *reader) inForce(c Config) map[string]string {
	all := map[string]string{}
	for _, s := range settings {
		text := r.string(s.Flag)
		switch s.Flag {
		case "instance-ip":
			text = c.known()
		case "reserve":
			text = c.Reserve.String()
		case "port":
			text = strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Ports), " ", ","), "[]")
		default:
			text = shown(s.Flag, text)
		}
		if s.Secret && r.string(s.Flag) != "" {
			text = isSet
		}
		if i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Flag == s.Flag }); i >= 0 {
			text = showClusters(c.clusters(kinds[i].Name))
		}
		if text != "" && !s.CommandsOnly {
			all[s.Flag] = text
		}
	}
	return all
}

// known are the addresses by which the Pod is known, and the names that were given, as a list.
func (c Config) known() string {
	all := slices.Clone(c.Pod.givenNames)
	for _, a := range c.Addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}

// isSet stands for a secret in the settings that are told.
const isSet = "(set)"

// hiddenLogin stands for the user and the password of a URL.
const hiddenLogin = "hidden"

// showClusters is a setting of URLs without their users and passwords.
func showClusters(clusters [][]*url.URL) string {
	var all []string
	for _, cluster := range clusters {
		var servers []string
		for _, u := range cluster {
			v := *u
			if v.RawQuery = ""; v.User != nil {
				v.User = url.User(hiddenLogin)
			}
			servers = append(servers, v.String())
		}
		all = append(all, strings.Join(servers, ","))
	}
	return strings.Join(all, ";")
}
