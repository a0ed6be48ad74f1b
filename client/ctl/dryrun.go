package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/client/api"
)

// dryRun is the whole answer of release dry-run.
type dryRun struct {
	Release     string             `json:"release"`
	Predictable int                `json:"predictable"`
	Total       int                `json:"total"`
	Devices     []api.DryRunDevice `json:"devices"`
}

func (a *app) releaseDryRun() *cobra.Command {
	c := &cobra.Command{Use: "dry-run PRODUCT/VERSION", Short: "Predict what each active device will measure with a release, before it is offered", Args: cobra.ExactArgs(1)}
	device := c.Flags().String("device", "", "only this device `ID`")
	c.RunE = a.run("predict the fleet", func(ctx context.Context, args []string) error {
		product, version, err := cutName(args[0], "PRODUCT/VERSION")
		if err != nil {
			return err
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		out := dryRun{Release: args[0], Devices: []api.DryRunDevice{}}
		for after := ""; ; {
			page, err := client.DryRunRelease(ctx, product, version, *device, after)
			if err != nil {
				return err
			}
			out.Predictable, out.Total = out.Predictable+page.Predictable, out.Total+len(page.Devices)
			out.Devices = append(out.Devices, page.Devices...)
			if page.Next == "" || page.Next == after {
				break
			}
			after = page.Next
		}
		return a.print(out, func(w io.Writer) error { return showDryRun(w, out, *device != "") })
	})
	return c
}

func showDryRun(w io.Writer, r dryRun, registers bool) error {
	var rows [][]string
	for _, d := range r.Devices {
		state := "predictable"
		if !d.Predictable {
			state = "not predictable"
		}
		var changes []string
		for _, p := range d.PCRs {
			if p.Changes {
				changes = append(changes, fmt.Sprint(p.Index))
			}
		}
		rows = append(rows, []string{d.Device, d.HardwareID, d.Runs, state, strings.Join(changes, " ")})
	}
	if err := table(w, []string{"DEVICE", "HARDWARE", "RUNS", "PREDICTION", "PCRS THAT CHANGE"}, rows); err != nil {
		return err
	}
	for _, d := range r.Devices {
		for _, p := range d.Problems {
			fmt.Fprintf(w, "  %s: %s: %s\n", plain(d.Device), plain(strings.ReplaceAll(string(p.Kind), "_", " ")), plain(p.Detail))
		}
		for _, p := range d.PCRs {
			if registers {
				fmt.Fprintf(w, "  PCR %d: %s -> %s\n", p.Index, p.Now, p.Then)
			}
		}
	}
	_, err := fmt.Fprintf(w, "%d of %d predictable\n", r.Predictable, r.Total)
	return err
}
