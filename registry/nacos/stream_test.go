package nacos

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"prestop/registry/client"
)

// golden are the answers of real servers with orders at 10.0.0.1:8080, disabled, and in another
// group and cluster at 10.0.0.2:8080.
func golden(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var (
	disabledOrder = record{key: key{place{service{"DEFAULT_GROUP", "orders"}, "DEFAULT"}, "10.0.0.1", 8080}, healthy: true, weight: 2.5}
	paymentOrder  = record{key: key{place{service{"PAYMENT", "orders"}, "HANGZHOU"}, "10.0.0.2", 8080}, enabled: true, healthy: true, weight: 1}
)

var equal = cmp.AllowUnexported(record{}, key{}, place{}, service{})

func TestTheCatalogOfEachVersionIsRead(t *testing.T) {
	for _, version := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		var services int
		found := map[key]record{}
		err := readCatalog(golden(t, "catalog-"+version), func(h host) bool { return true },
			func(service) { services++ }, func(r record) { found[r.key] = r })
		if err != nil || services != 2 {
			t.Errorf("%s: %d services, %v", version, services, err)
		}
		want := map[key]record{disabledOrder.key: disabledOrder, paymentOrder.key: paymentOrder}
		if diff := cmp.Diff(want, found, equal); diff != "" {
			t.Errorf("%s: -want +got\n%s", version, diff)
		}
	}
}

func TestTheInstancesOfEachVersionAreRead(t *testing.T) {
	for name, c := range map[string]struct {
		field string
		want  record
	}{
		"instances-1.4.1": {"list", disabledOrder},
		"instances-2.3.2": {"list", disabledOrder},
		"instances-3.1.0": {"data", disabledOrder},
		"listed-1.4.1":    {"hosts", paymentOrder},
		"listed-2.3.2":    {"hosts", paymentOrder},
		"listed-3.1.0":    {"data", paymentOrder},
	} {
		var got []record
		err := readHosts(golden(t, name), c.field, func(h host) {
			if r, ok := h.record(c.want.place); ok && h.Cluster == c.want.cluster {
				got = append(got, r)
			}
		})
		if diff := cmp.Diff([]record{c.want}, got, equal); diff != "" || err != nil {
			t.Errorf("%s: %v, -want +got\n%s", name, err, diff)
		}
	}
}

func TestTheVersionOfEachServerIsRead(t *testing.T) {
	for file, want := range map[string]api{"state-1.4.1": v1{old: true}, "state-2.3.2": v1{direct: true}, "state-3.1.0": v3{}} {
		body, err := io.ReadAll(golden(t, file))
		if err != nil {
			t.Fatal(err)
		}
		if got := apiOf(versionIn(ok(body))); got != want {
			t.Errorf("%s: %#v", file, got)
		}
	}
}

func TestWhatIsNotNacosIsNonsense(t *testing.T) {
	for _, body := range []string{"", "null", "{", "[{", "[{}]", `{"code":0}`, `{"code":0,"data":{}}`, `{"code":30000,"data":{"pageItems":[]}}`,
		`"text"`, "<html>", `[{"serviceName":"a","clusterMap":{"DEFAULT":{"hosts":[1]}}}]`, `[{"serviceName":"a","clusterMap":[]}]`} {
		err := readCatalog(strings.NewReader(body), func(host) bool { return true }, func(service) {}, func(record) {})
		if !errors.Is(err, client.ErrShape) {
			t.Errorf("catalog %q: %v", body, err)
		}
	}
	for _, body := range []string{"", "[]", "{}", `{"list":{}}`, `{"list":[`, `{"code":1,"list":[]}`} {
		if err := readHosts(strings.NewReader(body), "list", func(host) {}); !errors.Is(err, client.ErrShape) {
			t.Errorf("instances %q: %v", body, err)
		}
	}
}

// endless is a body that goes on with the same chunk.
type endless struct {
	begin io.Reader
	chunk string
}

func (e endless) Read(p []byte) (int, error) {
	if n, err := e.begin.Read(p); err == nil {
		return n, nil
	}
	return copy(p, e.chunk), nil
}

func TestAValueWithoutAnEndIsCut(t *testing.T) {
	for _, begin := range []string{`[{"serviceName":"`, `{"code":0,"x":"`, `[{"clusterMap":{"D":{"hosts":[{"ip":"`} {
		body := endless{strings.NewReader(begin), strings.Repeat("a", 4096)}
		if err := readCatalog(body, func(host) bool { return true }, func(service) {}, func(record) {}); !errors.Is(err, client.ErrShape) {
			t.Errorf("%s…: %v", begin, err)
		}
	}
}

func TestALargeCatalogIsReadInConstantMemory(t *testing.T) {
	const services = 2000
	one := `{"serviceName":"orders","groupName":"G","clusterMap":{"DEFAULT":{"hosts":[` +
		strings.TrimSuffix(strings.Repeat(`{"valid":true,"metadata":{"a":"`+strings.Repeat("b", 200)+`"},"port":8080,"ip":"10.0.0.1","weight":1.0,"enabled":true},`, 20), ",") + `]}}}`
	parts := []io.Reader{strings.NewReader("[")}
	for n := range services {
		if n > 0 {
			parts = append(parts, strings.NewReader(","))
		}
		parts = append(parts, strings.NewReader(one))
	}
	parts = append(parts, strings.NewReader("]"))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var hosts int
	var peak uint64
	err := readCatalog(io.MultiReader(parts...), func(host) bool { hosts++; return false }, func(service) {
		if hosts%4000 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&after)
			peak = max(peak, after.HeapAlloc)
		}
	}, func(record) {})
	if err != nil || hosts != services*20 {
		t.Fatalf("%d instances, %v", hosts, err)
	}
	if grown := int64(peak) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("%d MB of an answer took %d KiB", services*len(one)>>20, grown>>10)
	}
}

func FuzzCatalog(f *testing.F) {
	for _, v := range []string{"1.4.1", "2.3.2", "3.1.0"} {
		body, err := io.ReadAll(golden(f, "catalog-"+v))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := readCatalog(bytes.NewReader(body), func(host) bool { return true }, func(s service) {
			if s.name == "" {
				t.Fatal("a service without a name")
			}
		}, func(r record) {
			if r.ip == "" || r.port == 0 || r.name == "" {
				t.Fatalf("%+v", r)
			}
		})
		if err != nil && !errors.Is(err, client.ErrShape) {
			t.Fatal(err)
		}
	})
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte(`{"name":"a","hosts":[{"ip":"10.0.0.1","port":80,"weight":1.5,"healthy":true,"enabled":false,"ephemeral":true}]}`))
	f.Add([]byte(`{"code":0,"hosts":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := readHosts(bytes.NewReader(body), "hosts", func(host) {}); err != nil && !errors.Is(err, client.ErrShape) {
			t.Fatal(err)
		}
	})
}
