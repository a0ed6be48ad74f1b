package keyless

import "syscall"

// childAttr puts a program into a group of its own, so that Ctrl-C reaches this program alone, and ends it when this
// program dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
