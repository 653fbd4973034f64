package nacos

import (
	"encoding/json"
	"strings"
	"testing"

	"prestop/registry/client"
)

// The bodies are those of real servers; the ids, times and paths in them are shortened.
func TestAnAnswerIsJudgedByWhatItSays(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		body string
		want verdict
	}{
		"v1: done":                                  {200, "ok", done},
		"v1: done, with a newline":                  {200, "ok\n", done},
		"v3: done":                                  {200, `{"code":0,"message":"success","data":"ok"}`, done},
		"3.x: a filter failed and said nothing":     {200, "", sick},
		"a proxy's page":                            {200, "<!DOCTYPE html><html><body>It works!</body></html>", sick},
		"another service's JSON":                    {200, `{"status":"UP"}`, sick},
		"v3: 200, but a code":                       {200, `{"code":30000,"message":"server error","data":null}`, sick},
		"v2: 200, but not found":                    {200, `{"code":21003,"message":"instance not found","data":null}`, absent},
		"1.4.1: no such instance":                   {400, "caused: instance not found;", absent},
		"2.3.2: no such address":                    {500, "caused: no matched ip found!;", absent},
		"2.3.2: no instance at all":                 {500, "caused: no ips found for cluster DEFAULT in service DEFAULT_GROUP@@orders;", absent},
		"2.3.2: no such cluster":                    {500, "caused: cluster C9 is not found!;", absent},
		"2.3.2: no such service":                    {500, "caused: service DEFAULT_GROUP@@nope is not found!;", absent},
		"2.3.2: no such service, escaped":           {500, "caused: service not found, namespace: public, service: Service{namespace=&#39;public&#39;, group=&#39;DEFAULT_GROUP&#39;};", absent},
		"2.3.2 packaged otherwise: no such address": {404, "no matched ip found!", absent},
		"3.1.0: no such address":                    {404, `{"code":20004,"message":"resource not found","data":"no matched ip found!"}`, absent},
		"3.1.0: no such cluster":                    {404, `{"code":30000,"message":"server error","data":"cluster DEFAULT is not found!"}`, absent},
		"3.1.0: no such service":                    {400, `{"code":21004,"message":"instance error","data":"service not found, namespace: public"}`, absent},
		"2.3.2 asked for v3":                        {404, `{"status":404,"error":"Not Found","message":"No message available","path":"/nacos/v3/admin/core/state"}`, otherGeneration},
		"3.1.0 asked for v1":                        {410, `{"status":410,"error":"Gone","message":"{\"code\":40000,\"message\":\"Current API will be deprecated\"}"}`, otherGeneration},
		"no such api":                               {501, `{"status":501,"error":"Not Implemented","message":"no such api:GET:/nacos/v1/ns/nothing"}`, otherGeneration},
		"2.3.2: no leader":                          {500, "caused: errCode: 500, errMsg: do metadata operation failed ;caused: The Raft Group [naming_instance_metadata] did not find the Leader node;", sick},
		"2.3.2: the owner of the instance died":     {500, "java.net.SocketException: Connection reset", sick},
		"2.3.2: a node died a moment ago":           {400, "receive invalid redirect request from peer 10.0.0.3", sick},
		"the server is starting":                    {503, "server is STARTINGnow, please try again later!", sick},
		"too many requests":                         {429, "", sick},
		"2.3.2: no login":                           {403, `{"status":403,"error":"Forbidden","message":"user not found!"}`, refused},
		"a gateway wants a login":                   {401, "", refused},
		"3.1.0: a weight that it does not take":     {400, `{"code":21001,"message":"weight must be in range"}`, rejected},
		"1.4.1: a parameter that is missing":        {400, "caused: Param 'ip' is required.;", rejected},
	} {
		if got := judge(client.Answer{Code: c.code, Body: []byte(c.body)}, true); got != c.want {
			t.Errorf("%s: judged %d, want %d", name, got, c.want)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add(200, []byte("ok"))
	f.Add(200, []byte(`{"code":0}`))
	f.Add(500, []byte("caused: no matched ip found!;"))
	f.Add(404, []byte(`{"code":20004}`))
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		v := judge(client.Answer{Code: code, Body: body}, true)
		if v == done && code != 200 {
			t.Fatalf("%d %q is taken for success", code, body)
		}
		if v == absent && code < 400 && code != 200 {
			t.Fatalf("%d %q is taken for an absence", code, body)
		}
		versionIn(ok(body))
		if token := accessToken(ok(body)); strings.ContainsAny(token, " \r\n\x00") {
			t.Fatalf("%q cannot be sent in a header", token)
		}
	})
}

// ok is an answer with that body.
func ok(body []byte) client.Answer { return client.Answer{Code: 200, Body: body} }

// Some answers were published by the users of those servers, word for word; the others are made up
// after what their source does, and are no recordings. The origin of each says which.
func TestAnswersOfVersionsThatDoNotRunHereAreJudged(t *testing.T) {
	var answers []struct {
		Version, Origin, Request, Body, Means string
		Code                                  int
	}
	if err := json.NewDecoder(golden(t, "published")).Decode(&answers); err != nil {
		t.Fatal(err)
	}
	means := map[string]verdict{"absent": absent, "other generation": otherGeneration, "refused": refused, "sick": sick}
	for _, a := range answers {
		want, ok := means[a.Means]
		if got := judge(client.Answer{Code: a.Code, Body: []byte(a.Body)}, true); got != want || !ok {
			t.Errorf("%s, %s (%s): judged %d, want %s", a.Version, a.Request, a.Origin, got, a.Means)
		}
	}
}
