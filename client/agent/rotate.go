package main

import (
	"context"
	"fmt"
	"io"

	"github.com/cordon-ota/cordon/client"
)

// rotated is what rotate-ak prints.
type rotated struct {
	Device   string           `json:"device"`
	Rotated  bool             `json:"rotated"`
	Refusals []client.Refusal `json:"refusals,omitempty"`
}

// rotate replaces the attestation key. What is cut short here, the agent finishes.
func (o *options) rotate(ctx context.Context) error {
	return o.withClient(func(c *client.Client) error {
		e, err := c.RotateAK(ctx)
		if err != nil {
			return undecided(diskHint(err, "the device must be enrolled, and may rotate four times an hour; run the agent, or this again later: both finish what was begun"), err)
		}
		out := rotated{Device: c.DeviceID().String(), Rotated: e.Lifecycle != ""}
		if out.Rotated { // why a device is pending is no refusal of its key
			e.Refusals = nil
		}
		out.Refusals = e.Refusals
		if err := o.print(out, out.text); err != nil {
			return err
		}
		if !out.Rotated {
			return errRefused
		}
		return nil
	})
}

func (out rotated) text(w io.Writer) {
	fmt.Fprintf(w, "device %s\n", out.Device)
	if out.Rotated {
		fmt.Fprintln(w, "the attestation key was replaced; quotes of the old one count for nothing")
	}
	printRefusals(w, out.Refusals)
}
