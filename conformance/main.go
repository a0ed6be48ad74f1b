// Command conformance shows and checks cordon from outside: it starts the real components and plays stories with them.
//
// It refuses to stand in for a part that is missing: it names the packages that bring it. Nobody trusts it in
// production; it holds no keys but those it makes for one story.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/conformance/suite"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// Exit codes.
const (
	exitOK        = 0
	exitFailed    = 1
	exitUsage     = 2
	exitUndecided = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use: "conformance", Short: "Show and check cordon with its real components", SilenceErrors: true, SilenceUsage: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(demoCommand(), runCommand(), deviceCommand())
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		fmt.Fprintf(os.Stderr, "conformance: interrupted: %v\nhint: run the same command again\n", err)
		return exitUndecided
	case errors.Is(err, demo.ErrFailed):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: the step that failed is in the table; run again with --keep to look around\n", err)
		return exitFailed
	case errors.Is(err, vectors.ErrWrong):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: each line above names a vector; conformance/docs/negative-cases.md says what it is\n", err)
		return exitFailed
	case errors.Is(err, vectors.ErrVerifier), errors.Is(err, vectors.ErrVector):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: conformance/docs/negative-cases.md says what questions and answers look like\n", err)
		return exitUndecided
	case errors.Is(err, suite.ErrWrong):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: each row of the report names a case; conformance/docs/suite.md says what it means\n", err)
		return exitFailed
	case errors.Is(err, suite.ErrUndecided), errors.Is(err, suite.ErrSetup):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: conformance/docs/suite.md says how a server is prepared for the suite\n", err)
		return exitUndecided
	case errors.Is(err, errRunUsage):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: conformance/docs/suite.md says what each file is; run conformance run --help\n", err)
		return exitUsage
	case errors.Is(err, device.ErrTrust):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: 'cordonctl provision' writes a trust bundle; give it with --trust FILE\n", err)
		return exitUsage
	case errors.Is(err, device.ErrBuilt):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: leave the flags about a new machine away, or choose another folder with --dir, or remove this one\n", err)
		return exitUsage
	case errors.Is(err, device.ErrBreak):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: 'conformance device break' without a name lists what there is\n", err)
		return exitUsage
	case errors.Is(err, device.ErrRunning):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: switch it off first: 'conformance device down' with the same --dir\n", err)
		return exitUndecided
	case errors.Is(err, device.ErrNotRunning), errors.Is(err, device.ErrNoMachine):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: 'conformance device up' switches one on; it lies in the folder that --dir names\n", err)
		return exitUndecided
	case errors.Is(err, parts.ErrMissing):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: install what is named above and run the same command again\n", err)
		return exitUndecided
	case errors.Is(err, demo.ErrSetup):
		fmt.Fprintf(os.Stderr, "conformance: %v\nhint: nothing was judged yet; correct what the message names and run the same command again\n", err)
		return exitUndecided
	}
	fmt.Fprintf(os.Stderr, "conformance: %v\nhint: run conformance --help, or the command that failed with --help\n", err)
	return exitUsage
}

func demoCommand() *cobra.Command {
	opt := demo.Options{Out: os.Stdout, Log: os.Stderr}
	c := &cobra.Command{
		Use: "demo", Short: "Tell the whole story on this machine: ceremony, updates, an attack, a report", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := demo.Run(cmd.Context(), opt)
			return err
		},
	}
	c.Flags().BoolVar(&opt.Keep, "keep", false, "leave everything running for a look, until Ctrl-C")
	c.Flags().StringVar(&opt.Dir, "dir", "", "work in `DIR`, which must be empty and is kept (default: a temporary folder)")
	c.Flags().BoolVar(&opt.Postgres, "postgres", false, "keep the server's state in PostgreSQL instead of SQLite")
	c.Flags().BoolVar(&opt.S3, "s3", false, "keep artifacts in a bucket of a real S3 server, over TLS, instead of a directory; its first use builds the server")
	return c
}
