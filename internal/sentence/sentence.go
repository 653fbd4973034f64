// Package sentence says errors of Go's library in plain words: what happened, and to what.
package sentence

import "regexp"

// words are how errors of Go's library are said to a person, the longest first.
var words = []struct {
	match *regexp.Regexp
	said  string
}{
	{regexp.MustCompile(`(?:dial|read|write) tcp(?:4|6)? (?:\S+->)?(\S+): (?:connect|read|write): connection refused`), "connection refused by $1"},
	{regexp.MustCompile(`(?:dial|read|write) tcp(?:4|6)? (?:\S+->)?(\S+): (?:connect|read|write): (connection reset by peer|no route to host|network is unreachable)`), "$2 ($1)"},
	{regexp.MustCompile(`(?:dial|read|write) tcp(?:4|6)? (?:\S+->)?(\S+): i/o timeout`), "no answer from $1"},
	{regexp.MustCompile(`dial tcp(?:4|6)?: lookup (\S+)(?: on \S+)?: no such host`), "no host is called $1"},
	{regexp.MustCompile(`dial tcp(?:4|6)?: lookup (\S+)(?: on \S+)?: [^;,]*`), "the name $1 cannot be looked up"},
	{regexp.MustCompile(`context deadline exceeded, last: `), "tried until the time was over: "},
	{regexp.MustCompile(`context canceled, last: `), "tried until it was given up: "},
	{regexp.MustCompile(`context deadline exceeded(?: \(Client\.Timeout[^)]*\))?`), "no answer in time"},
	{regexp.MustCompile(`not JSON: invalid character \S+ (?:looking for|after|in) [^;,]*`), "not JSON"},
	{regexp.MustCompile(`invalid character \S+ (?:looking for|after|in) [^;,]*`), "it is not JSON"},
	{regexp.MustCompile(`unexpected end of JSON input|unexpected EOF`), "it ends too early"},
	{regexp.MustCompile(`^EOF$`), "the connection was closed without an answer"},
}

// Text returns an error's text in plain words. What is no error of Go's library stays as it is.
func Text(text string) string {
	for _, w := range words {
		text = w.match.ReplaceAllString(text, w.said)
	}
	return text
}

// Of is Text of an error; "" of nil.
func Of(err error) string {
	if err == nil {
		return ""
	}
	return Text(err.Error())
}
