package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// valueLimit bounds how much of an answer may be read without a value in it ending: some
	// hundred times a real instance.
	valueLimit = 1 << 20
	// depthLimit bounds how deep a value that is skipped may nest.
	depthLimit = 64
)

// ErrShape is the cause when an answer is not JSON, ends too early, or has a value in it that is
// larger than any real one.
var ErrShape = errors.New("the answer is not the JSON of this registry")

// Values reads the JSON of a large answer value by value, and holds no more than one. Its errors
// are ErrShape, wrapped, or the reader's own.
type Values struct {
	dec  *json.Decoder
	from *metered
}

// ReadValues returns the Values in r.
func ReadValues(r io.Reader) *Values {
	m := &metered{r: r}
	return &Values{json.NewDecoder(m), m}
}

// Token is the next token: a delimiter, a name or a scalar.
func (v *Values) Token() (json.Token, error) {
	v.from.left = valueLimit
	t, err := v.dec.Token()
	return t, v.cause(err)
}

// Decode takes the next value whole.
func (v *Values) Decode(to any) error {
	v.from.left = valueLimit
	return v.cause(v.dec.Decode(to))
}

// Begin takes the beginning of the next value, which is an object ('{'), a list ('[') or null (0).
// Anything else is ErrShape.
func (v *Values) Begin() (json.Delim, error) {
	t, err := v.Token()
	d, _ := t.(json.Delim)
	if err == nil && t != nil && d == 0 {
		err = ErrShape
	}
	return d, err
}

// Enter takes the beginning of the next value, which is there unless the value is null. A value
// that begins otherwise is ErrShape.
func (v *Values) Enter(begin json.Delim) (there bool, err error) {
	d, err := v.Begin()
	if err == nil && d != 0 && d != begin {
		err = ErrShape
	}
	return err == nil && d != 0, err
}

// More reports whether the object or list whose beginning was taken has another field or element.
// Where it has not, or reading has failed, End follows.
func (v *Values) More() bool {
	v.from.left = valueLimit
	return v.dec.More()
}

// Name takes the name of the next field of an object. Its value comes next.
func (v *Values) Name() (string, error) {
	t, err := v.Token()
	name, _ := t.(string)
	return name, err
}

// End takes the end of an object or a list.
func (v *Values) End() error {
	_, err := v.Token()
	return err
}

// Skip takes the next value, of any size, token by token.
func (v *Values) Skip() error {
	for depth := 0; ; {
		t, err := v.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		switch {
		case depth == 0:
			return nil
		case depth > depthLimit:
			return fmt.Errorf("%w: it nests deeper than %d", ErrShape, depthLimit)
		}
	}
}

// cause tells how reading failed, when the reader did; anything else is the answer's.
func (v *Values) cause(err error) error {
	switch {
	case err == nil:
		return nil
	case v.from.err != nil && v.from.err != io.EOF:
		return v.from.err
	}
	return fmt.Errorf("%w: %w", ErrShape, err)
}

// metered fails once left bytes have been read without left being set again: else one endless
// string would be held whole.
type metered struct {
	r    io.Reader
	left int
	err  error
}

var errLarge = fmt.Errorf("one value in it is larger than %d bytes", valueLimit)

func (m *metered) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errLarge
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	if err != nil {
		m.err = err
	}
	return n, err
}
