package main

import "regexp"

// plainWords are how errors of Go's library are said to a person, the longest first.
var plainWords = []struct {
	match *regexp.Regexp
	said  string
}{
	{regexp.MustCompile(`(?:dial|read|write) tcp(?:4|6)? (?:\S+->)?(\S+): (?:connect|read|write): connection refused`), "connection refused by $1"},
	{regexp.MustCompile(`(?:dial|read|write) tcp(?:4|6)? (?:\S+->)?(\S+): (?:connect|read|write): (connection reset by peer|no route to host|network is unreachable)`), "$2 ($1)"},
	{regexp.MustCompile(`(?:dial|read|write) tcp(?:4|6)? (?:\S+->)?(\S+): i/o timeout`), "no answer from $1"},
	{regexp.MustCompile(`dial tcp(?:4|6)?: lookup (\S+)(?: on \S+)?: no such host`), "no host is called $1"},
	{regexp.MustCompile(`dial tcp(?:4|6)?: lookup (\S+)(?: on \S+)?: [^;,]*`), "the name $1 cannot be looked up"},
	{regexp.MustCompile(`context deadline exceeded, last: `), "tried until the time was over: "},
	{regexp.MustCompile(`context deadline exceeded(?: \(Client\.Timeout[^)]*\))?`), "no answer in time"},
	{regexp.MustCompile(`invalid character \S+ (?:looking for|after|in) [^;,]*`), "it is not JSON"},
	{regexp.MustCompile(`unexpected end of JSON input|unexpected EOF`), "it ends too early"},
	{regexp.MustCompile(`^EOF$`), "the connection was closed without an answer"},
}

// sentence says an error of Go's library in plain words; other text stays as it is.
func sentence(text string) string {
	for _, w := range plainWords {
		text = w.match.ReplaceAllString(text, w.said)
	}
	return text
}
