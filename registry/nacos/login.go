package nacos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

// loginPatience is how long a refused login is tried again: a server that has just started refuses
// right ones for seconds.
const loginPatience = 6 * time.Second

// login holds the token of the last login. A token is only asked for when a server has refused a
// call, and again when it refuses the token: its lifetime as told can be a date instead of a
// duration, and it ends early when the server's key changes. Safe for concurrent use.
type login struct {
	username string
	password func() (string, error)

	mu    sync.Mutex // held during a login, so that parallel calls share it
	token string
	vain  bool // the last login was refused after loginPatience
}

// header returns the header that shows the token, and the token; both empty without one. The query
// would work too, but servers write it to their access log.
func (l *login) header() (http.Header, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == "" {
		return http.Header{}, ""
	}
	return http.Header{"Authorization": {"Bearer " + l.token}}, l.token
}

// renew logs in unless another call has done so since used was refused. Paths are tried in turn.
func (l *login) renew(ctx context.Context, h *client.Client, addrs []*url.URL, used string, paths ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != used {
		return nil
	}
	l.token = ""
	var password string
	if l.password != nil {
		var err error
		if password, err = l.password(); err != nil {
			return l.failed(addrs[0], 0, fmt.Errorf("read the password: %w", err))
		}
	}
	deadline := time.Now().Add(loginPatience)
	if l.vain {
		deadline = time.Time{} // it has been given its time
	}
	var last client.Answer
	for _, path := range paths {
		call := client.Call{
			Op: "log in", Method: http.MethodPost, Path: path,
			Form: url.Values{"username": {l.username}, "password": {password}},
			Retry: func(a client.Answer) bool {
				return accessToken(a) == "" && !unknownPath(a) && time.Now().Before(deadline)
			},
		}
		a, err := h.Do(ctx, addrs, call)
		if a.Code == http.StatusUnauthorized || a.Code == http.StatusForbidden {
			err = nil // the time ended before the patience, with the same answer
		}
		if err != nil {
			return err
		}
		if l.token = accessToken(a); l.token != "" {
			l.vain = false
			return nil
		}
		last = a
		if !unknownPath(a) {
			break
		}
	}
	l.vain = true
	return l.failed(addrs[0], last.Code, errors.New("the login was refused"))
}

// failed is the error of a login that no retry helps. It never holds the answer: a server may send
// back what it was sent.
func (l *login) failed(addr *url.URL, code int, cause error) error {
	return &registry.Error{
		Op: "log in", URL: registry.Redact(addr), Code: code, Final: true, Err: cause,
		Remedy: "check --nacos-username and --nacos-password or --nacos-password-file",
	}
}

// accessToken is the token in an answer to a login, "" if it failed: a wrong password is answered
// 403 by some servers and 500 by others, and a page by a proxy 200.
func accessToken(a client.Answer) string {
	var t struct {
		AccessToken string `json:"accessToken"`
		Data        struct {
			AccessToken string `json:"accessToken"`
		} `json:"data"`
	}
	if a.Code != http.StatusOK || json.Unmarshal(a.Body, &t) != nil {
		return ""
	}
	token := t.AccessToken
	if token == "" {
		token = t.Data.AccessToken
	}
	if strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "" // it could not be sent back
	}
	return token
}

func unknownPath(a client.Answer) bool {
	switch a.Code {
	case http.StatusNotFound, http.StatusGone, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return a.Code >= 500 && bytes.Contains(a.Body, []byte(noSuchPath))
}
