package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reference"
)

func (a *app) bootChainCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "boot-chain", Short: "Describe the boot of a golden machine by GRUB, for boot_chain= of publish", Args: cobra.NoArgs,
		Long: "Reads the event log of a machine that has booted the release as every device is to boot it, and prints what firmware, GRUB and\n" +
			"kernel measured. Read what it prints before you publish it: it becomes what devices are held against.",
		Example: "  cordon-sign boot-chain --log binary_bios_measurements > boot.json",
	}
	log := c.Flags().String("log", "", "event log `FILE` of the machine, as the kernel exports it")
	required(c, "log")
	c.RunE = a.run("describe the boot", func(context.Context) error {
		b, err := readFile(*log, eventlog.MaxBytes)
		if err != nil {
			return err
		}
		l, err := eventlog.Parse(b)
		if err != nil {
			return err
		}
		if v := l.Violations(); len(v) > 0 { // texts that contradict their digests describe nothing
			return fmt.Errorf("%w: %s: %s", eventlog.ErrMalformed, v[0].Rule, v[0].Detail)
		}
		chain, err := reference.ExtractChain(l)
		if err != nil {
			return err
		}
		out, err := chain.Encode()
		if err != nil {
			return fmt.Errorf("%w: %w", reference.ErrChain, err)
		}
		_, err = os.Stdout.Write(out)
		return err
	})
	return c
}
