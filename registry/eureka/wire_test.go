package eureka

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"prestop/registry/client"
)

func TestInstancesAreReadInTheShapesThatServersSend(t *testing.T) {
	plain := record{ID: "o:1", App: "ORDERS", Host: "h", IP: "10.0.0.1", Status: "UP", Override: "UNKNOWN", Port: 8080}
	for name, c := range map[string]struct {
		json string
		want record
	}{
		"as today": {`"instanceId":"o:1","app":"ORDERS","hostName":"h","ipAddr":"10.0.0.1","status":"UP","overriddenStatus":"UNKNOWN",
			"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"metadata":{"@class":"java.util.Collections$EmptyMap"}`, plain},
		"a port as a string, the old name of the override": {`"instanceId":"o:1","app":"ORDERS","hostName":"h","ipAddr":"10.0.0.1","status":"UP","overriddenstatus":"UNKNOWN",
			"port":{"$":"8080","@enabled":"true"},"securePort":{"@enabled":"false","$":"443"}`, plain},
		"enabled as a word of JSON": {`"instanceId":"o:1","app":"ORDERS","hostName":"h","ipAddr":"10.0.0.1","status":"UP","overriddenStatus":"UNKNOWN",
			"port":{"$":8080,"@enabled":true},"securePort":{"$":443,"@enabled":false}`, plain},
		"a bare port":    {`"instanceId":"o:1","app":"ORDERS","hostName":"h","ipAddr":"10.0.0.1","status":"UP","overriddenStatus":"UNKNOWN","port":8080`, plain},
		"no instance ID": {`"app":"A","hostName":"h"`, record{App: "A", Host: "h"}},
		"secure alone": {`"instanceId":"s","app":"A","port":{"$":80,"@enabled":"false"},"securePort":{"$":8443,"@enabled":"true"}`,
			record{ID: "s", App: "A", SecurePort: 8443}},
		"nonsense where there is a port": {`"instanceId":"s","app":"A","port":{"$":99999},"securePort":["x"]`, record{ID: "s", App: "A"}},
		"nonsense where there is a name": {`"instanceId":"s","app":"A","hostName":{"a":1},"ipAddr":[1],"status":null,"port":null`, record{ID: "s", App: "A"}},
		"a number for a name":            {`"instanceId":17,"app":"A"`, record{ID: "17", App: "A"}},
		"the app's time":                 {`"instanceId":"s","app":"A","lastDirtyTimestamp":"1789999990000"`, record{ID: "s", App: "A", Dirty: "1789999990000"}},
	} {
		got, err := readInstance([]byte(`{"instance":{` + c.json + `}}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s, alone:\n%s", name, diff)
		}
		listed, err := records(`{"applications":{"application":[{"name":"X","instance":[{` + c.json + `}]}]}}`)
		if err != nil || len(listed) != 1 {
			t.Errorf("%s, in a list: %+v, %v", name, listed, err)
		} else if diff := cmp.Diff(c.want, listed[0]); diff != "" {
			t.Errorf("%s, in a list:\n%s", name, diff)
		}
	}
}

func records(body string) (all []record, err error) {
	err = readList(strings.NewReader(body), func(r record) { all = append(all, r) })
	return all, err
}

func TestListsAreReadInTheShapesThatServersSend(t *testing.T) {
	const a, b = `{"instanceId":"a","app":"A"}`, `{"app":"B","instanceId":"b"}`
	for name, c := range map[string]struct{ json, want string }{
		"nothing registered":               {`{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}`, ""},
		"no list at all":                   {`{"applications":{"versions__delta":"1","apps__hashcode":""}}`, ""},
		"null for an empty list":           {`{"applications":{"application":null}}`, ""},
		"a string for an empty list":       {`{"applications":""}`, ""},
		"lists":                            {`{"applications":{"application":[{"name":"A","instance":[` + a + `]},{"instance":[` + b + `],"name":"B"}]}}`, "a b"},
		"an object for a list of one":      {`{"applications":{"application":{"name":"A","instance":` + a + `}}}`, "a"},
		"one application":                  {`{"application":{"name":"A","instance":[` + a + `,` + b + `]}}`, "a b"},
		"one application, one instance":    {`{"application":{"instance":` + a + `}}`, "a"},
		"unknown fields of any shape":      {`{"x":[{"y":[1,{}]}],"applications":{"z":{"instance":[` + b + `]},"application":[{"q":[[]],"instance":[` + a + `]}]}}`, "a"},
		"an instance without name or host": {`{"applications":{"application":[{"instance":[{"app":"A"},{"instanceId":"x"},` + a + `]}]}}`, "a"},
	} {
		all, err := records(c.json)
		var ids []string
		for _, r := range all {
			ids = append(ids, r.id())
		}
		if got := strings.Join(ids, " "); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestWhatIsNotEurekasIsAnError(t *testing.T) {
	for _, body := range []string{"", "x", "<html></html>", "[]", "{}", `{"error":"x"}`, `{"applications":[`, `{"applications":{"application":[{"instance":[{"app":"A"`,
		`{"applications":17}`, `{"applications":{"application":[17]}}`, `{"applications":{"application":{"instance":[["x"]]}}}`, `null`,
		`{"applications":{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}}`} {
		if all, err := records(body); !errors.Is(err, client.ErrShape) {
			t.Errorf("list %.60q: %+v, %v", body, all, err)
		}
		if r, err := readInstance([]byte(body)); !errors.Is(err, client.ErrShape) {
			t.Errorf("instance %.60q: %+v, %v", body, r, err)
		}
	}
}

// The files were recorded from Spring Cloud 2025.1.2 (eureka 2.0.6), see testdata/README.md.
func TestTheRealServersAnswersAreRead(t *testing.T) {
	for file, want := range map[string]string{
		"apps.json":           "ORDERS/orders-0:orders:8080 127.0.0.1:8080 OUT_OF_SERVICE(OUT_OF_SERVICE) ADMIN/orders-0:admin:8443 10.1.2.3:8443 UP(UNKNOWN)",
		"delta.json":          "ORDERS/orders-0:orders:8080 127.0.0.1:8080 OUT_OF_SERVICE(OUT_OF_SERVICE) ADMIN/orders-0:admin:8443 10.1.2.3:8443 UP(UNKNOWN)",
		"app.json":            "ORDERS/orders-0:orders:8080 127.0.0.1:8080 OUT_OF_SERVICE(OUT_OF_SERVICE)",
		"empty.json":          "",
		"instance-out.json":   "ORDERS/orders-0:orders:8080 127.0.0.1:8080 OUT_OF_SERVICE(OUT_OF_SERVICE)",
		"instance-down.json":  "ORDERS/orders-0:orders:8080 127.0.0.1:8080 DOWN(OUT_OF_SERVICE)",
		"instance-up.json":    "ORDERS/orders-0:orders:8080 127.0.0.1:8080 UP(UNKNOWN)",
		"instance-ended.json": "ORDERS/orders-0:orders:8080 127.0.0.1:8080 UNKNOWN(UNKNOWN)",
	} {
		body, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		note := func(r record) {
			got = append(got, fmt.Sprintf("%s/%s %s:%d %s(%s)", r.App, r.id(), r.IP, r.Port+r.SecurePort, r.Status, r.Override))
		}
		if strings.HasPrefix(file, "instance") {
			r, err := readInstance(body)
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
			note(r)
		} else if err := readList(bytes.NewReader(body), note); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s:\ngot  %s\nwant %s", file, s, want)
		}
	}
}

// endless is a list of n instances as a real server sends them, made while it is read.
type endless struct {
	n, i int
	rest []byte
}

const listed = `{"instanceId":"orders-%d:orders:8080","hostName":"10.1.2.3","app":"ORDERS","ipAddr":"10.1.2.3","status":"UP","overriddenStatus":"UNKNOWN",` +
	`"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},` +
	`"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90,"registrationTimestamp":1790000000000,"lastRenewalTimestamp":1790000000000,"evictionTimestamp":0,"serviceUpTimestamp":1790000000000},` +
	`"metadata":{"management.port":"8081"},"homePageUrl":"http://10.1.2.3:8080/","statusPageUrl":"http://10.1.2.3:8081/actuator/info","healthCheckUrl":"http://10.1.2.3:8081/actuator/health",` +
	`"vipAddress":"orders","secureVipAddress":"orders","isCoordinatingDiscoveryServer":"false","lastUpdatedTimestamp":"1790000000001","lastDirtyTimestamp":"1789999990000","actionType":"ADDED"}`

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		switch {
		case e.i == 0:
			e.rest = []byte(`{"applications":{"application":[{"name":"ORDERS","instance":[`)
		case e.i <= e.n:
			e.rest = fmt.Appendf(nil, listed, e.i)
			if e.i < e.n {
				e.rest = append(e.rest, ',')
			}
		case e.i == e.n+1:
			e.rest = []byte(`]}]}}`)
		default:
			return 0, io.EOF
		}
		e.i++
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func TestALongListIsReadInConstantMemory(t *testing.T) {
	peak := func(n int) uint64 {
		var top uint64
		seen := 0
		if err := readList(&endless{n: n}, func(record) {
			if seen++; seen%(n/10) == 0 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				top = max(top, m.HeapAlloc)
			}
		}); err != nil || seen != n {
			t.Fatalf("%d of %d, %v", seen, n, err)
		}
		return top
	}
	small, large := peak(100), peak(10_000)
	if large > small+1<<20 {
		t.Errorf("100 instances take %d bytes, 10,000 take %d", small, large)
	}
}

func TestAValueWithoutAnEndIsNotHeld(t *testing.T) {
	for name, begin := range map[string]string{
		"a string":   `{"applications":{"application":[{"name":"`,
		"a key":      `{"`,
		"a port":     `{"applications":{"application":[{"instance":[{"port":{"$":"`,
		"a metadata": `{"applications":{"application":[{"instance":[{"metadata":{"x":"`,
	} {
		taken := &counted{r: io.MultiReader(strings.NewReader(begin), infinite{})}
		if err := readList(taken, func(record) {}); !errors.Is(err, client.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
		if taken.n > 4<<20 {
			t.Errorf("%s: %d bytes were read", name, taken.n)
		}
	}
}

type infinite struct{}

func (infinite) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("a"), len(p))), nil }

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func BenchmarkListOf10000(b *testing.B) {
	for b.Loop() {
		if err := readList(&endless{n: 10_000}, func(record) {}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
}

func seeds(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds in testdata", err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"applications":{"application":{"instance":{"port":{"$":"80"}}}}}`))
}

// FuzzList: whatever comes, what is read of it has a name, and a list that is read twice says the
// same.
func FuzzList(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second []record
		err1 := readList(bytes.NewReader(body), func(r record) { first = append(first, r) })
		err2 := readList(iotest.OneByteReader(bytes.NewReader(body)), func(r record) { second = append(second, r) })
		if (err1 == nil) != (err2 == nil) || len(first) != len(second) {
			t.Fatalf("whole: %+v, %v; byte by byte: %+v, %v", first, err1, second, err2)
		}
		for _, r := range first {
			if r.id() == "" || r.App == "" {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func FuzzInstance(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := readInstance(body)
		if err == nil && (r.id() == "" || r.App == "") {
			t.Fatalf("%+v", r)
		}
		_ = r.registered()
	})
}
