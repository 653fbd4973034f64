package cli

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deniedArg makes the test binary run another program without the kernel's socket diagnosis; see denied.
const deniedArg = "without-socket-diagnosis"

// withoutDiagnosis makes a command run where a seccomp profile denies the kernel's socket diagnosis.
func withoutDiagnosis(t *testing.T) func(*exec.Cmd) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func(c *exec.Cmd) {
		c.Args = append([]string{self, deniedArg, c.Path}, c.Args[1:]...)
		c.Path = self
	}
}

// denied runs args with a filter that answers EPERM to socket(AF_NETLINK, …, NETLINK_SOCK_DIAG). It returns only an error.
func denied(args []string) error {
	runtime.LockOSThread() // the filter is this thread's, and exec passes it on
	const (
		number, first, third = 0, 16, 32 // of struct seccomp_data: the call, and the low words of its arguments
		sockDiag             = 4
		allow                = unix.SECCOMP_RET_ALLOW
		refuse               = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		load                 = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal                = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		give                 = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: number}, {Code: equal, K: unix.SYS_SOCKET, Jf: 5},
		{Code: load, K: first}, {Code: equal, K: unix.AF_NETLINK, Jf: 3},
		{Code: load, K: third}, {Code: equal, K: sockDiag, Jf: 1},
		{Code: give, K: refuse},
		{Code: give, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(args[0], args, os.Environ())
}
