package nacos

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"prestop/registry/client"
)

// host is what is read of an instance. 2.x calls its health "valid" in the one list and "healthy"
// in the others.
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

// readCatalog reads one page of the services of a namespace with all their instances, and calls saw
// with each service and found with those of its records that wanted chose. It holds one instance at
// a time, however many there are.
func readCatalog(from io.Reader, wanted func(host) bool, saw func(service), found func(record)) error {
	c := catalog{stream{client.ReadValues(from)}, wanted, saw, found}
	switch first, err := c.Begin(); {
	case err != nil:
		return err
	case first == '[': // 1.x and 2.x
		return c.services()
	case first != '{':
		return client.ErrShape
	}
	seen, err := c.envelope("data", c.page)
	if err == nil && !seen {
		err = client.ErrShape
	}
	return err
}

// readHosts reads the instances of one service, which the answer has in field, and calls found with
// each.
func readHosts(from io.Reader, field string, found func(host)) error {
	s := stream{client.ReadValues(from)}
	if there, err := s.Enter('{'); !there {
		return cmp.Or(err, error(client.ErrShape))
	}
	_, err := s.envelope(field, func() (bool, error) { return true, s.hosts(found) })
	return err
}

// catalog reads a page of services.
type catalog struct {
	stream
	wanted func(host) bool
	saw    func(service)
	found  func(record)
}

// page is an object with the services in it; there says that it has them.
func (c catalog) page() (there bool, err error) {
	if in, err := c.Enter('{'); !in {
		return false, err
	}
	for c.More() {
		name, err := c.Name()
		switch {
		case err != nil:
		case name == "pageItems":
			there = true
			var list bool
			if list, err = c.Enter('['); list {
				err = c.services()
			}
		default:
			err = c.Skip()
		}
		if err != nil {
			return there, err
		}
	}
	return there, c.End()
}

// services is what follows the bracket of a list of services.
func (c catalog) services() error {
	for c.More() {
		if err := c.service(); err != nil {
			return err
		}
	}
	return c.End()
}

// service reads one service and tells of it. Its name may come after its instances.
func (c catalog) service() error {
	var of service
	chosen := map[string][]host{}
	if there, err := c.Enter('{'); !there {
		return cmp.Or(err, error(client.ErrShape))
	}
	for c.More() {
		name, err := c.Name()
		switch {
		case err != nil:
		case name == "serviceName":
			err = c.Decode(&of.name)
		case name == "groupName":
			err = c.Decode(&of.group)
		case name == "clusterMap":
			err = c.clusters(chosen)
		default:
			err = c.Skip()
		}
		if err != nil {
			return err
		}
	}
	if err := c.End(); err != nil {
		return err
	}
	if of.name == "" {
		return client.ErrShape
	}
	c.saw(of)
	for cluster, hosts := range chosen {
		for _, h := range hosts {
			if rec, ok := h.record(place{of, cluster}); ok {
				c.found(rec)
			}
		}
	}
	return nil
}

// clusters reads the instances of a service by cluster, and keeps those that are wanted.
func (c catalog) clusters(chosen map[string][]host) error {
	if there, err := c.Enter('{'); !there {
		return err
	}
	for c.More() {
		cluster, err := c.Name()
		if err != nil {
			return err
		}
		if there, err := c.Enter('{'); err != nil {
			return err
		} else if !there {
			continue
		}
		for c.More() {
			name, err := c.Name()
			switch {
			case err != nil:
			case name == "hosts":
				err = c.hosts(func(h host) {
					if c.wanted(h) {
						chosen[cluster] = append(chosen[cluster], h)
					}
				})
			default:
				err = c.Skip()
			}
			if err != nil {
				return err
			}
		}
		if err := c.End(); err != nil {
			return err
		}
	}
	return c.End()
}

// stream is the values of an answer of Nacos.
type stream struct{ *client.Values }

// hosts calls found with each instance of the list that comes next.
func (s stream) hosts(found func(host)) error {
	if there, err := s.Enter('['); !there {
		return err
	}
	for s.More() {
		var h host
		if err := odd(s.Decode(&h)); err != nil {
			return err
		}
		found(h)
	}
	return s.End()
}

// odd is err, but for a value that is JSON and not of the kind that it should be, such as a weight
// of "NaN": it is left out, so that one odd instance, which may be anybody's, does not make the
// whole list unreadable.
func odd(err error) error {
	if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) && kind.Field != "" {
		return nil
	}
	return err
}

// envelope reads an object, after its brace, that must have field and, if it has a code, must have
// 0 there. It returns what value does.
func (s stream) envelope(field string, value func() (bool, error)) (there bool, err error) {
	seen, code := false, 0
	for err == nil && s.More() {
		var name string
		name, err = s.Name()
		switch {
		case err != nil:
		case name == field:
			seen = true
			there, err = value()
		case name == "code":
			err = s.Decode(&code)
		default:
			err = s.Skip()
		}
	}
	if err == nil {
		err = s.End()
	}
	switch {
	case code != 0:
		return there, fmt.Errorf("%w: code %d", client.ErrShape, code)
	case err == nil && !seen:
		return there, client.ErrShape
	}
	return there, err
}
