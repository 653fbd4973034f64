package nacos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"prestop/registry/client"
)

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
	s := stream{client.ReadValues(from)}
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
	first, err := s.Token()
	switch {
	case err != nil:
		return err
	case first == json.Delim('['): // 1.x and 2.x
		return s.Elements(each)
	case first != json.Delim('{'):
		return client.ErrShape
	}
	var items bool
	err = s.envelope("data", func() error {
		return s.object(func(field string) error {
			if field != "pageItems" {
				return s.Skip()
			}
			items = true
			return s.array(each)
		})
	})
	if err == nil && !items {
		err = client.ErrShape
	}
	return err
}

// service reads one service of a catalog and those of its instances that wanted chose, by cluster.
func (s stream) service(wanted func(host) bool) (of service, chosen map[string][]host, err error) {
	chosen = map[string][]host{}
	err = s.object(func(field string) error {
		switch field {
		case "serviceName":
			return s.Decode(&of.name)
		case "groupName":
			return s.Decode(&of.group)
		case "clusterMap":
			return s.object(func(cluster string) error {
				return s.object(func(field string) error {
					if field != "hosts" {
						return s.Skip()
					}
					return s.hosts(func(h host) {
						if wanted(h) {
							chosen[cluster] = append(chosen[cluster], h)
						}
					})
				})
			})
		}
		return s.Skip()
	})
	if err == nil && of.name == "" {
		err = client.ErrShape
	}
	return of, chosen, err
}

// readHosts reads the instances of one service, which the answer has in field, and calls found with each.
func readHosts(from io.Reader, field string, found func(host)) error {
	s := stream{client.ReadValues(from)}
	first, err := s.Token()
	if err == nil && first != json.Delim('{') {
		err = client.ErrShape
	}
	if err != nil {
		return err
	}
	return s.envelope(field, func() error { return s.hosts(found) })
}

// stream is the values of an answer of Nacos.
type stream struct{ *client.Values }

// hosts calls found with each instance of the array that comes next.
func (s stream) hosts(found func(host)) error {
	return s.array(func() error {
		var h host
		if err := odd(s.Decode(&h)); err != nil {
			return err
		}
		found(h)
		return nil
	})
}

// odd is err, but for a value that is JSON and not of the kind that it should be, such as a weight of "NaN": it is left
// out, so that one odd instance, which may be anybody's, does not make the whole list unreadable.
func odd(err error) error {
	if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) && kind.Field != "" {
		return nil
	}
	return err
}

// object calls field with each name of the object that comes next; field consumes the value. null is an empty object.
func (s stream) object(field func(string) error) error {
	if there, err := s.enter('{'); !there {
		return err
	}
	return s.Fields(field)
}

// array calls element before each element of the array that comes next; it consumes it. null is an empty array.
func (s stream) array(element func() error) error {
	if there, err := s.enter('['); !there {
		return err
	}
	return s.Elements(element)
}

// enter takes the beginning of the value that comes next, which is there unless the value is null.
func (s stream) enter(begin json.Delim) (there bool, err error) {
	t, err := s.Token()
	if err == nil && t != nil && t != begin {
		err = client.ErrShape
	}
	return err == nil && t != nil, err
}

// envelope reads an object, after its brace, that must have field and, if it has a code, must have 0 there.
func (s stream) envelope(field string, value func() error) error {
	var seen bool
	code := 0
	err := s.Fields(func(name string) error {
		switch name {
		case field:
			seen = true
			return value()
		case "code":
			return s.Decode(&code)
		}
		return s.Skip()
	})
	switch {
	case code != 0:
		return fmt.Errorf("%w: code %d", client.ErrShape, code)
	case err == nil && !seen:
		return client.ErrShape
	}
	return err
}
