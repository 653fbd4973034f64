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
	dirs := make(chan string, 2)
	for range 2 {
		go func() {
			dir, err := Build(t.Context(), "eureka/server")
			if err != nil {
				t.Error(err)
			}
			dirs <- dir
		}()
	}
	if a, b := <-dirs, <-dirs; a != b || a == "" {
		t.Fatalf("built in %q and %q", a, b)
	}
	began := time.Now()
	if _, err := Build(t.Context(), "eureka/server"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the third took %v", time.Since(began))
}
