package config

import (
	"fmt"
	"slices"
	"testing"
)

func TestTheSettingsOfTheRunningSidecar(t *testing.T) {
	const login = "http://me:" + hush + "@e/eureka"
	sidecar := valid(t, environ{"POD_IP": "10.0.0.9"}, "--eureka-url="+login+",http://e2/eureka", "--nacos-url=n1;n2",
		"--nacos-username=u", "--nacos-password="+hush, "--linger=7", "--port=8080")
	for sentence, c := range map[string]struct {
		env    environ
		args   []string
		hidden []bool // Eureka, and both of Nacos
		users  string
	}{
		"the command has no login":      {nil, nil, []bool{true, true, true}, "hidden"},
		"the command has another login": {nil, []string{"--eureka-url=http://me:x@other/eureka"}, []bool{true, true, true}, "hidden"},
		"the command has both":          {environ{"PRESTOP_NACOS_PASSWORD": "x", "PRESTOP_NACOS_USERNAME": "u"}, []string{"--eureka-url=" + login, "--linger=9"}, []bool{false, false, false}, "me:" + hush},
	} {
		own, err := Load("check", c.args, c.env)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Running(own, sidecar.InForce)
		if err != nil {
			t.Fatal(err)
		}
		var hidden []bool
		for _, s := range got.Registries {
			hidden = append(hidden, s.HiddenLogin)
		}
		if !slices.Equal(hidden, c.hidden) || got.Registries[0].Servers[0].User.String() != c.users || got.Registries[0].Servers[1].User != nil {
			t.Errorf("%s: hidden %v, %v", sentence, hidden, got.Registries[0].Servers)
		}
		if got.Linger != sidecar.Linger || fmt.Sprint(got.Ports) != "[8080]" || got.Addresses[0] != sidecar.Addresses[0] {
			t.Errorf("%s: %+v", sentence, got)
		}
	}
}

func TestTheFlagsOfTheSidecarThatACommandWasGiven(t *testing.T) {
	c, err := load("check", []string{"--linger=1", "--listen=:1", "--output=json", "--port=2"}, environ{"PRESTOP_RESERVE": "1"}, statefulPod())
	if slices.Sort(c.Given); err != nil || !slices.Equal(c.Given, []string{"--linger", "--port"}) {
		t.Errorf("%q, %v", c.Given, err)
	}
}

func TestOnlyGivenPortsAreLookedAtWhereOthersHaveTheAddress(t *testing.T) {
	for sentence, c := range map[string]struct {
		env  environ
		args []string
		want bool
	}{
		"a Pod":                               {environ{"POD_IP": "10.0.0.1"}, nil, false},
		"a Pod, ports given":                  {environ{"POD_IP": "10.0.0.1"}, []string{"--port=80"}, false},
		"hostNetwork":                         {environ{"POD_IP": "10.0.0.1", "HOST_IP": "10.0.0.1"}, []string{"--port=80"}, true},
		"a loopback address":                  {environ{"POD_IP": "127.0.0.1"}, nil, false},
		"a loopback address, ports given":     {environ{"POD_IP": "127.0.0.1"}, []string{"--port=80"}, true},
		"another loopback address, by a flag": {nil, []string{"--port=80", "--instance-ip=127.0.0.2"}, true},
	} {
		cfg, err := load("", c.args, c.env, statefulPod())
		if err != nil || cfg.SharedAddress != c.want {
			t.Errorf("%s: %v, %v; want %v", sentence, cfg.SharedAddress, err, c.want)
		}
	}
}
