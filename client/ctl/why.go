package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
)

func (a *app) whyCommand() *cobra.Command {
	c := &cobra.Command{Use: "why ID", Short: "Tell the whole story of a device's last decision", Args: cobra.ExactArgs(1)}
	c.RunE = a.run("tell why", func(ctx context.Context, args []string) error {
		why, err := a.story(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(why, func(w io.Writer) error { return showWhy(w, why) })
	})
	return c
}

func showWhy(w io.Writer, y api.Why) error {
	fmt.Fprintln(w, "THE DEVICE")
	if err := showDevice(w, y.Device); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nWHAT IT LAST PROVED")
	if y.Verdict == nil {
		fmt.Fprintln(w, "nothing: no Evidence of it has been appraised yet")
	} else {
		showVerdict(w, *y.Verdict, when(y.AppraisedAt))
	}
	if y.Changes != nil {
		showChanges(w, *y.Changes)
	}
	fmt.Fprintln(w, "\nWHAT IT MAY HAVE NOW")
	if y.Decision.Release != "" && y.Decision.Release == y.Device.Proven {
		fmt.Fprintf(w, "%s, which it has proved already\n", plain(y.Decision.Release))
		showReasons(w, y.Decision)
	} else {
		showDecision(w, y.Decision)
	}
	showHeldBack(w, y.Segment)
	fmt.Fprintln(w, "\nWHAT HAPPENED, THE NEWEST FIRST")
	return showEvents(w, y.Events)
}

func showVerdict(w io.Writer, v attestation.Verdict, at string) {
	if v.Outcome == attestation.Affirmed {
		kind := ""
		if v.Recovery {
			kind = ", a recovery release"
		}
		fmt.Fprintf(w, "affirmed at %s: it booted %s%s\n", at, plain(v.Release), kind)
		return
	}
	fmt.Fprintf(w, "refused at %s, for %d findings\n", at, len(v.Findings))
	for i, f := range v.Findings {
		fmt.Fprintf(w, "%d. %s\n   %s\n", i+1, plain(explain(f.Reason)), plain(f.Detail))
		where := ""
		if f.PCR != nil {
			where = fmt.Sprintf("PCR %d", *f.PCR)
		}
		if f.Event != nil {
			where += fmt.Sprintf(", event %d of its log", *f.Event)
		}
		for _, line := range [][2]string{{"where", where}, {"expected", f.Expected}, {"seen", f.Seen}} {
			if line[1] != "" {
				fmt.Fprintf(w, "   %s: %s\n", line[0], plain(line[1]))
			}
		}
		if row, ok := reason.Lookup(f.Reason); ok {
			fmt.Fprintf(w, "   effect: %s. %s\n", row.Effect, row.Remedy)
		}
	}
}

func showChanges(w io.Writer, c api.BootChanges) {
	fmt.Fprintf(w, "\nWHAT IT MEASURED OTHERWISE THAN IN THE BOOT THAT WAS AFFIRMED AT %s\n", moment(c.Since))
	for i, times := 0, 1; i < len(c.Changes); i, times = i+times, 1 {
		for i+times < len(c.Changes) && c.Changes[i+times] == c.Changes[i] {
			times++
		}
		change, often := c.Changes[i], ""
		if times > 1 { // systemd-boot and its stub both measure the command line
			often = fmt.Sprintf(", %d times", times)
		}
		fmt.Fprintf(w, "PCR %d%s\n   before: %s\n   now:    %s\n", change.PCR, often, measured(change.Before), measured(change.After))
	}
	if len(c.Changes) == 0 {
		fmt.Fprintln(w, "nothing, say the event logs of both; what is expected of it may have changed since")
	}
}

func measured(what string) string {
	if what == "" {
		return "no such measurement"
	}
	return plain(what)
}

func showDecision(w io.Writer, d api.Decision) {
	if d.Release != "" {
		fmt.Fprintf(w, "%s is offered\n", plain(d.Release))
	} else {
		fmt.Fprintln(w, "nothing is offered")
	}
	showReasons(w, d)
}

func showReasons(w io.Writer, d api.Decision) {
	for i, r := range d.Reasons {
		fmt.Fprintf(w, "- %s\n", plain(explain(r)))
		if i < len(d.Detail) && d.Detail[i] != "" {
			fmt.Fprintf(w, "  %s\n", plain(d.Detail[i]))
		}
		if i < len(d.Remedies) && d.Remedies[i] != "" {
			fmt.Fprintf(w, "  what to do: %s\n", plain(d.Remedies[i]))
		}
	}
}

func showEvents(w io.Writer, events []api.Event) error {
	var rows [][]string
	for _, e := range events {
		rows = append(rows, []string{fmt.Sprint(e.Number), moment(e.At), e.Type, e.Actor, string(e.Data)})
	}
	return table(w, []string{"NUMBER", "AT", "EVENT", "BY", "DATA"}, rows)
}
