package parts

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Software is what a machine runs beside this repository's programs, as Debian ships it.
type Software struct {
	Kernel  KernelImage
	Stub    string // systemd-stub, which unified kernel images start with
	Loader  string // systemd-boot, unsigned
	Busybox string // static
}

// SoftwareOf returns the software of an architecture. That of a foreign one is what apt offers on the first call of a
// machine, downloaded with package lists of its own into the cache, and from there afterwards. Nothing is installed and
// this machine's apt learns of no other architecture.
func SoftwareOf(ctx context.Context, log io.Writer, arch Arch) (Software, error) {
	switch arch {
	case AMD64, "":
	case ARM64:
		return foreignSoftware(ctx, log, arch)
	default:
		return Software{}, fmt.Errorf("cannot build machines of architecture %q: known are %s and %s", arch, AMD64, ARM64)
	}
	if err := Require(ctx, log, "systemd-boot-efi", "busybox-static"); err != nil {
		return Software{}, err
	}
	kernels, err := Kernels(ctx, log)
	if err != nil {
		return Software{}, err
	}
	return Software{Kernel: kernels[0], Stub: stubPath, Loader: SystemdBoot, Busybox: Busybox}, nil
}

// Files of a foreign architecture in the cache.
const (
	foreignKernel  = "kernel.deb" // whole: modules are taken from it as they are asked for
	foreignName    = "kernel.name"
	foreignStub    = "systemd-stub.efi"
	foreignLoader  = "systemd-boot.efi"
	foreignBusybox = "busybox"

	maxForeignBytes = 16 << 20 // of a file that is not the kernel
)

// foreignPackage is the name of a package that apt has downloaded: NAME_VERSION_ARCH.deb.
var foreignPackage = regexp.MustCompile(`^linux-image-(.+-arm64)_(.+)_arm64\.deb$`)

func foreignSoftware(ctx context.Context, log io.Writer, arch Arch) (Software, error) {
	dir, err := Cached(ctx, "software", string(arch), func(ctx context.Context, dir string) error {
		return fetchForeign(ctx, log, arch, dir)
	})
	if err != nil {
		return Software{}, err
	}
	name, err := os.ReadFile(filepath.Join(dir, foreignName))
	if err != nil {
		return Software{}, fmt.Errorf("cannot read software of %s: %w", arch, err)
	}
	release, _, _ := strings.Cut(strings.TrimPrefix(string(name), "linux-image-"), "_")
	return Software{
		Kernel: KernelImage{Release: release, Package: string(name), Path: filepath.Join(dir, kernelImageFile), deb: filepath.Join(dir, foreignKernel)},
		Stub:   filepath.Join(dir, foreignStub), Loader: filepath.Join(dir, foreignLoader), Busybox: filepath.Join(dir, foreignBusybox),
	}, nil
}

// fetchForeign fills a folder with software.
func fetchForeign(ctx context.Context, log io.Writer, arch Arch, dir string) error {
	work, err := os.MkdirTemp("", "cordon-foreign-")
	if err != nil {
		return fmt.Errorf("cannot fetch software of %s: %w", arch, err)
	}
	defer os.RemoveAll(work)
	fmt.Fprintf(log, "downloading kernel, boot loader and busybox of %s\n", arch)
	apt, err := newForeignApt(ctx, arch, work)
	if err != nil {
		return err
	}
	kernel, err := apt.kernel(ctx)
	if err != nil {
		return err
	}
	debs, err := apt.download(ctx, kernel, "systemd-boot-efi", "busybox-static")
	if err != nil {
		return err
	}
	m := foreignPackage.FindStringSubmatch(filepath.Base(debs[kernel]))
	if m == nil {
		return fmt.Errorf("cannot use kernel package %s of %s", filepath.Base(debs[kernel]), arch)
	}
	name := "linux-image-" + m[1] + "_" + strings.ReplaceAll(m[2], "%3a", "~")
	if err := os.WriteFile(filepath.Join(dir, foreignName), []byte(name), 0o644); err != nil {
		return fmt.Errorf("cannot keep software of %s: %w", arch, err)
	}
	return errors.Join(
		extractKernel(ctx, debs[kernel], filepath.Join(dir, kernelImageFile)),
		CopySparse(filepath.Join(dir, foreignKernel), debs[kernel]),
		extractFiles(ctx, debs["systemd-boot-efi"], map[string]string{
			"./usr/lib/systemd/boot/efi/linuxaa64.efi.stub": filepath.Join(dir, foreignStub), "./usr/lib/systemd/boot/efi/systemd-bootaa64.efi": filepath.Join(dir, foreignLoader),
		}),
		extractFiles(ctx, debs["busybox-static"], map[string]string{"./bin/busybox": filepath.Join(dir, foreignBusybox)}),
	)
}

// extractFiles writes files of a Debian package to where the map says.
func extractFiles(ctx context.Context, deb string, wanted map[string]string) error {
	left := maps.Clone(wanted)
	err := eachFile(ctx, deb, func(h *tar.Header, r io.Reader) (bool, error) {
		out, ok := left[h.Name]
		if !ok {
			return false, nil
		}
		if h.Size > maxForeignBytes {
			return false, fmt.Errorf("cannot use %s of %d bytes", h.Name, h.Size)
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return false, fmt.Errorf("cannot read %s: %w", h.Name, err)
		}
		delete(left, h.Name)
		return len(left) == 0, writeFile(out, b, 0o755)
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("cannot find %s in %s", strings.Join(slices.Sorted(maps.Keys(left)), " "), filepath.Base(deb))
	}
	return err
}

// foreignApt asks the mirrors of this machine for packages of another architecture. It needs no root and writes into its
// folder alone.
type foreignApt struct {
	arch Arch
	dir  string
}

func newForeignApt(ctx context.Context, arch Arch, dir string) (foreignApt, error) {
	a := foreignApt{arch: arch, dir: dir}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return a, fmt.Errorf("cannot make apt folder: %w", err)
		}
	}
	config := fmt.Sprintf("APT::Architecture %q;\nAPT::Architectures { %q; };\nAPT::Sandbox::User \"\";\nDir::State %q;\nDir::Cache %q;\nDir::State::status \"/dev/null\";\n",
		arch, arch, filepath.Join(dir, "state"), filepath.Join(dir, "cache"))
	if err := os.WriteFile(filepath.Join(dir, "apt.conf"), []byte(config), 0o644); err != nil {
		return a, fmt.Errorf("cannot write apt configuration: %w", err)
	}
	_, err := a.run(ctx, "apt-get", "update")
	return a, err
}

func (a foreignApt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := command(name)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = filepath.Join(a.dir, "debs") // apt-get download writes into its working folder
	cmd.Env = append(os.Environ(), "LC_ALL=C", "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: cannot get packages of %s: %s %s: %w: %s", ErrMissing, a.arch, name, strings.Join(args, " "), err, tail(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// kernel resolves the cloud kernel of today.
func (a foreignApt) kernel(ctx context.Context) (string, error) {
	meta := "linux-image-cloud-" + string(a.arch)
	out, err := a.run(ctx, "apt-cache", "depends", meta)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", fmt.Errorf("%w: apt names no kernel for %s", ErrMissing, meta)
}

// download fetches packages and returns their files by name.
func (a foreignApt) download(ctx context.Context, names ...string) (map[string]string, error) {
	if _, err := a.run(ctx, "apt-get", append([]string{"download"}, names...)...); err != nil {
		return nil, err
	}
	debs := map[string]string{}
	for _, name := range names {
		found, err := filepath.Glob(filepath.Join(a.dir, "debs", name+"_*.deb"))
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("%w: apt left %d files of %s", ErrMissing, len(found), name)
		}
		debs[name] = found[0]
	}
	return debs, nil
}
