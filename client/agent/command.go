package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/client/installer"
)

// Exit codes.
const (
	exitOK        = 0
	exitRefused   = 1
	exitUsage     = 2
	exitUndecided = 3
)

// failure is an error with the exit code and the hint that go with it.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

func usage(hint, format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...), hint: hint}
}

func undecided(hint string, err error) error {
	return &failure{code: exitUndecided, err: err, hint: hint}
}

// errRefused ends a command whose output already says what was refused.
var errRefused = errors.New("refused")

// options are the flags that the commands share.
type options struct {
	trust, tpm, state, eventLog, reboot, hardware, product, token string
	installers                                                    []string
	once, json                                                    bool
	out, err                                                      io.Writer

	restartLimit time.Duration
	restarting   context.CancelFunc // ends the agent once the restart command succeeded; nil with --once
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, out, stderr io.Writer) int {
	o := &options{out: out, err: stderr, restartLimit: restartLimit}
	root := newRoot(o)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	f, known := errors.AsType[*failure](err)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errRefused):
		return exitRefused
	case known:
		fmt.Fprintf(stderr, "cordon-agent: %s\n", printable(strings.ReplaceAll(f.err.Error(), "\n", "; ")))
		if f.hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", f.hint)
		}
		return f.code
	}
	fmt.Fprintf(stderr, "cordon-agent: %v\nhint: run cordon-agent --help\n", err) // what cobra itself finds is usage
	return exitUsage
}

func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:           "cordon-agent --trust FILE --tpm PATH_OR_HOST:PORT --state DIR",
		Short:         "Prove what this device booted, and install what it is offered",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
		RunE:          func(cmd *cobra.Command, _ []string) error { return o.agent(cmd.Context()) },
	}
	f := root.PersistentFlags()
	f.StringVar(&o.trust, "trust", "", "trust bundle, made by 'cordonctl provision' and kept in the measured image")
	f.StringVar(&o.tpm, "tpm", "/dev/tpmrm0", "TPM: device path, unix socket, or HOST:PORT with raw TPM commands")
	f.StringVar(&o.state, "state", "", "state directory; nothing in it is trusted")
	f.StringVar(&o.eventLog, "event-log", "", "TCG event log of this boot (default for a TPM below /dev: the kernel's)")
	f.StringArrayVar(&o.installers, "installer", nil, "where images go: "+installer.Kinds+"; may be repeated")
	f.StringVar(&o.reboot, "reboot", "", "shell command that restarts into a staged release; it has five minutes")
	f.StringVar(&o.hardware, "hardware-id", "", "what releases must be made for (default: what the server tells at enrollment)")
	f.StringVar(&o.product, "product", "", "what releases must be of (default: what the server offers); set it in the measured image")
	f.StringVar(&o.token, "token", "", "file with a one-time enrollment token")
	f.BoolVar(&o.json, "json", false, "print JSON")
	root.Flags().BoolVar(&o.once, "once", false, "do what is due now and exit")
	root.AddCommand(
		&cobra.Command{Use: "id", Short: "Print the device id that follows from the TPM's endorsement key", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return o.id() }},
		&cobra.Command{Use: "status", Short: "Print what the state directory says; nothing is contacted", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return o.status() }},
		&cobra.Command{Use: "rotate-ak", Short: "Replace the attestation key by its next generation, which the one in use certifies", Args: cobra.NoArgs,
			Long: "Replace the attestation key by its next generation, which the one in use certifies. Stop the agent first: one\n" +
				"process at a time uses a state directory. It takes --trust, --tpm and --state as the agent does.",
			RunE: func(cmd *cobra.Command, _ []string) error { return o.rotate(cmd.Context()) }},
		&cobra.Command{Use: "doctor", Short: "Check one by one what the agent needs, and say what to do", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return o.doctor(cmd.Context()) }},
	)
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// version is what the build recorded about itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
