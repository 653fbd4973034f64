package corpus

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"prestop/drain/conns/connstest"
	"prestop/test/servers"
)

// inPod says that this process is in a network namespace of its own already.
const inPod = "PRESTOP_CORPUS_IN_POD"

// links are the places outside the Pod in which the clients are, each behind a link of another MTU.
var links []*connstest.Outside

// mtus are those of a Pod's link: Ethernet's, and what a VXLAN leaves of it.
var mtus = []int{1500, 1450}

func TestMain(m *testing.M) {
	// They wait, for one another and for time to pass. Before the command line is read, so that it can say
	// otherwise.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	var err error
	code := 1
	if os.Getenv(inPod) == "" {
		code, err = again()
	} else if err = connect(); err == nil {
		code = m.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// again runs the tests in a network namespace, as the containers of a Pod are, once everything that comes
// from elsewhere is there.
func again() (code int, err error) {
	if _, err := servers.BuildJavaWeb(context.Background()); err != nil {
		return 1, err
	}
	if _, err := servers.Envoy(context.Background()); err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inPod+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return failed.ExitCode(), nil
	}
	return 0, err
}

// connect makes the links.
func connect() error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("raise the loopback interface (ip is of iproute2): %w: %s", err, out)
	}
	for i, mtu := range mtus {
		o, err := connstest.NewOutside(i)
		if err == nil {
			err = o.SetMTU(mtu)
		}
		if err != nil {
			return err
		}
		links = append(links, o)
	}
	return nil
}
