package main

import (
	"fmt"
	"io"
	"os"
)

// progress is what stderr says of a publish: one line that says how far it is, and a line for each step of signing. Off a
// terminal it says only what was finished.
type progress struct {
	out      io.Writer
	terminal bool
	open     bool
	percent  int64
	last     string
}

func (p *progress) report(what, name string, done, total int64) {
	percent := int64(-1)
	if total > 0 {
		percent = done * 100 / total
	}
	if !p.terminal {
		if percent == 100 {
			fmt.Fprintf(p.out, "%s %s: %d bytes\n", what, name, total)
		}
		return
	}
	key := what + " " + name
	if key != p.last {
		p.end()
		p.last = key
	} else if percent == p.percent && percent >= 0 {
		return
	}
	p.percent, p.open = percent, true
	if percent < 0 {
		fmt.Fprintf(p.out, "\r%s: %d bytes", key, done)
		return
	}
	fmt.Fprintf(p.out, "\r%s: %d of %d bytes, %d %%", key, done, total, percent)
}

// step says one thing on a line of its own.
func (p *progress) step(text string) {
	p.end()
	fmt.Fprintf(p.out, "%s\n", plain(text))
}

func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.out)
	}
	p.open = false
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
