package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/conformance/device"
)

// deviceCommand runs a machine under test against any server.
func deviceCommand() *cobra.Command {
	var dir string
	root := &cobra.Command{
		Use: "device", Short: "A virtual PC with firmware, TPM, Linux and the agent, against any server", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&dir, "dir", ".build/device", "the machine lies in `DIR`")
	bench := func() (*device.Bench, error) { return device.NewBench(dir, os.Stdout, os.Stderr) }

	var o device.BuildOptions
	up := &cobra.Command{
		Use: "up", Short: "Build the machine if there is none, and run it until it is switched off", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := bench()
			if err != nil {
				return err
			}
			return b.Up(cmd.Context(), o)
		},
	}
	up.Flags().StringVar(&o.Trust, "trust", "", "trust bundle `FILE` of the server, from 'cordonctl provision'; needed to build")
	up.Flags().StringVar(&o.Version, "release", "", "`VERSION` of the image that a new machine leaves the factory with (default 1)")
	up.Flags().StringVar((*string)(&o.Arch), "arch", "", "architecture of a new machine: amd64, or arm64 (default amd64)")
	up.Flags().BoolVar(&o.OwnKeys, "own-keys", false, "a new machine has Secure Boot with keys of its own")
	up.Flags().BoolVar(&o.Direct, "direct", false, "a new machine has no boot loader, and takes no updates")
	root.AddCommand(up, deviceImage(bench), deviceConsole(bench), deviceDown(bench), deviceBreak(bench))
	return root
}

func deviceImage(bench func() (*device.Bench, error)) *cobra.Command {
	return &cobra.Command{
		Use: "image VERSION", Short: "Build a further image for the machine, to be published; its file is printed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := bench()
			if err != nil {
				return err
			}
			file, err := b.Image(cmd.Context(), args[0])
			if err == nil {
				fmt.Println(file)
			}
			return err
		},
	}
}

func deviceConsole(bench func() (*device.Bench, error)) *cobra.Command {
	return &cobra.Command{
		Use: "console", Short: "The running machine's serial console: " + device.ConsoleCommands, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := bench()
			if err != nil {
				return err
			}
			return b.Console(cmd.Context(), os.Stdin)
		},
	}
}

func deviceDown(bench func() (*device.Bench, error)) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Switch the running machine off in order", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := bench()
			if err != nil {
				return err
			}
			return b.Down(cmd.Context())
		},
	}
}

func deviceBreak(bench func() (*device.Bench, error)) *cobra.Command {
	return &cobra.Command{
		Use: "break [NAME]", Short: "Tamper with the machine while it is off; without a name, list what there is", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				device.List(os.Stdout)
				return nil
			}
			b, err := bench()
			if err != nil {
				return err
			}
			return b.Break(cmd.Context(), args[0])
		},
	}
}
