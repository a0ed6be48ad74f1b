package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// programs are the packages of the repository that the story runs, by the name of the program.
var programs = map[string]string{
	"cordond": "server", "cordon-sign": "signer", "cordon-agent": "client/agent", "cordonctl": "client/ctl",
}

// moduleDir is the folder of the repository that this program was started in.
func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("cannot find the repository: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == os.DevNull {
		return "", errors.New("cannot find the repository: run this below its folder")
	}
	return filepath.Dir(file), nil
}

// Build builds the programs into dir.
func Build(ctx context.Context, dir string) error { return BuildTagged(ctx, dir, "") }

// BuildTagged is Build with build tags.
func BuildTagged(ctx context.Context, dir, tags string) error {
	root, err := moduleDir(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "packages"), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the programs: %w", err)
	}
	args := []string{"build", "-tags", tags, "-o", filepath.Join(dir, "packages") + string(filepath.Separator)}
	for _, pkg := range programs {
		args = append(args, "./"+pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the programs: %w\n%s", err, out)
	}
	// The toolchain names a program after its package, and leaves one alone that is up to date; the links stay.
	for name, pkg := range programs {
		err := os.Symlink(filepath.Join("packages", filepath.Base(pkg)), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cannot name %s: %w", name, err)
		}
	}
	return nil
}

// result is what a program printed and how it ended.
type result struct {
	code   int
	stdout string
	stderr string
}

// says fails unless the program ended with code and said text on one of its outputs.
func (r result) says(code int, text string) error {
	if r.code != code || !strings.Contains(r.stdout+r.stderr, text) {
		return fmt.Errorf("want exit %d and %q, got exit %d:\n%s%s", code, text, r.code, r.stdout, r.stderr)
	}
	return nil
}

// programTimeout bounds one program.
const programTimeout = 2 * time.Minute

// run runs a program of ours in the work folder to its end. Its exit code is a result; not starting is an error.
func (w *world) run(ctx context.Context, program string, args ...string) (result, error) {
	return w.runWith(ctx, nil, program, args...)
}

// runWith is run with more in the environment. A program that a signal ended has exit code -1.
func (w *world) runWith(ctx context.Context, env []string, program string, args ...string) (result, error) {
	return w.runBehind(ctx, nil, env, program, args...)
}

// runBehind is runWith with a command line in front of the program's own, which ends in running the program.
func (w *world) runBehind(ctx context.Context, enter, env []string, program string, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	argv := append(append(slices.Clone(enter), filepath.Join(w.bin, program)), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, &stdout, &stderr
	cmd.Env = append(w.env(), env...)
	cmd.SysProcAttr = childAttr()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return result{}, fmt.Errorf("cannot run %s: %w", program, errors.Join(err, ctx.Err()))
	}
	return result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}, nil
}

// env is what the programs see: their own home, and no way around the story's servers.
func (w *world) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + w.path("home"), "TMPDIR=" + w.path("tmp")}
}

// must runs a program that has to end with exit code 0.
func (w *world) must(ctx context.Context, program string, args ...string) (string, error) {
	r, err := w.run(ctx, program, args...)
	if err != nil {
		return "", err
	}
	if r.code != 0 {
		return "", fmt.Errorf("%s %s ended with exit %d:\n%s%s", program, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout, nil
}

// sign runs cordon-sign commands, each a line of words, and stops at the first that fails.
func (w *world) sign(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if _, err := w.must(ctx, "cordon-sign", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}
