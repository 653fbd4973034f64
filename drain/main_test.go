package drain

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Before the command line is read, so that -rapid.checks overrides it; `make soak` asks for a
	// million.
	if err := flag.Set("rapid.checks", "20000"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
