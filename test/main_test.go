// Package test runs prestop's registries and the sidecar against real servers. It is a module of its own, so that what
// these tests need does not reach the product.
package test

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// The contract suite's cases wait for servers, not for processors. Before the command line is read, so that it can say
	// otherwise.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
