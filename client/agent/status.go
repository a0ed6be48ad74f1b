package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/cordon-ota/cordon/client"
)

// status prints what the state directory says.
func (o *options) status() error {
	if o.state == "" {
		return usage("name the directory that the agent uses", "--state is missing")
	}
	if _, err := os.Stat(o.state); err != nil {
		return usage("name the directory that the agent uses", "cannot read state: %w", err)
	}
	s, err := client.ReadStatus(o.state)
	if err != nil {
		return undecided("", err)
	}
	return o.print(s, func(w io.Writer) { printStatus(w, s) })
}

func printStatus(w io.Writer, s client.Status) {
	if s.Device == "" {
		fmt.Fprintln(w, "nothing is known yet: the agent has not run with this state")
		return
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("device", "%s", s.Device)
	if s.Enrolled {
		line("enrolled", "%s", s.Lifecycle)
	} else {
		line("enrolled", "no")
	}
	line("boot state", "%s", orNone(s.Verdict))
	line("lease until", "%s", moment(s.LeaseUntil))
	line("last poll", "%s", moment(s.LastPoll))
	v := s.Versions
	line("image", "root %d, timestamp %d, snapshot %d, targets %d", v.ImageRoot, v.Timestamp, v.Snapshot, v.Targets)
	line("director", "root %d, version %d", v.DirectorRoot, v.Director)
	for _, i := range s.Installed {
		line("installed", "%s/%s/%s %s", i.Product, i.Version, i.Component, i.SHA256)
	}
	if s.Update != "" {
		line("update", "%s, %s", s.Update, s.Step)
	}
	if s.Boot != nil {
		line("last trial", "%s of %s", s.Boot.Result, s.Boot.Version)
		if s.Boot.Detail != "" {
			line("", "%s", s.Boot.Detail)
		}
	}
	if s.LockedOut {
		line("TPM", "in dictionary-attack lockout (tpm_locked_out): run cordon-agent doctor")
	}
	if s.Events > 0 {
		line("to report", "%d events", s.Events)
	}
	printRefusals(w, s.Refusals)
}

// printable keeps a server, or a state directory that somebody edited, from writing to the terminal what it likes.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func orNone(s string) string {
	if s == "" {
		return "not judged yet"
	}
	return s
}

func moment(unix int64) string {
	if unix == 0 {
		return "unknown"
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}
