package eureka

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"prestop/registry/client"
)

// record is one instance as a server sends it. Servers of different age send different shapes:
// numbers as strings, one object where there should be a list, overriddenstatus for
// overriddenStatus (Netflix/eureka#1051; encoding/json compares keys without case), no instanceId
// (then it is the host name). Nothing that is merely odd fails the whole list.
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

// registered is when the app said something of itself last, by its own clock; zero when it is not
// told.
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

// readList reads the answer of GET apps, apps/delta and apps/{APP} as a stream and calls each with
// every instance in it. It holds one instance at a time, whatever the length of the list.
func readList(r io.Reader, each func(record)) error {
	return list{client.ReadValues(r), each}.document()
}

// list reads a list of instances. Each of its methods takes one value, or what is left of it.
type list struct {
	*client.Values
	each func(record)
}

// document is {"applications": {"application": …}} or {"application": …}.
func (l list) document() error {
	if there, err := l.Enter('{'); !there {
		return cmp.Or(err, error(client.ErrShape))
	}
	known := false
	for l.More() {
		name, err := l.Name()
		switch {
		case err != nil:
		case name == "applications":
			known = true
			err = l.applications()
		case name == "application":
			known = true
			err = l.application()
		default:
			err = l.Skip()
		}
		if err != nil {
			return err
		}
	}
	if err := l.End(); err != nil || known {
		return err
	}
	return client.ErrShape
}

// begin takes the beginning of an object or of a list. XML-born JSON has "" for an empty one.
func (l list) begin() (json.Delim, error) {
	t, err := l.Token()
	d, ok := t.(json.Delim)
	if err == nil && !ok && t != nil && t != "" {
		err = client.ErrShape
	}
	return d, err
}

// applications is an object with the applications in it.
func (l list) applications() error {
	d, err := l.begin()
	if err != nil || d == 0 {
		return err
	}
	for l.More() {
		if d == '[' { // no Eureka sends one here
			err = l.Skip()
		} else {
			err = l.only("application")
		}
		if err != nil {
			return err
		}
	}
	return l.End()
}

// only takes the next field of an object: the application or the instances that it names, or else
// it is skipped.
func (l list) only(wanted string) error {
	name, err := l.Name()
	switch {
	case err != nil:
		return err
	case name != wanted:
		return l.Skip()
	case name == "application":
		return l.application()
	}
	return l.instances()
}

// application is one application or a list of them.
func (l list) application() error {
	d, err := l.begin()
	if err != nil || d == 0 {
		return err
	}
	if d == '{' {
		return l.inside()
	}
	for l.More() {
		if d, err := l.begin(); err != nil || d != '{' {
			return cmp.Or(err, error(client.ErrShape))
		}
		if err := l.inside(); err != nil {
			return err
		}
	}
	return l.End()
}

// inside is what follows the brace of an application.
func (l list) inside() error {
	for l.More() {
		if err := l.only("instance"); err != nil {
			return err
		}
	}
	return l.End()
}

// instances is one instance or a list of them.
func (l list) instances() error {
	d, err := l.begin()
	if err != nil || d == 0 {
		return err
	}
	if d == '{' {
		return l.single()
	}
	for l.More() {
		var r record
		err := l.Decode(&r)
		if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) && kind.Field != "" {
			continue // one odd instance does not make the whole list unreadable
		}
		if err != nil {
			return err
		}
		l.found(r)
	}
	return l.End()
}

// single is what follows the brace of an instance that is no element of a list. It is taken field
// by field, which is slower.
func (l list) single() error {
	raw := map[string]json.RawMessage{}
	for l.More() {
		name, err := l.Name()
		var v json.RawMessage
		if err == nil {
			err = l.Decode(&v)
		}
		if err != nil {
			return err
		}
		raw[name] = v
	}
	if err := l.End(); err != nil {
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

func (l list) found(r record) {
	if r.id() != "" && r.App != "" {
		l.each(r)
	}
}
