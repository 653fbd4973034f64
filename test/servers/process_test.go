package servers

import (
	"os/exec"
	"syscall"
	"testing"
)

// A program that is bound to a thread must not be killed because another one has ended there.
func TestAProgramsEndEndsNoOther(t *testing.T) {
	t.Parallel()
	others := make([]*exec.Cmd, 8)
	var inputs []func() error
	for i := range others {
		others[i] = exec.Command("cat")
		others[i].SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := others[i].StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := others[i].Start(); err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, in.Close)
	}
	for range 100 {
		ended, err := StartBound(exec.Command("true"))
		if err != nil {
			t.Fatal(err)
		}
		if err := ended.Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i, cmd := range others {
		if err := inputs[i](); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
