package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"testing"
)

func TestANameStandsForTheServersBehindIt(t *testing.T) {
	names := map[string][]string{
		"one":      {"10.0.0.1"},
		"headless": {"10.0.0.3", "10.0.0.1", "10.0.0.3", "::ffff:10.0.0.2"},
		"dual":     {"fd00::1", "10.0.0.1"},
		"six":      {"fd00::1", "fd00::2"},
	}
	h := New(nil, "prestop/test")
	t.Cleanup(h.Close)
	resolving := true
	h.Lookup = func(_ context.Context, host string) (list []netip.Addr, err error) {
		if !resolving || names[host] == nil {
			return nil, errors.New("no such host")
		}
		for _, a := range names[host] {
			list = append(list, netip.MustParseAddr(a))
		}
		return list, nil
	}
	servers := func(addrs ...string) (got []string) {
		var parsed []*url.URL
		for _, a := range addrs {
			u, err := url.Parse(a)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, u)
		}
		for _, s := range h.Servers(t.Context(), parsed) {
			got = append(got, s.String())
		}
		return got
	}
	for name, c := range map[string]struct{ addrs, want []string }{
		"an address is itself":              {[]string{"http://10.0.0.9:8848/nacos"}, []string{"http://10.0.0.9:8848/nacos"}},
		"a name of one address is itself":   {[]string{"http://one:8848/nacos"}, []string{"http://one:8848/nacos"}},
		"a name that is unknown is itself":  {[]string{"http://nowhere/nacos"}, []string{"http://nowhere/nacos"}},
		"of two families the first counts":  {[]string{"http://dual:8761/eureka/"}, []string{"http://dual:8761/eureka/"}},
		"a certificate is for a name":       {[]string{"https://headless:8848/nacos"}, []string{"https://headless:8848/nacos"}},
		"IPv6 has brackets":                 {[]string{"http://six/nacos"}, []string{"http://[fd00::1]/nacos", "http://[fd00::2]/nacos"}},
		"each of several addresses is one":  {[]string{"http://headless:8848/nacos"}, []string{"http://10.0.0.3:8848/nacos", "http://10.0.0.1:8848/nacos", "http://10.0.0.2:8848/nacos"}},
		"the login is everyone's":           {[]string{"http://u:p@six:8761/eureka/"}, []string{"http://u:p@[fd00::1]:8761/eureka/", "http://u:p@[fd00::2]:8761/eureka/"}},
		"what is named twice is one server": {[]string{"http://headless:1/", "http://10.0.0.1:1/"}, []string{"http://10.0.0.3:1/", "http://10.0.0.1:1/", "http://10.0.0.2:1/"}},
	} {
		if got := servers(c.addrs...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	before := servers("http://headless:1/")
	resolving = false
	if got := servers("http://headless:1/"); !slices.Equal(got, before) {
		t.Errorf("without DNS: %v, want %v as before", got, before)
	}
	resolving, names["headless"] = true, []string{"10.0.0.7", "10.0.0.8"}
	if got := servers("http://headless:1/"); !slices.Equal(got, []string{"http://10.0.0.7:1/", "http://10.0.0.8:1/"}) {
		t.Errorf("servers that moved: %v", got)
	}
}

// A proxy in front of a registry may go by the name.
func TestAServerBehindANameIsCalledByIt(t *testing.T) {
	t.Parallel()
	var called []string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { called = append(called, r.Host) }))
	t.Cleanup(s.Close)
	port := s.Listener.Addr().(*net.TCPAddr).Port
	h := New(nil, "prestop/test")
	t.Cleanup(h.Close)
	h.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
	}
	name := fmt.Sprintf("registry.example:%d", port)
	for _, host := range []string{name, fmt.Sprintf("localhost:%d", port)} {
		servers := []*url.URL{{Scheme: "http", Host: host}}
		if host == name {
			servers = h.Servers(t.Context(), servers)
		}
		if _, err := h.Do(t.Context(), servers, Call{Op: "ask", Method: http.MethodGet, Path: "apps"}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(called, []string{host}) {
			t.Errorf("%s was called %v", host, called)
		}
		called = nil
	}
}

func TestANameThatShrinksToOneAddressKeepsItsServer(t *testing.T) {
	h := New(nil, "prestop/test")
	t.Cleanup(h.Close)
	ips := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	h.Lookup = func(context.Context, string) ([]netip.Addr, error) { return ips, nil }
	u, err := url.Parse("http://headless:8761/eureka/")
	if err != nil {
		t.Fatal(err)
	}
	before := h.Servers(t.Context(), []*url.URL{u})
	ips = ips[1:]
	after := h.Servers(t.Context(), []*url.URL{u})
	if len(after) != 1 || after[0].String() != before[1].String() {
		t.Errorf("the server was %v, and is %v", before[1], after)
	}
}
