//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// agent runs the agent under test, again and again.
type agent struct {
	serial   *line
	ended    chan exit
	commands chan command

	// All below belongs to supervise.
	pid    int // 0: it does not run
	paused bool
	env    []string // added by the console
	peak   string   // memory, as last told
}

type exit struct {
	pid    int
	status unix.WaitStatus
}

// reap takes leave of every process that ends, also of those that lost their parents.
func (a *agent) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.ECHILD:
			time.Sleep(20 * time.Millisecond)
		case err == nil:
			a.ended <- exit{pid, status}
		}
	}
}

// supervise keeps the agent running until a restart or the power-off is asked for, and returns which. The agent asks with
// its restart command.
func (a *agent) supervise(requests <-chan os.Signal) int {
	a.start()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case s := <-requests:
			a.stop(unix.SIGTERM)
			if s == unix.SIGUSR2 {
				return unix.LINUX_REBOOT_CMD_POWER_OFF
			}
			return unix.LINUX_REBOOT_CMD_RESTART
		case e := <-a.ended:
			a.gone(e)
		case c := <-a.commands:
			a.serial.event("heard", "command", c.name)
			if how := a.obey(c); how != 0 {
				return how
			}
		case <-tick.C:
			a.memory()
			if a.pid == 0 && !a.paused {
				a.start()
			}
		}
	}
}

// obey does what the console says. It returns how to leave, or 0.
func (a *agent) obey(c command) int {
	switch c.name {
	case "restart":
		a.stop(unix.SIGTERM)
		return unix.LINUX_REBOOT_CMD_RESTART
	case "off":
		a.stop(unix.SIGTERM)
		return unix.LINUX_REBOOT_CMD_POWER_OFF
	case "pause": // the agent stays away: silence
		a.paused = true
		a.stop(unix.SIGTERM)
	case "resume":
		a.paused = false
	case "kill": // without a chance to say goodbye; it comes back by itself
		a.stop(unix.SIGKILL)
	case "env": // NAME=VALUE for the next start of the agent
		a.env = append(a.env, c.rest)
	case "pcrs":
		a.serial.event("pcrs", registers()...)
	case "ls":
		a.serial.event("ls", "path", c.rest, "names", listing(c.rest))
	case "sh":
		go a.shell(c.rest)
		return 0
	default:
		a.serial.event("console", "error", "unknown command "+c.name+"; known: restart, off, pause, resume, kill, env NAME=VALUE, pcrs, ls FOLDER, sh LINE")
		return 0
	}
	a.serial.event("done", "command", c.name)
	return 0
}

// shell runs a command of busybox; its end is an event.
func (a *agent) shell(text string) {
	pid, err := a.spawn("sh", nil, "/bin/sh", "-c", text)
	if err != nil {
		a.serial.event("done", "command", "sh", "error", err.Error())
		return
	}
	a.serial.event("shell", "pid", strconv.Itoa(pid))
}

func (a *agent) start() {
	b, err := os.ReadFile(argumentsFile)
	if err == nil {
		a.pid, err = a.spawn("agent", a.env, append([]string{agentFile}, strings.Split(strings.TrimSpace(string(b)), "\n")...)...)
	}
	if err != nil {
		a.pid = 0
		a.serial.event("agent", "error", err.Error())
		return
	}
	a.serial.event("agent", "pid", strconv.Itoa(a.pid))
}

// spawn starts a program, whose output goes to the serial line with its name in front.
func (a *agent) spawn(name string, env []string, argv ...string) (int, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer write.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		read.Close()
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Env: append([]string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp"}, env...), Files: []*os.File{null, write, write},
	})
	if err != nil {
		read.Close()
		return 0, err
	}
	go func() {
		defer read.Close()
		r := bufio.NewReader(read)
		for {
			text, err := r.ReadString('\n')
			if text = strings.TrimRight(text, "\n"); text != "" {
				a.serial.text(name, text)
			}
			if err != nil {
				return
			}
		}
	}()
	pid := p.Pid
	_ = p.Release() // reap waits for it
	return pid, nil
}

// gone tells how a process ended.
func (a *agent) gone(e exit) {
	how := fmt.Sprint("exit ", e.status.ExitStatus())
	if e.status.Signaled() {
		how = e.status.Signal().String()
	}
	if e.pid != a.pid {
		a.serial.event("ended", "pid", strconv.Itoa(e.pid), "how", how)
		return
	}
	a.pid = 0
	a.serial.event("agent", "ended", how)
}

// stop ends the agent; one that does not go within its time is killed.
func (a *agent) stop(s unix.Signal) {
	if a.pid == 0 {
		return
	}
	a.memory()
	_ = unix.Kill(a.pid, s) // it may be gone already
	timer := time.NewTimer(15 * time.Second)
	defer timer.Stop()
	for a.pid != 0 {
		select {
		case e := <-a.ended:
			a.gone(e)
		case <-timer.C:
			_ = unix.Kill(a.pid, unix.SIGKILL)
		}
	}
}

// memory tells what the agent holds, when its peak has grown.
func (a *agent) memory() {
	if a.pid == 0 {
		return
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.pid))
	if err != nil {
		return
	}
	values := map[string]string{}
	for l := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(l, ":"); ok {
			values[key] = strings.TrimSuffix(strings.TrimSpace(value), " kB")
		}
	}
	if values["VmHWM"] != a.peak {
		a.peak = values["VmHWM"]
		a.serial.event("memory", "rss_kib", values["VmRSS"], "peak_kib", values["VmHWM"])
	}
}
