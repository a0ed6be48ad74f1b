package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/observe"
	"github.com/cordon-ota/cordon/server/store"
)

// Exit codes of every cordon command.
const (
	exitOK        = 0
	exitUsage     = 2
	exitUndecided = 3
)

// version is set by the linker (-X) in released builds.
var version string

// Version returns the build's version.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// Main runs the command line of cordond and returns its exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var path string
	var checkOnly bool
	usage := false
	cmd := &cobra.Command{
		Use:   "cordond",
		Short: "The cordon server: firmware only for devices that prove what they booted.",
		Long: "cordond serves devices, CI pipelines, operators and auditors.\n\n" +
			"Without --config it runs on its defaults and keeps everything under ./cordon-data. The first start makes keys,\n" +
			"CAs and a one-time admin token there, and waits for the ceremony: see 'cordon-sign root init --help'.",
		Args: func(cmd *cobra.Command, args []string) error {
			err := cobra.NoArgs(cmd, args)
			usage = err != nil
			return err
		},
		Version: Version(), SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				usage = true
				return err
			}
			if checkOnly {
				fmt.Fprintln(stdout, "the configuration is valid")
				return nil
			}
			return run(cmd.Context(), cfg, stderr)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration `FILE` (TOML); see conformance/docs/operations.md")
	cmd.Flags().BoolVar(&checkOnly, "check-config", false, "check the configuration and exit")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { usage = true; return err })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "cordond: %v\nhint: %s\n", err, hint(err))
	if usage {
		return exitUsage
	}
	return exitUndecided
}

func hint(err error) string {
	switch {
	case errors.Is(err, config.ErrConfig):
		return "every key stands in conformance/docs/operations.md; try 'cordond --check-config --config FILE'"
	case errors.Is(err, errInUse):
		return "each cordond with SQLite needs a data_dir of its own"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process, perhaps another cordond, uses that port: stop it, or change [listen] in the configuration"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return "check that the file is there and that the user of cordond may read it; conformance/docs/operations.md lists them all"
	case errors.Is(err, store.ErrUnavailable):
		return "check that the database of the configuration runs and can be reached"
	}
	return "see 'cordond --help' and conformance/docs/operations.md"
}

func run(ctx context.Context, cfg config.Config, stderr io.Writer) error {
	log, err := observe.NewLogger(stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return fmt.Errorf("%w: %v", config.ErrConfig, err)
	}
	a, err := New(ctx, cfg, Options{Version: Version(), Log: log})
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Run(ctx)
}
