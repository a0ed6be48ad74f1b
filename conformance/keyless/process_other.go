//go:build !linux

package keyless

import "syscall"

// childAttr has nothing to ask for where the kernel cannot end a child with its parent.
func childAttr() *syscall.SysProcAttr { return nil }
