// Package demo plays the whole story of cordon on one machine, with the real programs: a ceremony, releases, devices
// that prove what they booted, a device whose boot chain was changed, an attacker on the network, and an auditor.
//
// It promises that every step is checked from outside, that the first step that does not come out as expected ends the
// story with an error, and that nothing it started outlives it. It refuses to stand in for a component: packages that
// are missing are named first. Nobody trusts it: keys and devices are made for one run.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// Errors that callers test for with errors.Is.
var (
	// ErrFailed means that a step did not come out as it must.
	ErrFailed = errors.New("a step of the story failed")
	// ErrSetup means that the story could not begin.
	ErrSetup = errors.New("cannot set the stage")
)

// Options choose how the story is played.
type Options struct {
	Dir         string                       // Optional: an empty folder to work in, which is kept; default: a temporary one
	Bin         string                       // Optional: folder of the built programs; default: .build/demo of the repository
	Keep        bool                         // stay up after the end until the context ends
	Postgres    bool                         // PostgreSQL instead of SQLite
	S3          bool                         // a bucket of an S3 server instead of a directory for artifacts
	postgresDir string                       // folder of the cluster; default: a temporary one, which goes with the server
	times       string                       // the [times] of the configuration; default: those of the story
	config      string                       // tables at the end of the configuration
	names       []string                     // of the server; default: those of this host
	listen      func() (net.Listener, error) // where devices connect to; default a free port of this host
	enter       func(device string) []string // command line before that of a device's agent; default none
	Out         io.Writer                    // the story
	Log         io.Writer                    // what is installed and built
}

// packages are what the story needs of the machine.
var packages = []string{"swtpm", "swtpm-tools", "binutils", "systemd-boot-efi"}

// Run plays the story. It returns the summary also when a step fails; the error is ErrFailed then.
func Run(ctx context.Context, opt Options) (Summary, error) {
	w, err := setStage(ctx, opt)
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer w.close()
	started := time.Now()
	err = w.play(ctx)
	w.summary.Took = time.Since(started)
	if err != nil {
		fmt.Fprintf(opt.Log, "the end of cordond's log:\n%s\n", tail(w.server.log))
	}
	w.summary.print(opt.Out)
	if opt.Keep {
		w.invite(ctx)
	}
	if err != nil {
		return w.summary, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return w.summary, nil
}

// play tells the chapters in order; each one builds on those before it.
func (w *world) play(ctx context.Context) error {
	for _, chapter := range chapters {
		if err := w.tell(ctx, chapter); err != nil {
			return err
		}
	}
	return nil
}

// setStage installs packages, builds the programs and makes the work folder.
func setStage(ctx context.Context, opt Options) (*world, error) {
	need := packages
	if opt.Postgres {
		need = append(append([]string(nil), need...), "postgresql-15")
	}
	if err := announce(opt.Out, need); err != nil {
		return nil, err
	}
	if err := parts.Require(ctx, opt.Log, need...); err != nil {
		return nil, err
	}
	dir, temporary, err := workDir(opt.Dir)
	if err != nil {
		return nil, err
	}
	w := &world{opt: opt, dir: dir, temporary: temporary, out: opt.Out}
	if err := w.prepare(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// announce says which packages the story needs and which of them are going to be installed.
func announce(out io.Writer, need []string) error {
	missing, err := parts.Missing(need...)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "This demo uses the packages %s. Two Debian kernels are downloaded once and not installed.\n", strings.Join(need, ", "))
	if len(missing) == 0 {
		fmt.Fprintln(out, "All of them are here; nothing is installed.")
		return nil
	}
	fmt.Fprintf(out, "Going to be installed: %s\n  %s\n", strings.Join(missing, ", "), parts.InstallLine(missing...))
	return nil
}

func workDir(dir string) (path string, temporary bool, err error) {
	if dir == "" {
		dir, err = os.MkdirTemp("", "cordon-demo-")
		return dir, true, err
	}
	if path, err = filepath.Abs(dir); err != nil {
		return "", false, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", false, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", false, err
	}
	if len(entries) > 0 {
		return "", false, fmt.Errorf("folder %s is not empty", path)
	}
	return path, false, nil
}
