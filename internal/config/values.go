package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"prestop/drain/endpoint"
	"prestop/drain/scrape"
	"prestop/registry"
)

func (r *reader) bool(flag string) bool {
	b, err := strconv.ParseBool(r.string(flag))
	if err != nil {
		r.problem(flag, "is neither true nor false", "give one of the two")
	}
	return b
}

func (r *reader) number(flag string) int {
	n, err := strconv.ParseUint(r.string(flag), 10, 31)
	if err != nil {
		r.problem(flag, "is not a number of 0 or more", "give e.g. 0 or 2")
	}
	return int(n)
}

func portOf(address string) (uint16, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err
}

// clusters reads the servers of each registry of a kind: clusters separated by semicolons, their
// servers by commas. One server in two clusters would be told by two reconcilers that do not know
// of each other. Of the app's own list what cannot be read is a warning, and the rest is used.
func (r *reader) clusters(k Kind) [][]*url.URL {
	flag := k.Flag
	var all [][]*url.URL
	in := map[string]int{} // the cluster of a server
	for n, list := range strings.Split(r.string(flag), ";") {
		var cluster []*url.URL
		for _, s := range split(list) {
			u, wrong := r.server(k, s)
			remedy := "give http://host:port/path, several separated by commas, several clusters " +
				"by semicolons; special characters of a password as %XX"
			if wrong == "" {
				if first, ok := in[registry.Redact(u)]; ok && first != n {
					wrong = "has " + registry.Redact(u) + " in two clusters"
					remedy = "separate the servers of one cluster by commas; a semicolon is " +
						"before another one"
				}
			}
			switch {
			case wrong == "":
				in[registry.Redact(u)] = n
				cluster = append(cluster, u)
			case r.hinted[flag] && !strings.Contains(r.string(flag), "@"):
				r.unread(flag, r.from[flag], s, "it "+wrong, "it is left out; give it by --"+flag)
			case r.hinted[flag]: // a password with a comma in it looks like two URLs
				r.unread(flag, r.from[flag], r.string(flag), "it "+wrong,
					"none of it is used; give it by --"+flag)
				return nil
			default:
				r.problem(flag, wrong, remedy)
				return nil
			}
		}
		if len(cluster) > 0 {
			all = append(all, cluster)
		}
	}
	return all
}

// server reads the URL of one server, or says what is wrong with it.
func (r *reader) server(k Kind, s string) (u *url.URL, wrong string) {
	u, err := k.parse(s, r.hinted[k.Flag])
	if err == nil {
		err = usable(u)
	}
	if err != nil {
		return nil, plainURLError(r.string(k.Flag), err)
	}
	return u, ""
}

// usable says what is wrong with a server's URL.
func usable(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("is not an http or https URL with a host")
	}
	if _, err := portOf(u.Host); u.Port() != "" && err != nil {
		return errors.New("has a port that is none")
	}
	return nil
}

// plainURLError leaves out the URL, and, where that may hold a password, the part that url.Parse
// stumbled over.
func plainURLError(list string, err error) string {
	u := (*url.Error)(nil)
	switch {
	case !errors.As(err, &u):
		return err.Error()
	case strings.Contains(list, "@"):
		return "is not a URL"
	}
	return "is not a URL: " + u.Err.Error()
}

// How a value begins where several are in one text.
var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelFirst = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*=`)
	methodThen = regexp.MustCompile(`^[a-zA-Z]+\s+\S`)
	anything   = regexp.MustCompile(``)
)

// metrics are what --count prometheus counts.
func (r *reader) metrics() scrape.Metrics {
	var m scrape.Metrics
	if s := r.string("metrics-url"); s != "" {
		var err error
		if m.URL, err = endpoint.Parse(s); err != nil {
			r.problem("metrics-url", err.Error(),
				"give http://host:port/path or unix:///path/of.sock:/path")
		}
	}
	for _, name := range r.lines("metric", anything) {
		if !metricName.MatchString(name) {
			r.problem("metric", "is not the name of a metric",
				"give it without labels, e.g. envoy_http_downstream_cx_active")
		} else if !slices.Contains(m.Names, name) {
			m.Names = append(m.Names, name)
		}
	}
	for i, s := range r.lines("metric-exclude", labelFirst) {
		e, err := scrape.ParseExclusion(s)
		if err != nil {
			r.problem("metric-exclude", ordinal(i, err.Error()),
				"give e.g. envoy_http_conn_manager_prefix=admin|stats.*")
		}
		m.Exclude = append(m.Exclude, e)
	}
	return m
}

// calls are what is called when a drain begins.
func (r *reader) calls() []endpoint.Call {
	var all []endpoint.Call
	const remedy = "give e.g. 'POST http://127.0.0.1:9001/healthcheck/fail' or 'POST " +
		"unix:///admin/admin.sock:/healthcheck/fail'"
	for i, s := range r.lines("drain-call", methodThen) {
		method, url, _ := strings.Cut(strings.ReplaceAll(s, "\t", " "), " ")
		method = strings.ToUpper(method)
		e, err := endpoint.Parse(strings.TrimSpace(url))
		switch {
		case !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut,
			http.MethodPatch, http.MethodDelete}, method):
			r.problem("drain-call",
				ordinal(i, "does not begin with GET, POST, PUT, PATCH or DELETE"), remedy)
		case err != nil:
			r.problem("drain-call", ordinal(i, "has a URL that "+err.Error()), remedy)
		}
		all = append(all, endpoint.Call{Method: method, Endpoint: e})
	}
	return all
}

// ordinal says which of several values is meant, the first being 0.
func ordinal(i int, wrong string) string {
	if i == 0 {
		return wrong
	}
	return fmt.Sprintf("number %d %s", i+1, wrong)
}

// nacosURL completes a Nacos address: as Nacos' own clients do, with port 8848 and the context path
// /nacos where there are none. In a setting, a URL that ends with the slash behind its host has the
// root for its context path; the app's own client takes that for /nacos.
func nacosURL(s string, hint bool) (*url.URL, error) {
	isURL := strings.Contains(s, "://")
	if !isURL {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Port() == "" && u.Scheme == "http" && u.Hostname() != "" {
		u.Host = net.JoinHostPort(u.Hostname(), "8848")
	}
	if strings.Trim(u.Path, "/") == "" && (hint || !isURL || u.Path == "") {
		u.Path = "/nacos"
	}
	return u, nil
}

func (r *reader) tls() *tls.Config {
	ca := r.string("registry-ca-file")
	cert, key := r.string("registry-cert-file"), r.string("registry-key-file")
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		c.RootCAs = x509.NewCertPool()
		if err != nil || !c.RootCAs.AppendCertsFromPEM(pem) {
			r.problem("registry-ca-file", "holds no certificate that can be read",
				"give a PEM file of the CA")
		}
	}
	switch {
	case cert != "" && key == "":
		r.problem("registry-key-file", "is missing beside --registry-cert-file", "give both")
	case cert == "" && key != "":
		r.problem("registry-cert-file", "is missing beside --registry-key-file", "give both")
	case cert != "":
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			r.problem("registry-cert-file",
				"does not load together with --registry-key-file: "+err.Error(), "give PEM files "+
					"that belong together")
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// duration reads a time: Go's form, or a bare number of seconds as in
// terminationGracePeriodSeconds.
func (r *reader) duration(flag string, positive bool) time.Duration {
	s := r.string(flag)
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.ParseInt(s, 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	switch {
	case err != nil:
		r.problem(flag, "is not a time", "give e.g. 30s, 1m30s or a number of seconds")
	case d < 0 || positive && d == 0:
		r.problem(flag, "is too short: it must be "+map[bool]string{true: "more than 0",
			false: "0 or more"}[positive], "give e.g. 30s")
	}
	return d
}

func (r *reader) choice(flag string, values ...string) string {
	s := strings.ToLower(r.string(flag))
	if !slices.Contains(values, s) {
		r.problem(flag, "is not one of its values", "give "+strings.Join(values, ", "))
		return values[0]
	}
	return s
}

// ports reads a comma list of ports. 0 stands for "found": Spring's SERVER_PORT=0 is a random port.
func (r *reader) ports(flag string) []uint16 {
	var ports []uint16
	for _, s := range r.list(flag) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			r.problem(flag, "is not a comma list of ports", "give numbers from 1 to 65535")
			return nil
		}
		if n != 0 {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}

func (r *reader) prefixes(flag string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range r.list(flag) {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil {
			r.problem(flag, "is not a comma list of addresses or CIDRs",
				"give e.g. 10.0.0.7, 10.1.0.0/16, fd00::/8")
			return nil
		}
		all = append(all, p.Masked())
	}
	return all
}

func (r *reader) listen() string {
	s := r.string("listen")
	if _, err := portOf(s); err != nil {
		r.problem("listen", "is not an address to listen on", "give host:port or :port, e.g. :8090")
	}
	return s
}
