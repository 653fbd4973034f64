package nacos

import (
	"bytes"
	"encoding/json"
	"html"
	"net/http"
	"slices"
	"strings"

	"prestop/registry/client"
)

// verdict is what an answer means. The code alone does not tell: Nacos 2.x answers 500 for an
// instance that is absent, 3.x can answer 200 with nothing in it when a filter has failed, and 400
// is what a node says for a moment when its peer died.
type verdict int

const (
	// done: what was asked for was done, or is in the body.
	done verdict = iota
	// absent: no such instance, cluster or service.
	absent
	// otherGeneration: this server does not speak this API (any more).
	otherGeneration
	// refused: a login, or more rights, are wanted.
	refused
	// rejected: the server does not want this request, now or ever.
	rejected
	// sick: trying again may help.
	sick
)

// absences are in the message of every generation's "not found". 1.4 says "instance not found" and
// "service not found" with 400, 2.x the others with 500 or 404 (it depends on how the server was
// packaged), 3.x with 404.
var absences = []string{
	"no matched ip found",
	"no ips found for cluster",
	"instance not found",
	"service not found",
	"is not found!", // "service g@@s is not found!", "cluster C is not found!"
}

// absenceCodes are those of 2.x and 3.x: resource, instance, service not found.
var absenceCodes = []int{20004, 21003, 21008}

// noSuchPath is in a 3.x's answer where it does not have the path: 404, or 500 where another
// handler of errors comes first (nacos#13269, nacos#13898).
const noSuchPath = "No static resource"

// transient400 is in a node's 400 that passes: another node has just died.
const transient400 = "receive invalid redirect request from peer"

// judge says what an answer means; wholeBody is false when a 200's body was read as a stream, and
// judged there.
func judge(a client.Answer, wholeBody bool) verdict {
	body := a.Body
	switch {
	case (a.Code == http.StatusNotFound || a.Code == http.StatusForbidden) && proxys(body):
		return sick
	case a.Code == http.StatusOK && !wholeBody:
		return done
	case a.Code == http.StatusOK:
		return judgeOK(body)
	case a.Code == http.StatusUnauthorized || a.Code == http.StatusForbidden:
		return refused
	case a.Code == http.StatusGone || a.Code == http.StatusNotImplemented || a.Code == http.StatusMethodNotAllowed:
		return otherGeneration
	case a.Code == http.StatusNotFound && saysAbsent(body):
		return absent
	case a.Code == http.StatusNotFound:
		return otherGeneration
	case client.Transient(a.Code) && a.Code < 500:
		return sick
	case a.Code >= 500 && saysAbsent(body):
		return absent
	case a.Code >= 500 && bytes.Contains(body, []byte(noSuchPath)):
		return otherGeneration
	case a.Code >= 500:
		return sick
	case a.Code == http.StatusBadRequest && saysAbsent(body):
		return absent
	case a.Code == http.StatusBadRequest && bytes.Contains(body, []byte(transient400)):
		return sick
	}
	return rejected
}

// proxys reports whether a page is one that a proxy answered in the server's place: Nacos' own
// pages are Spring's and Tomcat's.
func proxys(body []byte) bool {
	body = bytes.TrimSpace(body)
	return bytes.HasPrefix(body, []byte("<")) && !bytes.Contains(body, []byte("Whitelabel Error Page")) &&
		!bytes.Contains(body, []byte("HTTP Status "))
}

// judgeOK tells a 200 that means it from one that a proxy or a failed filter has made.
func judgeOK(body []byte) verdict {
	body = bytes.TrimSpace(body)
	if string(body) == "ok" {
		return done
	}
	var e envelope
	if json.Unmarshal(body, &e) != nil || e.Code == nil {
		return sick
	}
	switch {
	case *e.Code == 0:
		return done
	case slices.Contains(absenceCodes, *e.Code):
		return absent
	}
	return sick
}

// envelope is around every answer of the v2 and v3 APIs.
type envelope struct {
	Code *int `json:"code"`
}

func saysAbsent(body []byte) bool {
	var e envelope
	if json.Unmarshal(body, &e) == nil && e.Code != nil && slices.Contains(absenceCodes, *e.Code) {
		return true
	}
	text := html.UnescapeString(string(body))
	return slices.ContainsFunc(absences, func(s string) bool { return strings.Contains(text, s) })
}
