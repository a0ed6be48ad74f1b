package parts

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// maxModuleBytes bounds one module of a kernel package.
const maxModuleBytes = 16 << 20

// KernelModules returns modules of a kernel by their name, without ".ko". A name that the package holds no file for is
// not in the map: that kernel has it built in, or does not know it.
func KernelModules(ctx context.Context, k KernelImage, names ...string) (map[string][]byte, error) {
	wanted := slices.Sorted(slices.Values(names))
	key := k.Package + "." + digest.Of([]byte(strings.Join(wanted, " "))).String()[:12]
	dir, err := Cached(ctx, "modules", key, func(ctx context.Context, dir string) error {
		name, version, ok := strings.Cut(k.Package, "_")
		if !ok {
			return fmt.Errorf("cannot fetch modules of kernel %q: it is not named after its package", k.Package)
		}
		if k.deb != "" {
			return extractModules(ctx, k.deb, wanted, dir)
		}
		return withPackage(ctx, name, version, func(deb string) error {
			return extractModules(ctx, deb, wanted, dir)
		})
	})
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for _, name := range wanted {
		b, err := os.ReadFile(filepath.Join(dir, name+".ko"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read kernel module: %w", err)
		}
		found[name] = b
	}
	return found, nil
}

// extractModules writes those of the named modules that a kernel package holds into dir.
func extractModules(ctx context.Context, deb string, names []string, dir string) error {
	return eachFile(ctx, deb, func(h *tar.Header, r io.Reader) (bool, error) {
		name, isModule := strings.CutSuffix(path.Base(h.Name), ".ko")
		if !isModule || !slices.Contains(names, name) {
			return false, nil
		}
		if h.Size > maxModuleBytes {
			return false, fmt.Errorf("cannot use kernel module %s of %d bytes", name, h.Size)
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return false, fmt.Errorf("cannot read kernel module %s: %w", name, err)
		}
		return false, writeFile(filepath.Join(dir, name+".ko"), b, 0o644)
	})
}
