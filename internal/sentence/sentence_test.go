package sentence

import "testing"

func TestErrorsAreSaidInPlainWords(t *testing.T) {
	for text, want := range map[string]string{
		"dial tcp 127.0.0.1:1: connect: connection refused":                                                  "connection refused by 127.0.0.1:1",
		"ask at http://e: context deadline exceeded, last: dial tcp [::1]:8761: connect: connection refused": "ask at http://e: tried until the time was over: connection refused by [::1]:8761",
		"read tcp 10.0.0.1:45678->10.0.0.2:8848: read: connection reset by peer":                             "connection reset by peer (10.0.0.2:8848)",
		"dial tcp: lookup eureka on 10.96.0.10:53: no such host":                                             "no host is called eureka",
		"dial tcp 10.0.0.2:8848: i/o timeout":                                                                "no answer from 10.0.0.2:8848",
		"context deadline exceeded":                                                                          "no answer in time",
		"the answer is not JSON: invalid character 'h' looking for beginning of value":                       "the answer is not JSON",
		"status 503: starting": "status 503: starting",
		"":                     "",
	} {
		if got := Text(text); got != want {
			t.Errorf("%q is said as %q; want %q", text, got, want)
		}
	}
}
