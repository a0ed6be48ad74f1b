package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrMissing is returned when a component is not installed and cannot be installed from here.
var ErrMissing = errors.New("components are missing")

// Package is a Debian package and what must be found on this machine for it to count as present.
type Package struct {
	Name     string   // as apt knows it
	Commands []string // looked up in PATH and in the system's sbin folders
	Files    []string // glob patterns of which at least one file must exist each
}

// packages lists every package that the parts use.
func packages() []Package {
	return []Package{
		{Name: "swtpm", Commands: []string{"swtpm"}},
		{Name: "swtpm-tools", Commands: []string{"swtpm_setup", "swtpm_ioctl", "swtpm_localca"}},
		{Name: "tpm2-tools", Commands: []string{"tpm2_eventlog", "tpm2_checkquote"}},
		{Name: "systemd-boot-efi", Files: []string{stubPath, SystemdBoot}},
		{Name: "binutils", Commands: []string{"objcopy"}},
		{Name: "sbsigntool", Commands: []string{"sbsign", "sbverify", "sbattach"}},
		{Name: "cpio", Commands: []string{"cpio"}},
		{Name: "postgresql-15", Files: []string{postgresGlob}},
		{Name: "iproute2", Commands: []string{"ip"}},
		{Name: "nftables", Commands: []string{"nft"}},
		{Name: "rauc", Commands: []string{"rauc"}},
		{Name: "squashfs-tools", Commands: []string{"mksquashfs"}},
		{Name: "dbus-daemon", Commands: []string{"dbus-daemon"}},
		{Name: "swupdate", Commands: []string{"swupdate"}},
		{Name: "openssl", Commands: []string{"openssl"}},
		{Name: "freeradius", Commands: []string{"freeradius"}},
		{Name: "freeradius-utils", Commands: []string{"radclient"}},
		{Name: "qemu-system-x86", Commands: []string{"qemu-system-x86_64"}},
		{Name: "ovmf", Files: []string{ovmfCode, ovmfSecureCode, ovmfVars}},
		{Name: "qemu-system-arm", Commands: []string{"qemu-system-aarch64"}},
		{Name: "qemu-efi-aarch64", Files: []string{aavmfCode, aavmfVars}},
		{Name: "binutils-aarch64-linux-gnu", Commands: []string{"aarch64-linux-gnu-objcopy"}},
		{Name: "mtools", Commands: []string{"mformat", "mmd", "mcopy", "mdir", "mren", "mdel", "mtype"}},
		{Name: "gdisk", Commands: []string{"sgdisk"}},
		{Name: "e2fsprogs", Commands: []string{"mke2fs"}},
		{Name: "efitools", Commands: []string{"cert-to-efi-sig-list", "sign-efi-sig-list"}},
		{Name: "busybox-static", Files: []string{Busybox}},
	}
}

// Missing returns those of the named packages that are not present. An unknown name is an error.
func Missing(names ...string) ([]string, error) {
	var missing []string
	known := packages()
	for _, name := range names {
		i := slices.IndexFunc(known, func(p Package) bool { return p.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("cannot check package %q: it is not one that the parts use", name)
		}
		if !known[i].present() {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

func (p Package) present() bool {
	for _, c := range p.Commands {
		if _, err := command(c); err != nil {
			return false
		}
	}
	for _, pattern := range p.Files {
		if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
			return false
		}
	}
	return true
}

// command finds an executable in PATH or, for users whose PATH lacks them, in the system's folders.
func command(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: command %s", ErrMissing, name)
}

// InstallLine is the command that installs the named packages.
func InstallLine(names ...string) string {
	return "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=600 " +
		strings.Join(names, " ")
}

// Require makes sure that the named packages are present. What is missing it installs when it is root or may become
// root without a password, after saying on log which packages those are; no daemon is started by the installation.
// Otherwise the error is ErrMissing and holds the line that installs them.
func Require(ctx context.Context, log io.Writer, names ...string) error {
	missing, err := Missing(names...)
	if err != nil || len(missing) == 0 {
		return err
	}
	shell, err := rootShell(ctx)
	if err != nil {
		return fmt.Errorf("%w: %s (%w); install them with: %s", ErrMissing, strings.Join(missing, " "), err, InstallLine(missing...))
	}
	unlock, err := lock(ctx, "apt")
	if err != nil {
		return err
	}
	defer unlock()
	// Another test package may have installed them while this one waited.
	if missing, err = Missing(names...); err != nil || len(missing) == 0 {
		return err
	}
	fmt.Fprintf(log, "installing %s\n", strings.Join(missing, " "))
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, shell[0], append(shell[1:], "/bin/sh", "-euc", installScript(missing))...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: cannot install %s: %w; the line is: %s\n%s",
			ErrMissing, strings.Join(missing, " "), err, InstallLine(missing...), tail(out.Bytes()))
	}
	if missing, err = Missing(names...); err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s still absent after: %s", ErrMissing, strings.Join(missing, " "), InstallLine(missing...))
}

// installScript keeps maintainer scripts from starting daemons: where the machine has no policy of its own about that,
// one that refuses every start holds during the installation.
func installScript(names []string) string {
	return `policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
` + InstallLine(names...)
}

// rootShell returns the prefix that runs a command as root; it is env for root itself.
func rootShell(ctx context.Context) ([]string, error) {
	if _, err := command("apt-get"); err != nil {
		return nil, errors.New("this machine has no apt-get")
	}
	if os.Geteuid() == 0 {
		return []string{"/usr/bin/env"}, nil
	}
	sudo, err := command("sudo")
	if err != nil {
		return nil, errors.New("not root, and there is no sudo")
	}
	if err := exec.CommandContext(ctx, sudo, "-n", "true").Run(); err != nil {
		return nil, errors.New("not root, and sudo wants a password")
	}
	return []string{sudo, "-n"}, nil
}

// run executes a tool to its end; the error holds the end of what it printed.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := command(name)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot run %s: %w: %s", name, err, tail(append(stderr.Bytes(), stdout.Bytes()...)))
	}
	return stdout.Bytes(), nil
}

// tail returns the end of a tool's output, enough to see what went wrong.
func tail(b []byte) string {
	const most = 2000
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.TrimSpace(string(b))
}
