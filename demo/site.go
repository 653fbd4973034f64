package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"prestop/registry/registrytest"
)

// site is what every rollout uses: the programs, the folder for what comes out, and addresses.
type site struct {
	out     string // the folder
	prestop string // the binary under test
	self    string // this program, which is the application too

	mu   sync.Mutex
	host byte
}

// newSite builds prestop, the real one, into out.
func newSite(ctx context.Context, out string) (*site, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(string(bytes.TrimSpace(module)))
	if out == "" {
		out = filepath.Join(root, "demo", "out")
	}
	s := &site{out: out, self: self, prestop: filepath.Join(out, "prestop")}
	if err := os.MkdirAll(filepath.Join(out, "logs"), 0o755); err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", s.prestop, ".")
	build.Dir = root
	if says, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build in %s: %w\n%s", root, err, says)
	}
	return s, nil
}

// log opens the log of a child.
func (s *site) log(name string) (*os.File, error) {
	return os.Create(filepath.Join(s.out, "logs", name+".log"))
}

// addresses are the application's and its sidecar's, of one instance.
type addresses struct{ app, sidecar netip.AddrPort }

// address returns a loopback address that no instance has had, as each Pod has its own, with two ports on it. The ports
// stay below those that the kernel gives to outgoing connections (from 32768), so that no socket of a caller has the
// application's port on its own side: the sidecars see the whole machine's sockets here.
func (s *site) address() (addresses, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host++
	host := netip.AddrFrom4([4]byte{127, 0, 1, s.host})
	var free []netip.AddrPort
	var last error
	for port := uint16(18000) + 100*uint16(s.host); len(free) < 2 && port < 32768; port++ {
		a := netip.AddrPortFrom(host, port)
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			last = err
			continue
		}
		l.Close()
		free = append(free, a)
	}
	if len(free) < 2 {
		return addresses{}, fmt.Errorf("two free ports on %s (the demo needs Linux, where all of 127.0.0.0/8 is there): %w", host, last)
	}
	return addresses{free[0], free[1]}, nil
}

// startRegistry serves an in-memory registry until stop is called.
func startRegistry(product string) (url string, stop func() error, err error) {
	var handler http.Handler
	switch product {
	case "eureka":
		handler, url = registrytest.NewEureka(registrytest.EurekaConfig{Cache: eurekaCache, Evict: eurekaEvict}), "/eureka"
	case "nacos":
		handler, url = registrytest.NewNacos(registrytest.NacosConfig{Rebuild: nacosRebuild, Unhealthy: nacosUnhealthy, Delete: nacosDelete}), "/nacos"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return "http://" + listener.Addr().String() + url, func() error {
		err := server.Close()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}, nil
}
