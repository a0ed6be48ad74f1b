package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/server/backup"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/epoch"
	"github.com/cordon-ota/cordon/server/observe"
)

// tool is what the subcommands share with the root command.
type tool struct {
	config         string // --config
	usage          bool   // the error is the caller's
	stdout, stderr io.Writer
}

func (t *tool) load() (config.Config, error) {
	cfg, err := config.Load(t.config)
	t.usage = err != nil
	return cfg, err
}

func (t *tool) wrong(format string, args ...any) error {
	t.usage = true
	return fmt.Errorf(format, args...)
}

// refusals end a command with exit code 1: it was decided, and the answer is no.
var refusals = []error{backup.ErrDamaged, backup.ErrNewer, backup.ErrMissing, backup.ErrNotEmpty, backup.ErrNoKeys, epoch.ErrClock}

func isRefusal(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

func (t *tool) backupCommand() *cobra.Command {
	var out, verify string
	var noKeys, withArtifacts, noArtifacts bool
	cmd := &cobra.Command{
		Use:   "backup --out DIR | --verify FILE",
		Short: "Back a running server up into a folder, or check a backup",
		Long: "backup writes rows and keys of the server of --config into one new file in DIR, while the server goes on, and copies the\n" +
			"images that DIR does not have yet beside it. Images in a bucket stay there unless --with-artifacts is given. The path of\n" +
			"the file goes to stdout.\n\nA backup holds the server's keys: keep it where you would keep them, encrypted.",
		Args: t.noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case (out == "") == (verify == ""):
				return t.wrong("name either a folder with --out or a backup with --verify")
			case withArtifacts && noArtifacts:
				return t.wrong("--with-artifacts and --no-artifacts exclude each other")
			case verify != "":
				return t.verify(cmd.Context(), verify)
			}
			cfg, err := t.load()
			if err != nil {
				return err
			}
			copies := withArtifacts || cfg.S3 == (config.S3{}) && !noArtifacts
			return t.backup(cmd.Context(), cfg, out, !noKeys, copies)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "backup `DIR`; use the same one each time, so that an image is copied once")
	f.StringVar(&verify, "verify", "", "check the backup `FILE` and all that belongs to it")
	f.BoolVar(&noKeys, "no-keys", false, "leave the keys out; a restore then needs the key folder from elsewhere")
	f.BoolVar(&withArtifacts, "with-artifacts", false, "copy images out of a bucket, too")
	f.BoolVar(&noArtifacts, "no-artifacts", false, "leave images in the artifact directory")
	return cmd
}

// progress prints what is being done, each thing once and at its end.
func (t *tool) progress() backup.Progress {
	last := ""
	return func(what string, done, total int64) {
		if what != last || done == total && total > 0 {
			last = what
			fmt.Fprintf(t.stderr, "%s %d\n", what, done)
		}
	}
}

func (t *tool) options() backup.Options {
	return backup.Options{Build: "cordond/" + Version(), Now: time.Now, Progress: t.progress()}
}

// parts opens what a backup is taken from or restored into.
func (t *tool) parts(cfg config.Config) (*App, string, error) {
	log, err := observe.NewLogger(t.stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		return nil, "", t.wrong("%w: %v", config.ErrConfig, err)
	}
	dsn, err := cfg.DSN()
	return &App{cfg: cfg, opt: Options{Log: log}}, dsn, err
}

func (t *tool) backup(ctx context.Context, cfg config.Config, out string, keys, copies bool) error {
	a, dsn, err := t.parts(cfg)
	if err != nil {
		return err
	}
	if err := a.checkRestored(); err != nil {
		return err
	}
	blobs, err := a.openArtifacts(ctx)
	if err != nil {
		return err
	}
	source := backup.Source{DSN: dsn, Blobs: blobs, CopyBlobs: copies}
	if keys {
		source.KeysDir = a.keysDir()
	}
	path, m, err := backup.Take(ctx, source, out, t.options())
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stderr, "backed up: %d events, %d images (%d of them beside the backup), keys: %v\n", m.Events, len(m.Blobs), kept(m), m.Keys)
	fmt.Fprintln(t.stdout, path)
	return nil
}

func kept(m backup.Manifest) (n int) {
	for _, b := range m.Blobs {
		if b.Kept {
			n++
		}
	}
	return n
}

func (a *App) keysDir() string { return filepath.Join(a.cfg.DataDir, "keys") }

func (t *tool) verify(ctx context.Context, path string) error {
	m, sum, err := backup.Verify(ctx, path, t.progress())
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "whole: sha256 %s, taken %s, %d events, %d images (%d of them beside the backup), keys: %v, engine %s, schema %d\n",
		sum, m.TakenAt.UTC().Format("2006-01-02T15:04:05Z"), m.Events, len(m.Blobs), kept(m), m.Keys, m.Engine, m.Schema)
	return nil
}

func (t *tool) restoreCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "restore --from FILE",
		Short: "Make a new server out of a backup",
		Long: "restore fills the empty data directory and database of --config, of either engine, from a backup, and begins a new epoch:\n" +
			"every device has to prove again, and every number that must not go backwards starts above all that the lost server can\n" +
			"have used. Nothing that is there is overwritten. Everything is checked before anything changes; a restore that was cut\n" +
			"off is ended by the same command again, and no server starts before.",
		Args: t.noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return t.wrong("name a backup with --from")
			}
			cfg, err := t.load()
			if err != nil {
				return err
			}
			return t.restore(cmd.Context(), cfg, from)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "backup `FILE`, in its folder")
	return cmd
}

func (t *tool) restore(ctx context.Context, cfg config.Config, from string) error {
	a, dsn, err := t.parts(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the data directory: %w", err)
	}
	defer a.Close()
	if err := a.lockData(dsn); err != nil {
		return err
	}
	blobs, err := a.openArtifacts(ctx)
	if err != nil {
		return err
	}
	target := backup.Target{DataDir: cfg.DataDir, KeysDir: a.keysDir(), DSN: dsn, Blobs: blobs}
	r, err := backup.Restore(ctx, from, target, t.options(), a.opt.Log)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "restored: epoch %d, events up to %d of %s\n", r.State.Epoch, r.State.Events, r.State.TakenAt.UTC().Format("2006-01-02T15:04:05Z"))
	fmt.Fprintln(t.stderr, "Start cordond, and then, as conformance/docs/operations.md describes: apply ceremonies and publish releases that are newer than\n"+
		"the backup again, and look at people, tokens and quarantines that may have changed since.")
	return nil
}
