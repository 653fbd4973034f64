package nacos

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The contract suite's cases wait for servers, not for processors; the workers of a fuzz test do not wait.
	if flag.Lookup("test.fuzz").Value.String() == "" {
		if err := flag.Set("test.parallel", "64"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
