package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// output is what go test -v prints, of two packages.
const output = `=== RUN   TestEurekaContract
=== ATTR  TestEurekaContract server Eureka 2.0.6
=== PAUSE TestEurekaContract
=== CONT  TestEurekaContract
=== RUN   TestEurekaContract/at_the_same_time
=== RUN   TestEurekaContract/at_the_same_time/callers_see_none
--- PASS: TestEurekaContract (0.00s)
    --- PASS: TestEurekaContract/at_the_same_time (0.00s)
        --- PASS: TestEurekaContract/at_the_same_time/callers_see_none (0.00s)
=== RUN   TestNacosContract
=== RUN   TestNacosContract/2.3.2
=== ATTR  TestNacosContract/2.3.2 server Nacos 2.3.2
=== RUN   TestNacosContract/2.3.2/registered_over_gRPC
=== RUN   TestNacosContract/2.3.2/registered_over_gRPC/nacos
=== RUN   TestNacosContract/2.3.2/registered_over_gRPC/nacos/in_every_group
    --- FAIL: TestNacosContract/2.3.2 (0.00s)
        --- FAIL: TestNacosContract/2.3.2/registered_over_gRPC (0.00s)
            --- FAIL: TestNacosContract/2.3.2/registered_over_gRPC/nacos (0.00s)
                --- FAIL: TestNacosContract/2.3.2/registered_over_gRPC/nacos/in_every_group (0.00s)
=== RUN   TestWithoutAServer
--- PASS: TestWithoutAServer (0.00s)
ok  	prestop/test	0.003s
=== RUN   TestBothAtOnce
=== ATTR  TestBothAtOnce server Eureka 2.0.6
=== ATTR  TestBothAtOnce server Nacos 3.1.0
--- PASS: TestBothAtOnce (0.00s)
=== RUN   TestNacosThatPanics
=== ATTR  TestNacosThatPanics server Nacos 3.1.0
panic: oh
FAIL	prestop/other	0.003s
`

func TestAnOutputBecomesTablesAndTheyAreReadAgain(t *testing.T) {
	ran, err := read(strings.NewReader(output))
	if err != nil {
		t.Fatal(err)
	}
	const want = `
| Eureka | 2.0.6 |
|---|:-:|
| both at once | ✓ |
| callers see none | ✓ |

| Nacos | 2.3.2 | 3.1.0 |
|---|:-:|:-:|
| both at once |  | ✓ |
| in every group (registered over gRPC) | ✗ |  |
| that panics |  | ✗ |

`
	if got := ran.String(); got != want {
		t.Errorf("got %s", got)
	}
	if again := parse(ran.String()).String(); again != ran.String() {
		t.Errorf("read again: %s", again)
	}
}

func TestWhatIsNotInTheTableOrNotTestedAnyMoreIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	passes, _, _ := strings.Cut(output, "=== RUN   TestNacosContract")
	for name, c := range map[string]struct{ table, tells string }{
		"all is told":             {"| Eureka | 2.0.6 | 9 |\n|---|---|---|\n| callers see none | ✓ | ✓ |\n| only there |  | ✓ |\n", ""},
		"no entry":                {"| Eureka | 2.0.6 |\n|---|---|\n| another | ✓ |\n", "has a test, but no entry"},
		"no column yet":           {"", "Eureka 2.0.6: ran, but has no column"},
		"no test":                 {"| Eureka | 2.0.6 |\n|---|---|\n| callers see none | ✓ |\n| gone | ✓ |\n", `"gone": has an entry, but no test`},
		"an outcome that is past": {"| Eureka | 2.0.6 |\n|---|---|\n| callers see none | ✗ |\n", "is said to fail"},
	} {
		if err := os.WriteFile(file, []byte("# T\n"+begin+c.table+end+"more\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := run(file, strings.NewReader(passes), true)
		if (err == nil) != (c.tells == "") || err != nil && !strings.Contains(err.Error(), c.tells) {
			t.Errorf("%s: %v", name, err)
		}
		if err := run(file, strings.NewReader(passes), false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := run(file, strings.NewReader(passes), true); err != nil {
			t.Errorf("%s, rewritten: %v", name, err)
		}
		if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), "# T\n") || !strings.HasSuffix(string(text), "more\n") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
}

func TestATestsNameBecomesASentence(t *testing.T) {
	for name, want := range map[string]string{
		"TestEurekaBehindSpringSecurity/CSRF_on":                               "behind Spring security: CSRF on",
		"TestSidecarStopsASpringAppOnEurekaWithoutLosingACall":                 "sidecar stops a Spring app on Eureka without losing a call",
		"TestEurekaIDsWithOddCharacters":                                       "IDs with odd characters",
		"TestEurekaCSRFOn":                                                     "CSRF on",
		"TestNacosOverGRPC":                                                    "Nacos over GRPC",
		"TestContractInMemoryWithPeers/eureka/a_b":                             "a b",
		"TestContract/2.3.2,_registered_over_gRPC/at_the_same_time/x":          "x (registered over gRPC)",
		"TestEurekaContract/2.3.2/registered_over_HTTP/at_the_same_time/it_is": "it is (registered over HTTP)",
	} {
		if got := trap(name, "Eureka"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
