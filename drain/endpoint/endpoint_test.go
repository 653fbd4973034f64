package endpoint

import (
	"net/http"
	"strings"
	"testing"
)

func TestParseReadsEveryForm(t *testing.T) {
	for text, want := range map[string]struct{ socket, url, shown string }{
		"http://127.0.0.1:9001/stats?filter=x":                 {"", "http://127.0.0.1:9001/stats?filter=x", "http://127.0.0.1:9001/stats"},
		"https://[::1]:9001":                                   {"", "https://[::1]:9001", "https://[::1]:9001"},
		"http://me:secret@localhost/a":                         {"", "http://me:secret@localhost/a", "http://me:xxxxx@localhost/a"},
		"unix:///admin/admin.sock:/stats/prometheus":           {"/admin/admin.sock", "http://localhost/stats/prometheus", "unix:///admin/admin.sock:/stats/prometheus"},
		"unix:///a:b/c.sock:/d:/e?f":                           {"/a:b/c.sock", "http://localhost/d:/e?f", "unix:///a:b/c.sock:/d:/e"},
		"unix:///a.sock:/":                                     {"/a.sock", "http://localhost/", "unix:///a.sock:/"},
		"http+unix://%2Fadmin%2Fadmin.sock/healthcheck/fail?x": {"/admin/admin.sock", "http://localhost/healthcheck/fail?x", "unix:///admin/admin.sock:/healthcheck/fail"},
		"http+unix://%2Fa.sock":                                {"/a.sock", "http://localhost/", "unix:///a.sock:/"},
	} {
		e, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		r, err := e.Request(t.Context(), http.MethodPost)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if e.socket != want.socket || r.URL.String() != want.url || e.String() != want.shown || r.Method != http.MethodPost {
			t.Errorf("%s: socket %s, %s %s, shown as %s", text, e.socket, r.Method, r.URL, e)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "/stats", "localhost:9001/stats", "http://", "http:///stats", "ftp://a/b", "http://a:b:c/", "http://me:secret%zz@host/",
		"unix:///admin/admin.sock", "unix://admin.sock:/stats", "unix://:/stats", "http+unix:///stats", "http+unix://%2/stats", "http+unix://admin.sock/stats",
	} {
		if e, err := Parse(text); err == nil {
			t.Errorf("%q is taken for %s", text, e)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is told: %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"http://a/b", "unix:///a:/b", "http+unix://%2Fa/b", "unix://", "http+unix://%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		if _, err := e.Request(t.Context(), http.MethodGet); err != nil {
			t.Errorf("%q is taken, but cannot be called: %v", text, err)
		}
	})
}
