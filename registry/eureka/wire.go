package eureka

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"prestop/registry/client"
)

// record is one instance as a server sends it. Servers of different age send different shapes: numbers as strings, one
// object where there should be a list, overriddenstatus for overriddenStatus (Netflix/eureka#1051; encoding/json compares
// keys without case), no instanceId (then it is the host name). Nothing that is merely odd fails the whole list.
type record struct {
	ID         text `json:"instanceId"`
	App        text `json:"app"`
	Host       text `json:"hostName"`
	IP         text `json:"ipAddr"`
	Status     text `json:"status"`
	Override   text `json:"overriddenStatus"`
	Port       port `json:"port"`
	SecurePort port `json:"securePort"`
	Action     text `json:"actionType"`
	Dirty      text `json:"lastDirtyTimestamp"` // milliseconds

	// Own: it is OUT_OF_SERVICE by the app's own word.
	Own bool `json:"-"`
}

// overridden reports whether the server tells that an override is stored.
func (r record) overridden() bool { return r.Override != "" && r.Override != "UNKNOWN" }

// registered is when the app said something of itself last, by its own clock; zero when it is not told.
func (r record) registered() time.Time {
	ms, err := strconv.ParseInt(string(r.Dirty), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// id is what the record is known by.
func (r record) id() string {
	if r.ID == "" {
		return string(r.Host)
	}
	return string(r.ID)
}

// text is a JSON scalar as a string; "" for what is none.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) == 0 || b[0] == '{' || b[0] == '[' || string(b) == "null":
		*t = ""
	case b[0] == '"':
		return json.Unmarshal(b, (*string)(t))
	default:
		*t = text(b)
	}
	return nil
}

// port is an enabled port; 0 when it is disabled.
type port uint16

func (p *port) UnmarshalJSON(b []byte) error {
	var v struct {
		Number  text  `json:"$"`
		Enabled *text `json:"@enabled"`
	}
	*p = 0
	if b[0] == '{' {
		if err := json.Unmarshal(b, &v); err != nil {
			return err
		}
	} else if err := v.Number.UnmarshalJSON(b); err != nil {
		return err
	}
	if v.Enabled != nil && !strings.EqualFold(string(*v.Enabled), "true") {
		return nil
	}
	// What is no port leaves 0, which matches nothing.
	if n, err := strconv.ParseUint(string(v.Number), 10, 16); err == nil {
		*p = port(n)
	}
	return nil
}

// readInstance reads the answer of GET apps/{APP}/{id} and instances/{id}.
func readInstance(body []byte) (record, error) {
	var v struct {
		Instance *record `json:"instance"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return record{}, fmt.Errorf("%w: %w", client.ErrShape, err)
	}
	if v.Instance == nil || v.Instance.id() == "" || v.Instance.App == "" {
		return record{}, client.ErrShape
	}
	return *v.Instance, nil
}

// readList reads the answer of GET apps, apps/delta and apps/{APP} as a stream and calls each with every instance in it.
// It holds one instance at a time, whatever the length of the list.
func readList(r io.Reader, each func(record)) error { return newList(r, each).document() }

type list struct {
	*client.Values
	each func(record)
}

// newList is not inlined, so that the list and what it holds lie on the heap: go1.26.8 does not see pointers into the stack
// that method values hold when it moves the stack.
//
//go:noinline
func newList(r io.Reader, each func(record)) *list { return &list{client.ReadValues(r), each} }

// document is {"applications": {"application": …}} or {"application": …}.
func (l *list) document() error {
	known := false
	err := l.object(func() error {
		return l.Fields(func(key string) error {
			switch key {
			case "applications":
				known = true
				return l.oneOrMany(l.applications, l.Skip)
			case "application":
				known = true
				return l.oneOrMany(l.application, l.Skip)
			}
			return l.Skip()
		})
	})()
	if err == nil && !known {
		return client.ErrShape
	}
	return err
}

// applications is the inside of the whole list.
func (l *list) applications() error {
	return l.Fields(func(key string) error {
		if key != "application" {
			return l.Skip()
		}
		return l.oneOrMany(l.application, l.object(l.application))
	})
}

// application is the inside of one.
func (l *list) application() error {
	return l.Fields(func(key string) error {
		if key != "instance" {
			return l.Skip()
		}
		return l.oneOrMany(l.single, func() error {
			var r record
			err := l.Decode(&r)
			if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) && kind.Field != "" {
				return nil // one odd instance does not make the whole list unreadable
			}
			l.found(r)
			return err
		})
	})
}

// single is the inside of an instance that is no element of a list. Its beginning has been consumed, so that it is taken
// field by field, which is slower.
func (l *list) single() error {
	raw := map[string]json.RawMessage{}
	err := l.Fields(func(key string) error {
		var v json.RawMessage
		err := l.Decode(&v)
		raw[key] = v
		return err
	})
	if err != nil {
		return err
	}
	whole, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	var r record
	err = json.Unmarshal(whole, &r)
	l.found(r)
	return err
}

func (l *list) found(r record) {
	if r.id() != "" && r.App != "" {
		l.each(r)
	}
}

// object takes an object, of which inside takes the inside.
func (l *list) object(inside func() error) func() error {
	return func() error {
		t, err := l.Token()
		if err != nil {
			return err
		}
		if t != json.Delim('{') {
			return client.ErrShape
		}
		return inside()
	}
}

// oneOrMany takes an object, of which inside takes the inside, or a list, of which element takes each one, or null.
func (l *list) oneOrMany(inside, element func() error) error {
	t, err := l.Token()
	switch {
	case err != nil:
		return err
	case t == nil || t == "": // an empty list, as some XML-born JSON has it
		return nil
	case t == json.Delim('{'):
		return inside()
	case t != json.Delim('['):
		return client.ErrShape
	}
	return l.Elements(element)
}
