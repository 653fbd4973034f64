package client

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"
)

// errTooLarge is the cause when a body goes past its bound.
var errTooLarge = errors.New("the answer is larger than any real one")

// Answer is a complete answer of a server.
type Answer struct {
	// URL is the address that answered, redacted.
	URL    string
	Code   int
	Header http.Header
	Body   []byte
}

// Transient reports whether a status is one that may pass: 408, 425, 429 and 5xx.
func Transient(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500
}

// Excerpt is the beginning of a body as one line for an error, with ": " in front; "" for an empty
// or an HTML one.
func Excerpt(body []byte) string {
	line := bytes.Join(bytes.Fields(body[:min(len(body), 400)]), []byte(" "))
	if len(line) == 0 || line[0] == '<' {
		return ""
	}
	return ": " + string(line[:min(len(line), 200)])
}

// bounded fails with errTooLarge past n bytes.
type bounded struct {
	r io.Reader
	n int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.n {
		p = p[:b.n]
	}
	n, err := b.r.Read(p)
	b.n -= int64(n)
	return n, err
}

// stream is a body that is read while it arrives. The timer cuts it when it stands still.
type stream struct {
	bounded
	timer  *time.Timer
	broken error // how the connection failed, as opposed to what it brought
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.bounded.Read(p)
	if n > 0 {
		s.timer.Reset(attemptTimeout)
	}
	if err != nil && err != io.EOF && !errors.Is(err, errTooLarge) {
		s.broken = err
	}
	return n, err
}
