package servers

import (
	"strings"
	"testing"
	"time"
)

func TestAProgramThatEndsBeforeItIsReadyIsAnErrorWithItsOutput(t *testing.T) {
	_, err := Start(t.Context(), Spec{Name: "nothing", Dir: t.TempDir(), Args: []string{"-cp", ".", "no.such.Main"}, Ready: "http://127.0.0.1:1/"})
	if err == nil || !strings.Contains(err.Error(), "no.such.Main") {
		t.Fatalf("want java's own message, got: %v", err)
	}
}

func TestAProjectIsBuiltOnceForAllWhoAskAtTheSameTime(t *testing.T) {
	args := make(chan string, 2)
	for range 2 {
		go func() {
			java, err := BuildSpring(t.Context(), "eureka/server")
			if err != nil {
				t.Error(err)
			}
			args <- strings.Join(java, " ")
		}()
	}
	if a, b := <-args, <-args; a != b || a == "" {
		t.Fatalf("to be run by %q and %q", a, b)
	}
	began := time.Now()
	if _, err := BuildSpring(t.Context(), "eureka/server"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the third took %v", time.Since(began))
}

func TestAPortIsGivenOnce(t *testing.T) {
	given := map[int]bool{}
	for range 100 {
		port, err := FreePort(0, 1000, -1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []int{port, port + 1000, port - 1000} {
			if given[p] {
				t.Fatalf("%d is given twice", p)
			}
			given[p] = true
		}
	}
}
