// Package scrape counts what is in flight by the app's own metrics, or those of the proxy in front of it, in
// Prometheus' text format.
package scrape

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"regexp"
	"slices"
	"time"

	"prestop/drain/conns"
	"prestop/drain/endpoint"
)

const (
	// scrapeTimeout bounds one try.
	scrapeTimeout = 2 * time.Second
	// scrapeLimit bounds an answer. Envoy tells thousands of clusters in some megabytes.
	scrapeLimit = 64 << 20
	// While the count decides, a scrape that took t is repeated after share*t: a twentieth of the exporter's time. The end
	// of a connection is a reason to scrape at once, but the metrics may learn of it a little later than we do.
	share, soonest, latest = 20, 50 * time.Millisecond, time.Second
	// A scrape counts as work for this long at least and at most, however long it was waited for: it is the exporter's, too.
	leastCost, mostCost = time.Millisecond, 20 * time.Millisecond
)

// Metrics are what is counted.
type Metrics struct {
	URL endpoint.Endpoint
	// Names are the metrics whose series are summed; each must be there.
	Names []string
	// Exclude are series to leave out.
	Exclude []Exclusion
}

// Exclusion is label=~regexp of a PromQL selector.
type Exclusion struct {
	label, text string
	regexp      *regexp.Regexp
}

// exclusionForm is label=regexp.
var exclusionForm = regexp.MustCompile(`(?s)^([a-zA-Z_][a-zA-Z0-9_]*)=(.*)$`)

// ParseExclusion reads label=regexp. As in Prometheus, the expression must match the whole value, and a label that a series
// does not have is empty.
func ParseExclusion(text string) (Exclusion, error) {
	parts := exclusionForm.FindStringSubmatch(text)
	if parts == nil {
		return Exclusion{}, errors.New("is not of the form label=regexp")
	}
	re, err := regexp.Compile("^(?s:" + parts[2] + ")$")
	if err != nil {
		return Exclusion{}, errors.New("has a regular expression that is none")
	}
	return Exclusion{parts[1], parts[2], re}, nil
}

func (e Exclusion) String() string { return e.label + "=" + e.text }

// counter counts by metrics; the rest it has from the kernel. What it counts is in use: metrics do not tell
// which connections are idle, nor whose they are.
type counter struct {
	conns.Counter // the kernel's
	metrics       Metrics
	client        *http.Client
	hear          bool
	turn          chan struct{} // holds one, for whoever uses body
	body          *bufio.Reader
}

// Open returns the counter that counts by metrics. Listening sockets and the ends of connections, each a
// reason to count again, are told by the kernel. Nothing is asked of the endpoint yet: a native sidecar
// starts before what it serves.
func Open(m Metrics, rule conns.Rule, log *slog.Logger) (conns.Counter, error) {
	kernel, err := conns.Open(conns.Auto, rule, log)
	if err != nil {
		return nil, err
	}
	c := newCounter(kernel, m)
	c.hear = rule.Hear
	return c, nil
}

func newCounter(kernel conns.Counter, m Metrics) *counter {
	return &counter{Counter: kernel, metrics: m, client: m.URL.Client(), turn: make(chan struct{}, 1), body: bufio.NewReaderSize(nil, lineBuffer)}
}

func (c *counter) Source() string { return conns.Prometheus }

func (c *counter) CountFew(context.Context, []uint16) (conns.Tally, bool) {
	return conns.Tally{}, false
}

func (c *counter) Count(ctx context.Context, ports []uint16) (conns.Tally, error) {
	t := conns.Tally{Source: conns.Prometheus, Began: time.Now()}
	if len(ports) == 0 {
		return t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return conns.Tally{}, fmt.Errorf("count connections: %w", context.Cause(ctx))
	}
	t.Began = time.Now()
	n, err := c.scrape(ctx)
	if err != nil {
		return conns.Tally{}, fmt.Errorf("count connections by the metrics at %s: %w", c.metrics.URL, err)
	}
	took := time.Since(t.Began)
	if c.hear { // metrics tell nothing of it; without it the drain is longer, but no worse
		if k, err := c.Counter.Count(ctx, ports); err == nil {
			t.Heard, t.HeardFrom = k.Heard, k.HeardFrom
		}
	}
	t.Open, t.Active = n, n
	t.NextIdle = min(max(share*took, soonest), latest)
	t.Took = min(max(took, leastCost), mostCost)
	return t, nil
}

func (c *counter) scrape(ctx context.Context) (int, error) {
	req, err := c.metrics.URL.Request(ctx, http.MethodGet)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, endpoint.Plain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers %s", resp.Status)
	}
	limited := &io.LimitedReader{R: resp.Body, N: scrapeLimit}
	c.body.Reset(limited)
	defer c.body.Reset(nil)
	sum, err := c.metrics.sum(c.body)
	if limited.N == 0 {
		return 0, fmt.Errorf("it answers with more than %d MiB", scrapeLimit>>20)
	}
	return sum, err
}

// sum adds up the series. A metric that is not there at all is an error, not zero: it is misspelt, or this is not the app.
func (m Metrics) sum(r *bufio.Reader) (int, error) {
	var total float64
	seen := make([]bool, len(m.Names))
	err := readExposition(r, func(s *series) error {
		i := slices.IndexFunc(m.Names, func(name string) bool { return string(s.name) == name })
		if i < 0 {
			return nil
		}
		seen[i] = true
		// Once for each series, however many labels it has: projectcontour's loop over labels counts one with two twice.
		if slices.ContainsFunc(m.Exclude, func(e Exclusion) bool { return e.regexp.Match(s.get(e.label)) }) {
			return nil
		}
		if !(s.value >= 0) || math.IsInf(s.value, 1) {
			return fmt.Errorf("%s is %g, which is no number of connections", s.name, s.value)
		}
		total += s.value
		return nil
	})
	if err != nil {
		return 0, err
	}
	for i, name := range m.Names {
		if !seen[i] {
			return 0, fmt.Errorf("no series named %s", name)
		}
	}
	return int(min(math.Ceil(total), math.MaxInt32)), nil
}

// Close ends what the client keeps, and the kernel's counter.
func (c *counter) Close() error {
	c.client.CloseIdleConnections()
	return c.Counter.Close()
}
