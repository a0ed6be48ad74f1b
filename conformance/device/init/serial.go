//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// line is the serial line. Every event is one line of its own:
//
//	device[2.41] NAME key="value" ...
type line struct {
	mu  sync.Mutex // guards out, and keeps lines whole
	out io.Writer
	tty *os.File
}

// open takes the serial port itself, without echo, once its device file is there.
func (l *line) open() {
	f, err := os.OpenFile("/dev/"+port(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		l.event("console", "error", err.Error())
		return
	}
	if t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		t.Lflag &^= unix.ECHO
		_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t) // with echo, commands are seen twice; nothing else
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out, l.tty = f, f
}

// port is the kernel's console: ttyS0 on a PC, ttyAMA0 on other boards.
func port() string {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	names := strings.Fields(string(b))
	if err != nil || len(names) == 0 {
		return "ttyS0"
	}
	return names[len(names)-1]
}

// uptime is the time since the kernel started, in seconds.
func uptime() string {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return "0"
	}
	seconds, _, _ := strings.Cut(string(b), " ")
	return seconds
}

// event writes one event; pairs are keys and values.
func (l *line) event(name string, pairs ...string) {
	var b strings.Builder
	fmt.Fprintf(&b, "device[%s] %s", uptime(), name)
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, " %s=%s", pairs[i], strconv.QuoteToASCII(pairs[i+1]))
	}
	l.write(b.String() + "\n")
}

// text writes a line of a program.
func (l *line) text(program, text string) { l.write(program + ": " + text + "\n") }

func (l *line) write(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.out, s) // nobody is there to be told
}

// drain waits until everything is on the wire.
func (l *line) drain() {
	if l.tty != nil {
		_ = unix.IoctlSetInt(int(l.tty.Fd()), unix.TCSBRK, 1) // tcdrain
	}
}

// command is a line from the console.
type command struct {
	name, rest string
}

// maxCommand bounds a line from the console.
const maxCommand = 4096

// commands reads the console until the machine ends.
func (l *line) commands(into chan<- command) {
	if l.tty == nil {
		return
	}
	r := bufio.NewScanner(l.tty)
	r.Buffer(make([]byte, maxCommand), maxCommand)
	for r.Scan() {
		name, rest, _ := strings.Cut(strings.TrimSpace(r.Text()), " ")
		if name != "" {
			into <- command{name: name, rest: rest}
		}
	}
	l.event("console", "error", fmt.Sprint("no more commands: ", r.Err()))
}
