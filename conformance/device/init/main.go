//go:build linux

// Command init is the first process of the machine under test: it brings the machine up, runs the agent, and tells on the
// serial line what happens, one line per event.
//
// It promises that whatever goes wrong ends in a restart, so that the boot loader counts the try. It refuses to run as
// anything but the first process. It lies inside the measured image. Nobody trusts it in production: it takes commands
// from the serial console, which is how tests and people reach a machine without a network service of its own.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Files of the measured image.
const (
	argumentsFile = "/etc/cordon/agent" // of the agent, one per line
	brokenFile    = "/etc/cordon/broken"
	agentFile     = "/bin/cordon-agent"
	outsideFile   = "/etc/cordon/outside" // the server is beyond the host
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: cannot run beside another init\nhint: it is the first process of the machine under test; see go run ./conformance device --help")
		os.Exit(2)
	}
	serial := &line{out: os.Stdout}
	serial.event("fatal", "error", run(serial).Error())
	leave(serial, unix.LINUX_REBOOT_CMD_RESTART)
}

// run brings the machine up and stays until it is to restart or to switch off; it returns what went wrong, never nil.
func run(serial *line) error {
	if err := mountKernel(); err != nil {
		return err
	}
	serial.open()
	boot(serial)
	if b, err := os.ReadFile(brokenFile); err == nil {
		return fmt.Errorf("this image is made to fail: %s", b)
	}
	if err := loadModules("/mod"); err != nil {
		return err
	}
	if err := mountVariables(); err != nil {
		return err
	}
	started(serial)
	if err := networkUp(); err != nil {
		return err
	}
	if err := forward(); err != nil {
		return err
	}
	if err := mountDisk(); err != nil {
		return err
	}
	serial.event("disk", "esp", listing("/esp/EFI/Linux"))
	a := &agent{serial: serial, ended: make(chan exit, 1), commands: make(chan command)}
	requests := make(chan os.Signal, 4)
	signal.Notify(requests, unix.SIGUSR1, unix.SIGUSR2)
	go a.reap()
	if _, err := os.Stat(outsideFile); err == nil {
		go a.shell("ip route add default via 10.0.2.2")
	}
	go serial.commands(a.commands)
	leave(serial, a.supervise(requests))
	return nil
}

// leave ends this boot: what was written is on the disk afterwards.
func leave(serial *line, how int) {
	name := "restart"
	if how == unix.LINUX_REBOOT_CMD_POWER_OFF {
		name = "off"
	}
	for _, dir := range []string{"/esp", "/data"} {
		if err := unix.Unmount(dir, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			serial.event("unmount", "path", dir, "error", err.Error())
		}
	}
	unix.Sync()
	serial.event("leave", "how", name)
	serial.drain()
	for {
		_ = unix.Reboot(how) // it does not return
		time.Sleep(time.Second)
	}
}
