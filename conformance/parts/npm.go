package parts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// oldestNode is the oldest major version of Node that the clients run on.
const oldestNode = 20

// NodeDir returns a folder of the cache that holds files, which are package.json, package-lock.json and programs, and the
// node_modules that the lock names. npm fetches what its own cache lacks from its registry, checks every package against
// the lock, and runs none of their scripts.
func NodeDir(ctx context.Context, files fs.FS) (string, error) {
	contents, err := readFiles(files)
	if err != nil {
		return "", fmt.Errorf("cannot read the Node programs: %w", err)
	}
	if err := nodeIsNew(ctx); err != nil {
		return "", err
	}
	hash := sha256.New()
	for _, f := range contents {
		var lengths [16]byte
		binary.BigEndian.PutUint64(lengths[:8], uint64(len(f.name)))
		binary.BigEndian.PutUint64(lengths[8:], uint64(len(f.data)))
		hash.Write(append(append(lengths[:], f.name...), f.data...))
	}
	return Cached(ctx, "npm", hex.EncodeToString(hash.Sum(nil)), func(ctx context.Context, dir string) error {
		for _, f := range contents {
			if err := os.WriteFile(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
				return fmt.Errorf("cannot write %s: %w", f.name, err)
			}
		}
		npm, err := command("npm")
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: npm packages (%w); with npm's registry within reach, run: npm ci\n%s", ErrMissing, err, tail(out))
		}
		return nil
	})
}

type namedFile struct {
	name string
	data []byte
}

// readFiles reads the files of one folder, sorted by name.
func readFiles(files fs.FS) ([]namedFile, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	var all []namedFile
	for _, e := range entries {
		data, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, namedFile{e.Name(), data})
	}
	return all, nil
}

// NodeVersion is the version of Node on this machine.
func NodeVersion(ctx context.Context) (string, error) {
	out, err := run(ctx, "node", "--version")
	return strings.TrimSpace(string(out)), err
}

func nodeIsNew(ctx context.Context) error {
	version, err := NodeVersion(ctx)
	if err != nil {
		return fmt.Errorf("%w; install Node %d or newer (https://nodejs.org)", err, oldestNode)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldestNode {
		return fmt.Errorf("%w: Node %d or newer, this is %s (https://nodejs.org)", ErrMissing, oldestNode, version)
	}
	return nil
}

// Output is what a program of others printed, and how it ended.
type Output struct {
	Code           int
	Stdout, Stderr string
}

// Node runs a program of a folder made by NodeDir, with env beside PATH. The error means that it could not be run.
func Node(ctx context.Context, dir, program string, env []string, args ...string) (Output, error) {
	node, err := command("node")
	if err != nil {
		return Output{}, err
	}
	return execute(ctx, node, append([]string{"PATH=" + os.Getenv("PATH")}, env...), append([]string{filepath.Join(dir, program)}, args...)...)
}

// execute runs a program to its end in an environment of its own.
func execute(ctx context.Context, path string, env []string, args ...string) (Output, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &stdout, &stderr
	err := cmd.Run()
	out := Output{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("cannot run %s: %w", filepath.Base(path), err)
	}
	return out, nil
}
