package main

import "syscall"

// attributes puts a child into a process group of its own, so that Ctrl-C reaches only the demo, which then ends its
// children in order; and has the kernel end it if the demo itself is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
