package nacos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// valueLimit bounds one name or one instance in an answer; metadata is the largest part, and Nacos takes 1 KiB of it.
const valueLimit = 1 << 20

// errNonsense is the cause when a 200 is not what Nacos answers.
var errNonsense = errors.New("the answer is not one of Nacos")

// host is what is read of an instance. 2.x calls its health "valid" in the one list and "healthy" in the others.
type host struct {
	IP        string   `json:"ip"`
	Port      int      `json:"port"`
	Weight    *float64 `json:"weight"`
	Healthy   *bool    `json:"healthy"`
	Valid     *bool    `json:"valid"`
	Enabled   *bool    `json:"enabled"`
	Ephemeral *bool    `json:"ephemeral"`
	Cluster   string   `json:"clusterName"`
}

// record returns h as registered in p, false if it cannot be one of a Pod.
func (h host) record(p place) (record, bool) {
	if h.Port <= 0 || h.Port > math.MaxUint16 || h.IP == "" {
		return record{}, false
	}
	rec := record{key: key{p, h.IP, uint16(h.Port)}, weight: 1}
	is := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	rec.enabled = is(h.Enabled, true)
	rec.healthy = is(h.Healthy, is(h.Valid, true))
	rec.persistent = !is(h.Ephemeral, true)
	if h.Weight != nil {
		rec.weight = *h.Weight
	}
	return rec, true
}

// readCatalog reads one page of the services of a namespace with all their instances, and calls saw with each service and
// found with those of its records that wanted chose. It holds one instance at a time, however many there are.
func readCatalog(from io.Reader, wanted func(host) bool, saw func(service), found func(record)) error {
	s := newStream(from)
	each := func() error {
		of, chosen, err := s.service(wanted)
		if err != nil {
			return err
		}
		saw(of)
		for cluster, hosts := range chosen {
			for _, h := range hosts {
				if rec, ok := h.record(place{of, cluster}); ok {
					found(rec)
				}
			}
		}
		return nil
	}
	first, err := s.token()
	switch {
	case err != nil:
		return s.cause(err)
	case first == json.Delim('['): // 1.x and 2.x
		return s.cause(s.elements(each))
	case first != json.Delim('{'):
		return errNonsense
	}
	var items bool
	err = s.envelope("data", func() error {
		return s.object(func(field string) error {
			if field != "pageItems" {
				return s.skip()
			}
			items = true
			return s.array(each)
		})
	})
	if err == nil && !items {
		err = errNonsense
	}
	return s.cause(err)
}

// service reads one service of a catalog and those of its instances that wanted chose, by cluster.
func (s *stream) service(wanted func(host) bool) (of service, chosen map[string][]host, err error) {
	chosen = map[string][]host{}
	err = s.object(func(field string) error {
		switch field {
		case "serviceName":
			return s.decode(&of.name)
		case "groupName":
			return s.decode(&of.group)
		case "clusterMap":
			return s.object(func(cluster string) error {
				return s.object(func(field string) error {
					if field != "hosts" {
						return s.skip()
					}
					return s.hosts(func(h host) {
						if wanted(h) {
							chosen[cluster] = append(chosen[cluster], h)
						}
					})
				})
			})
		}
		return s.skip()
	})
	if err == nil && of.name == "" {
		err = errNonsense
	}
	return of, chosen, err
}

// readHosts reads the instances of one service, which the answer has in field, and calls found with each.
func readHosts(from io.Reader, field string, found func(host)) error {
	s := newStream(from)
	first, err := s.token()
	if err == nil && first != json.Delim('{') {
		err = errNonsense
	}
	if err == nil {
		err = s.envelope(field, func() error { return s.hosts(found) })
	}
	return s.cause(err)
}

// stream reads JSON value by value and never holds more than one, of at most valueLimit bytes.
type stream struct {
	dec   *json.Decoder
	meter *meter
}

func newStream(r io.Reader) *stream {
	m := &meter{r: r}
	return &stream{dec: json.NewDecoder(m), meter: m}
}

func (s *stream) token() (json.Token, error) {
	s.meter.left = valueLimit
	return s.dec.Token()
}

func (s *stream) decode(v any) error {
	s.meter.left = valueLimit
	return s.dec.Decode(v)
}

// hosts calls found with each instance of the array that comes next.
func (s *stream) hosts(found func(host)) error {
	return s.array(func() error {
		var h host
		if err := s.decode(&h); err != nil {
			return err
		}
		found(h)
		return nil
	})
}

// object calls field with each name of the object that comes next; field consumes the value. null is an empty object.
func (s *stream) object(field func(string) error) error {
	t, err := s.token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('{') {
		return errNonsense
	}
	return s.fields(field)
}

// fields is object after its brace.
func (s *stream) fields(field func(string) error) error {
	for {
		t, err := s.token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return nil // the closing brace
		}
		if err := field(name); err != nil {
			return err
		}
	}
}

// array calls element before each element of the array that comes next; it consumes it. null is an empty array.
func (s *stream) array(element func() error) error {
	t, err := s.token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return errNonsense
	}
	return s.elements(element)
}

// elements is array after its bracket.
func (s *stream) elements(element func() error) error {
	for s.meter.left = valueLimit; s.dec.More(); s.meter.left = valueLimit {
		if err := element(); err != nil {
			return err
		}
	}
	_, err := s.token()
	return err
}

// skip consumes a value of any size, token by token.
func (s *stream) skip() error {
	for depth := 0; ; {
		t, err := s.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// envelope reads an object, after its brace, that must have field and, if it has a code, must have 0 there.
func (s *stream) envelope(field string, value func() error) error {
	var seen bool
	code := 0
	err := s.fields(func(name string) error {
		switch name {
		case field:
			seen = true
			return value()
		case "code":
			return s.decode(&code)
		}
		return s.skip()
	})
	switch {
	case code != 0:
		return fmt.Errorf("%w: code %d", errNonsense, code)
	case err == nil && !seen:
		return errNonsense
	}
	return err
}

// cause tells how reading failed, when the connection did; anything else that went wrong is that this is not Nacos' JSON.
func (s *stream) cause(err error) error {
	switch {
	case err == nil || errors.Is(err, errNonsense):
		return err
	case s.meter.err != nil && s.meter.err != io.EOF:
		return s.meter.err
	}
	return errNonsense
}

// meter fails once left bytes have been read without left being set again.
type meter struct {
	r    io.Reader
	left int
	err  error
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errNonsense
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	if err != nil {
		m.err = err
	}
	return n, err
}
