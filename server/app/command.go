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

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/server/backup"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/observe"
	"github.com/cordon-ota/cordon/server/store"
)

// Exit codes of every cordon command.
const (
	exitOK        = 0
	exitRefused   = 1
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
	t := &tool{stdout: stdout, stderr: stderr}
	cmd := t.rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "cordond: %v\nhint: %s\n", err, hint(err))
	switch {
	case t.usage, errors.Is(err, config.ErrConfig):
		return exitUsage
	case isRefusal(err):
		return exitRefused
	}
	return exitUndecided
}

func (t *tool) rootCommand() *cobra.Command {
	var checkOnly bool
	cmd := &cobra.Command{
		Use:   "cordond",
		Short: "The cordon server: firmware only for devices that prove what they booted.",
		Long: "cordond serves devices, CI pipelines, operators and auditors.\n\n" +
			"Without --config it runs on its defaults and keeps everything under ./cordon-data. The first start makes keys,\n" +
			"CAs and a one-time admin token there, and waits for the ceremony: see 'cordon-sign root init --help'.",
		Args:    t.noArgs,
		Version: Version(), SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := t.load()
			if err != nil {
				return err
			}
			if checkOnly {
				if err := checkConfig(cfg); err != nil {
					t.usage = true
					return err
				}
				fmt.Fprintln(t.stdout, "the configuration is valid")
				return nil
			}
			return run(cmd.Context(), cfg, t.stderr)
		},
	}
	cmd.PersistentFlags().StringVar(&t.config, "config", "", "configuration `FILE` (TOML); see conformance/docs/operations.md")
	cmd.Flags().BoolVar(&checkOnly, "check-config", false, "check the configuration and the files that it names, and exit")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { t.usage = true; return err })
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(t.backupCommand(), t.restoreCommand())
	return cmd
}

// noArgs refuses arguments as a mistake of the caller.
func (t *tool) noArgs(cmd *cobra.Command, args []string) error {
	err := cobra.NoArgs(cmd, args)
	t.usage = err != nil
	return err
}

func hint(err error) string {
	switch {
	case errors.Is(err, config.ErrConfig):
		return "every key stands in conformance/docs/operations.md; try 'cordond --check-config --config FILE'"
	case errors.Is(err, errUnfinished):
		return "run the same 'cordond restore' again to end it, or begin anew with an empty data directory and database"
	case errors.Is(err, backup.ErrNotEmpty):
		return "restore into a new data_dir and a new database; nothing that is there is ever overwritten"
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrMissing):
		return "use another backup; 'cordond backup --verify FILE' checks one and changes nothing"
	case errors.Is(err, backup.ErrNoKeys):
		return "a backup that was taken with --no-keys needs the folder keys of the old data directory"
	case errors.Is(err, errInUse):
		return "each cordond with SQLite needs a data_dir of its own"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process, perhaps another cordond, uses that port: stop it, or change [listen] in the configuration"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room where data_dir and artifacts lie; nothing is half-written, so the same start goes on"
	case errors.Is(err, syscall.EROFS):
		return "the file system of data_dir or artifacts is read-only: look into the kernel's log for why, and mount it writable"
	case errors.Is(err, artifacts.ErrUnavailable):
		return "check that the artifact store of the configuration ([s3], or the directory artifacts) is there and can be written"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return "check that the file is there and that the user of cordond may read it; conformance/docs/operations.md lists them all"
	case errors.Is(err, store.ErrUnavailable):
		return "check that the database of the configuration runs and can be reached; with SQLite, that the disk of data_dir has room and can be written"
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
