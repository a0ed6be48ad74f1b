package parts

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// KernelImage is a Linux kernel as Debian ships it, unpacked into the cache and not installed.
type KernelImage struct {
	Release string // as uname -r prints it: 6.1.0-56-cloud-amd64
	Package string // name_version of the package it came from
	Path    string // the bootable image

	deb string // the package itself, where it is kept
}

const (
	kernelImageFile = "vmlinuz"
	maxKernelBytes  = 64 << 20
)

var (
	kernelPackage = regexp.MustCompile(`^linux-image-([0-9][A-Za-z0-9.+-]*-amd64)$`)
	kernelDir     = regexp.MustCompile(`^linux-image-(.+-amd64)_(.+)$`)
	debVersion    = regexp.MustCompile(`^[A-Za-z0-9.+~:-]+$`)
)

// Kernels returns two Debian kernels of different releases: what apt offers today on the first call of a machine, the
// same two from the cache afterwards. Nothing is pinned and nothing is installed.
func Kernels(ctx context.Context, log io.Writer) ([]KernelImage, error) {
	base, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(base, "kernels")
	if found, err := cachedKernels(dir); err == nil && len(found) >= 2 {
		return found[:2], nil
	}
	unlock, err := lock(ctx, "kernels")
	if err != nil {
		return nil, err
	}
	defer unlock()
	found, err := cachedKernels(dir)
	if err != nil || len(found) >= 2 {
		return found, err
	}
	candidates, err := kernelCandidates(ctx, log)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, name := range candidates {
		if slices.ContainsFunc(found, func(k KernelImage) bool { return "linux-image-"+k.Release == name }) {
			continue
		}
		fmt.Fprintf(log, "downloading %s\n", name)
		k, err := fetchKernel(ctx, name)
		if err != nil {
			failed = errors.Join(failed, err) // an ABI may be listed and gone from the mirror
			continue
		}
		if found = append(found, k); len(found) == 2 {
			return cachedKernels(dir)
		}
	}
	return nil, fmt.Errorf("cannot get two Debian kernels, only %d: %w", len(found), failed)
}

// cachedKernels lists the cache in a fixed order, newest package name first.
func cachedKernels(dir string) ([]KernelImage, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel cache: %w", err)
	}
	var found []KernelImage
	for _, e := range entries {
		m := kernelDir.FindStringSubmatch(e.Name())
		if m == nil || slices.ContainsFunc(found, func(k KernelImage) bool { return k.Release == m[1] }) {
			continue
		}
		found = append(found, KernelImage{Release: m[1], Package: e.Name(), Path: filepath.Join(dir, e.Name(), kernelImageFile)})
	}
	slices.Reverse(found)
	return found, nil
}

// kernelCandidates asks apt which kernel packages there are: the current cloud kernel, the other cloud kernels of the
// same series from the newest down, then the current generic kernel.
func kernelCandidates(ctx context.Context, log io.Writer) ([]string, error) {
	current, err := kernelDependency(ctx, "linux-image-cloud-amd64")
	if err != nil {
		if updateErr := updateLists(ctx, log); updateErr != nil {
			return nil, fmt.Errorf("%w; its package lists cannot be fetched: %w", err, updateErr)
		}
		if current, err = kernelDependency(ctx, "linux-image-cloud-amd64"); err != nil {
			return nil, err
		}
	}
	names := []string{current}
	series, _, _ := strings.Cut(strings.TrimPrefix(current, "linux-image-"), "-")
	out, err := run(ctx, "apt-cache", "search", "--names-only", "^linux-image-"+regexp.QuoteMeta(series)+"-[0-9]+-cloud-amd64$")
	if err != nil {
		return nil, err
	}
	var others []string
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, " ")
		if kernelPackage.MatchString(name) && name != current {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	slices.Reverse(others)
	names = append(names, others[:min(len(others), 4)]...)
	if generic, err := kernelDependency(ctx, "linux-image-amd64"); err == nil {
		names = append(names, generic)
	}
	return names, nil
}

// kernelDependency resolves a meta package to the kernel package that it stands for today.
func kernelDependency(ctx context.Context, meta string) (string, error) {
	out, err := run(ctx, "apt-cache", "depends", meta)
	if err != nil {
		return "", fmt.Errorf("cannot resolve %s: %w", meta, err)
	}
	for line := range strings.Lines(string(out)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && kernelPackage.MatchString(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("cannot resolve %s: apt names no kernel for it", meta)
}

func updateLists(ctx context.Context, log io.Writer) error {
	shell, err := rootShell(ctx)
	if err != nil {
		return fmt.Errorf("%w; run: apt-get update", err)
	}
	fmt.Fprintln(log, "updating the package lists")
	_, err = run(ctx, shell[0], append(shell[1:], "apt-get", "update", "-o", "DPkg::Lock::Timeout=600")...)
	return err
}

// fetchKernel downloads one package and keeps nothing of it but the kernel.
func fetchKernel(ctx context.Context, name string) (KernelImage, error) {
	version, err := candidateVersion(ctx, name)
	if err != nil {
		return KernelImage{}, err
	}
	key := name + "_" + strings.ReplaceAll(version, ":", "~")
	dir, err := Cached(ctx, "kernels", key, func(ctx context.Context, dir string) error {
		return downloadKernel(ctx, name, version, dir)
	})
	if err != nil {
		return KernelImage{}, err
	}
	return KernelImage{Release: strings.TrimPrefix(name, "linux-image-"), Package: key, Path: filepath.Join(dir, kernelImageFile)}, nil
}

func candidateVersion(ctx context.Context, name string) (string, error) {
	out, err := run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return "", fmt.Errorf("cannot resolve version of %s: %w", name, err)
	}
	for line := range strings.Lines(string(out)) {
		version, ok := strings.CutPrefix(strings.TrimSpace(line), "Version: ")
		if ok && debVersion.MatchString(version) {
			return version, nil
		}
	}
	return "", fmt.Errorf("cannot resolve version of %s: apt names none", name)
}

func downloadKernel(ctx context.Context, name, version, dir string) error {
	return withPackage(ctx, name, version, func(deb string) error {
		return extractKernel(ctx, deb, filepath.Join(dir, kernelImageFile))
	})
}

// withPackage downloads a Debian package into a folder of its own, which is gone after use has returned.
func withPackage(ctx context.Context, name, version string, use func(deb string) error) error {
	apt, err := command("apt-get")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "cordon-kernel-")
	if err != nil {
		return fmt.Errorf("cannot download kernel: %w", err)
	}
	defer os.RemoveAll(work)
	cmd := exec.CommandContext(ctx, apt, "download", "-o", "APT::Sandbox::User=", name+"="+version)
	cmd.Dir = work // apt-get download writes into its working folder
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot download %s: %w: %s", name, err, tail(out))
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("cannot download %s: apt left %d packages", name, len(debs))
	}
	return use(debs[0])
}

// extractKernel writes the package's /boot/vmlinuz-* to out.
func extractKernel(ctx context.Context, deb, out string) error {
	found := false
	err := eachFile(ctx, deb, func(h *tar.Header, r io.Reader) (bool, error) {
		if !strings.HasPrefix(h.Name, "./boot/vmlinuz-") {
			return false, nil
		}
		if h.Size > maxKernelBytes {
			return false, fmt.Errorf("cannot use kernel of %d bytes", h.Size)
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return false, fmt.Errorf("cannot read kernel: %w", err)
		}
		if err := writeFile(out, b, 0o644); err != nil {
			return false, fmt.Errorf("cannot keep kernel: %w", err)
		}
		found = true
		return true, nil
	})
	if err == nil && !found {
		err = fmt.Errorf("cannot find a kernel in %s", filepath.Base(deb))
	}
	return err
}

// eachFile calls visit for every regular file of a Debian package until it says that it is done.
func eachFile(ctx context.Context, deb string, visit func(h *tar.Header, r io.Reader) (done bool, err error)) error {
	dpkg, err := command("dpkg-deb")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, dpkg, "--fsys-tarfile", deb)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return fmt.Errorf("cannot open kernel package: %w", err)
	}
	defer func() {
		cancel() // ends dpkg-deb once nothing more is wanted
		_ = cmd.Wait()
	}()
	for r := tar.NewReader(stdout); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", filepath.Base(deb), err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if done, err := visit(h, r); done || err != nil {
			return err
		}
	}
}
