package inuse

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Conversations cost microseconds. Before the command line is read, so that it can say otherwise.
	if err := flag.Set("rapid.checks", "5000"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
