package scrape

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file reads Prometheus' text format, version 0.0.4, line by line in constant memory. Prometheus' own parser would
// do, for 1.7 MB in every Pod; the tests compare with it. Where the two differ, this one is the stricter: half a line, a
// login page or an old format must not read as a count of zero.

// lineBuffer is the longest line that is read.
const lineBuffer = 64 << 10

// series is one sample of an exposition; it points into the line that it was parsed from.
type series struct {
	name   []byte
	labels []label
	value  float64
}

type label struct{ name, value []byte }

// get returns the label's value, which is empty where there is none, as in Prometheus' own selectors.
func (s *series) get(name string) []byte {
	for _, l := range s.labels {
		if string(l.name) == name {
			return l.value
		}
	}
	return nil
}

// readExposition calls each for every sample. What each gets is valid until it returns. The error says in which line.
func readExposition(r *bufio.Reader, each func(*series) error) error {
	var s series
	for number := 1; ; number++ {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			err = errors.New("the text ends within it")
		case errors.Is(err, bufio.ErrBufferFull):
			err = fmt.Errorf("it is longer than %d bytes", r.Size())
		case err == nil:
			line = bytes.TrimLeft(line[:len(line)-1], " \t")
			if len(line) == 0 || line[0] == '#' {
				continue
			}
			if err = s.parse(line); err == nil {
				err = each(&s)
			}
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
}

// parse reads: name [ { label="value" , … } ] value [ timestamp ].
func (s *series) parse(line []byte) error {
	s.labels = s.labels[:0]
	var rest []byte
	if s.name, rest = word(line, ":"); len(s.name) == 0 {
		return errors.New("it does not begin with the name of a metric")
	}
	after := blank(rest)
	switch {
	case len(after) > 0 && after[0] == '{':
		var err error
		if after, err = s.parseLabels(after[1:]); err != nil {
			return err
		}
	case len(after) == len(rest):
		return errors.New("a blank is missing after the name")
	}
	value, timestamp, more := bytes.Cut(after, []byte(" "))
	if i := bytes.IndexByte(after, '\t'); i >= 0 && i < len(value) {
		value, timestamp, more = after[:i], after[i+1:], true
	}
	var err error
	// Go reads more than the format has: 0x1p-2, 1_000.
	if s.value, err = strconv.ParseFloat(string(value), 64); err != nil || bytes.ContainsAny(value, "pP_") {
		return errors.New("it has no value that is a number")
	}
	if !more {
		return nil
	}
	if _, err := strconv.ParseInt(string(blank(timestamp)), 10, 64); err != nil {
		return errors.New("its timestamp is none")
	}
	return nil
}

// parseLabels reads the labels and the brace behind them, and returns what follows.
func (s *series) parseLabels(b []byte) ([]byte, error) {
	for {
		b = blank(b)
		if len(b) > 0 && b[0] == '}' {
			return blank(b[1:]), nil
		}
		var l label
		if l.name, b = word(b, ""); len(l.name) == 0 {
			return nil, errors.New("a label has no name")
		}
		if string(l.name) == "__name__" {
			return nil, errors.New("the label __name__ is reserved")
		}
		for _, other := range s.labels {
			if bytes.Equal(other.name, l.name) {
				return nil, fmt.Errorf("it has the label %s twice", l.name)
			}
		}
		equals, ok := bytes.CutPrefix(blank(b), []byte("="))
		quoted, ok2 := bytes.CutPrefix(blank(equals), []byte(`"`))
		if !ok || !ok2 {
			return nil, fmt.Errorf("the label %s has no quoted value", l.name)
		}
		var err error
		if l.value, b, err = quotedValue(quoted); err != nil {
			return nil, fmt.Errorf("the label %s %w", l.name, err)
		}
		s.labels = append(s.labels, l)
		b = blank(b)
		switch {
		case len(b) > 0 && b[0] == ',':
			b = b[1:]
		case len(b) == 0 || b[0] != '}':
			return nil, fmt.Errorf("the labels do not end after %s", l.name)
		}
	}
}

// quotedValue reads up to the closing quote and returns what follows.
func quotedValue(b []byte) (value, rest []byte, err error) {
	end := 0
	for end < len(b) && b[end] != '"' {
		if b[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(b) {
		return nil, nil, errors.New("is not closed")
	}
	value, rest = b[:end], b[end+1:]
	if !utf8.Valid(value) {
		return nil, nil, errors.New("is not UTF-8")
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value, rest, nil
	}
	plain := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' {
			plain = append(plain, value[i])
			continue
		}
		i++
		at := strings.IndexByte(`\"n`, value[i])
		if at < 0 {
			return nil, nil, errors.New("has an escape that is none")
		}
		plain = append(plain, "\\\"\n"[at])
	}
	return plain, rest, nil
}

// word cuts off a name of letters, digits and underscores, and of the characters of also, that does not begin with a digit.
func word(b []byte, also string) (name, rest []byte) {
	n := 0
	for n < len(b) && (b[n] == '_' || b[n]|0x20 >= 'a' && b[n]|0x20 <= 'z' || n > 0 && b[n] >= '0' && b[n] <= '9' || strings.IndexByte(also, b[n]) >= 0) {
		n++
	}
	return b[:n], b[n:]
}

func blank(b []byte) []byte { return bytes.TrimLeft(b, " \t") }
