package nacos

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The contract suite's cases wait for servers, not for processors; the workers of a fuzz test
	// do not wait. Before the command line is read, so that it can say otherwise.
	if !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzz") }) {
		if err := flag.Set("test.parallel", "64"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
