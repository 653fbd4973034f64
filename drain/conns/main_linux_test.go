package conns

import (
	"flag"
	"testing"

	"go.uber.org/goleak"

	"prestop/drain/conns/connstest"
)

func TestMain(m *testing.M) {
	if connstest.Main() {
		return
	}
	// Connections are watched while nothing happens: tests wait more than they work.
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
