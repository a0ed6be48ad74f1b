package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cordon-ota/cordon/conformance/parts"
)

// Programs are what every image of an architecture holds, built for the machine: static, as 'just build' makes them.
type Programs struct {
	Init  string // first process
	Agent string
}

// BuildPrograms builds the programs of this repository into dir for machines of an architecture, by default parts.AMD64,
// with build tags. It works below the repository's folder only.
func BuildPrograms(ctx context.Context, arch parts.Arch, dir string, tags ...string) (Programs, error) {
	if arch == "" {
		arch = parts.AMD64
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return Programs{}, fmt.Errorf("cannot find the repository: %w", err)
	}
	p := Programs{Init: filepath.Join(dir, "init"), Agent: filepath.Join(dir, "cordon-agent")}
	for out, pkg := range map[string]string{p.Init: "./conformance/device/init", p.Agent: "./client/agent"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", strings.Join(tags, ","), "-ldflags", "-s -w", "-o", out, pkg)
		cmd.Dir = filepath.Dir(strings.TrimSpace(string(root)))
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+string(arch))
		if text, err := cmd.CombinedOutput(); err != nil {
			return Programs{}, fmt.Errorf("cannot build %s: %w\n%s", pkg, err, text)
		}
	}
	return p, nil
}

// ImageSpec describes a release of the machine: a unified kernel image with everything in it that the machine runs.
type ImageSpec struct {
	Version  string
	Arch     parts.Arch
	Programs Programs          // of Arch
	Trust    []byte            // trust bundle, from 'cordonctl provision'
	Agent    []string          // further arguments of the agent
	Cmdline  string            // Optional: added to the kernel command line
	Broken   string            // Optional: why the first process of this image gives up, so that it never comes up
	Forward  string            // Optional: port that the trust bundle names on the loopback, and that is the host's
	Outside  bool              // Optional: the server is neither this host nor behind Forward: the machine gets a way out
	Files    map[string][]byte // Optional: further files of the initial file system, by path
	Kernel   parts.KernelImage // Optional: default: that of parts.SoftwareOf
	Keys     *parts.SecureBootKeys
	Out      string // file to write
}

// modules are what the machine needs of its kernel; what a kernel has built in, its package holds no module for.
func modules(arch parts.Arch) []string {
	names := []string{
		"virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net",
		"virtio_blk", "virtio-rng", "nls_cp437", "nls_ascii", "nls_utf8", "fat", "vfat", "efivarfs", "crc16", "mbcache", "jbd2", "ext4",
	}
	if arch == parts.ARM64 {
		names = append(names, "tpm_tis_core", "tpm_tis")
	}
	return names
}

// agentArguments are the agent's on every machine.
func agentArguments() []string {
	return []string{"--tpm", "/dev/tpmrm0", "--trust", "/etc/cordon/trust.json", "--state", "/data/cordon", "--reboot", "kill -USR1 1"}
}

// BuildImage makes an image. The same spec makes the same bytes, but for a signature.
func BuildImage(ctx context.Context, spec ImageSpec) error {
	software, err := parts.SoftwareOf(ctx, os.Stderr, spec.Arch)
	if err != nil {
		return err
	}
	if spec.Kernel.Path == "" {
		spec.Kernel = software.Kernel
	}
	files, err := spec.files(ctx, software.Busybox)
	if err != nil {
		return err
	}
	cmdline := spec.Arch.CommandLine() + " fw.version=" + spec.Version
	if spec.Cmdline != "" {
		cmdline += " " + spec.Cmdline
	}
	unsigned := spec.Out
	if spec.Keys != nil {
		unsigned += ".unsigned"
		defer os.Remove(unsigned)
	}
	_, err = parts.BuildUKI(ctx, parts.UKISpec{Version: spec.Version, Arch: spec.Arch, Kernel: spec.Kernel, Cmdline: cmdline, Files: files, Out: unsigned})
	if err != nil || spec.Keys == nil {
		return err
	}
	return spec.Keys.Sign(ctx, unsigned, spec.Out)
}

// files are the content of the initial file system.
func (s ImageSpec) files(ctx context.Context, busybox string) (map[string][]byte, error) {
	files := map[string][]byte{
		"etc/cordon/trust.json": s.Trust,
		"etc/cordon/version":    []byte(s.Version + "\n"),
		"etc/hosts":             []byte("127.0.0.1 localhost\n::1 localhost\n"),
		"etc/resolv.conf":       []byte("nameserver 10.0.2.3\n"),
	}
	arguments := append(agentArguments(), s.Agent...)
	files["etc/cordon/agent"] = []byte(strings.Join(arguments, "\n") + "\n")
	if s.Broken != "" {
		files["etc/cordon/broken"] = []byte(s.Broken)
	}
	if s.Forward != "" {
		files["etc/cordon/forward"] = []byte(s.Forward + "\n")
	}
	if s.Outside {
		files["etc/cordon/outside"] = []byte("yes\n")
	}
	var errs []error
	for name, path := range map[string]string{"init": s.Programs.Init, "bin/cordon-agent": s.Programs.Agent, "bin/sh": busybox} {
		b, err := os.ReadFile(path)
		files[name], errs = b, append(errs, err)
	}
	found, err := parts.KernelModules(ctx, s.Kernel, modules(s.Arch)...)
	for name, b := range found {
		files["mod/"+name+".ko"] = b
	}
	maps.Copy(files, s.Files)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("cannot build image %s: %w", s.Version, err)
	}
	return files, nil
}
