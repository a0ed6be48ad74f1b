package parts

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
)

// goTool is a program of others that is built from its Go module: it is run, never imported, so that neither its licence
// nor its dependencies become ours.
type goTool struct {
	name    string // in the cache and in messages
	pkg     string // main package; its last element is the name of the program
	version string
}

// build returns the path of the program, built when the cache does not have it, which takes minutes and needs the Go
// module proxy. The cache keeps one program per version and Go release.
func (g goTool) build(ctx context.Context) (string, error) {
	key := g.name + "-" + g.version + "-" + runtime.Version()
	dir, err := Cached(ctx, "bin", key, func(ctx context.Context, dir string) error {
		compiler, err := command("go")
		if err != nil {
			return fmt.Errorf("cannot build %s: %w", g.name, err)
		}
		cmd := exec.CommandContext(ctx, compiler, "install", g.pkg+"@"+g.version)
		cmd.Dir = "/" // outside every module, so that no go.mod of ours takes part
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-buildvcs=false -trimpath", "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s (%w); with the Go module proxy within reach, run: GOBIN=%s go install %s@%s\n%s",
				ErrMissing, g.name, err, "DIR", g.pkg, g.version, tail(out))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, path.Base(g.pkg)), nil
}
