package registry

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"prestop/internal/sentence"
)

// Error is a call to a registry that failed: what was attempted, where, and what to do about it.
type Error struct {
	// Op is what was attempted, e.g. "set OUT_OF_SERVICE on ORDERS/orders-0:8080".
	Op string
	// URL is the server's address without userinfo.
	URL string
	// Code is the HTTP status, 0 when there was none.
	Code int
	// Remedy is what the operator can do, "" when nothing is known.
	Remedy string
	// Final: trying the same again cannot help (401, 403, 410, a certificate that is not trusted).
	Final bool
	// Unsent: the call was certainly not carried out: no connection came to be, or the server said
	// that it did not take it.
	Unsent bool
	// Err is the cause; may be nil when Code says it all.
	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s: ", e.Op, e.URL)
	switch {
	case e.Err != nil && e.Code != 0:
		fmt.Fprintf(&b, "status %d: %s", e.Code, sentence.Of(e.Err))
	case e.Err != nil:
		b.WriteString(sentence.Of(e.Err))
	default:
		fmt.Fprintf(&b, "status %d", e.Code)
	}
	if e.Remedy != "" {
		fmt.Fprintf(&b, " (%s)", e.Remedy)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// IsFinal reports whether every failure in err is one that trying again cannot change. False for
// nil.
func IsFinal(err error) bool {
	switch e := err.(type) {
	case *Error:
		return e.Final
	case interface{ Unwrap() error }:
		return IsFinal(e.Unwrap())
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !IsFinal(err) })
	}
	return false
}

// Redact returns the address of u without userinfo, query and fragment, the form in which a URL may
// be shown.
func Redact(u *url.URL) string {
	v := *u
	v.User, v.RawQuery, v.Fragment = nil, "", ""
	return v.String()
}
