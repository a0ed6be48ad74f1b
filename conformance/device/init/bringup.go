//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// efivars is where the kernel shows the firmware's variables.
const efivars = "/sys/firmware/efi/efivars"

// mountKernel mounts what the kernel itself offers.
func mountKernel() error {
	for _, m := range []struct{ what, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"securityfs", "/sys/kernel/security"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %w", m.where, err)
		}
		if err := unix.Mount(m.what, m.where, m.what, unix.MS_NOSUID, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("cannot mount %s: %w", m.where, err)
		}
	}
	return nil
}

// loadModules loads every module of a folder, in passes: one that needs another comes after it.
func loadModules(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(left)
	for len(left) > 0 {
		var again []string
		for _, path := range left {
			err := loadModule(path)
			switch {
			case err == unix.ENOENT:
				again = append(again, path)
			case err != nil && err != unix.EEXIST:
				return fmt.Errorf("cannot load %s: %w", path, err)
			}
		}
		if len(again) == len(left) {
			return fmt.Errorf("cannot load %s: they need something that is not there", strings.Join(left, " "))
		}
		left = again
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// networkUp gives the machine its address in QEMU's user network, where the host is 10.0.2.2.
func networkUp() error {
	for name, address := range map[string]string{"lo": "127.0.0.1/8", "eth0": "10.0.2.15/24"} {
		if err := waitFor(10*time.Second, func() error {
			_, err := net.InterfaceByName(name)
			return err
		}); err != nil {
			return fmt.Errorf("cannot find network interface %s: %w", name, err)
		}
		if err := setAddress(name, address); err != nil {
			return fmt.Errorf("cannot set up network interface %s: %w", name, err)
		}
	}
	return nil
}

func setAddress(name, address string) error {
	ip, network, err := net.ParseCIDR(address)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	err = errors.Join(request.SetInet4Addr(ip.To4()), unix.IoctlIfreq(s, unix.SIOCSIFADDR, request))
	if err != nil {
		return err
	}
	err = errors.Join(request.SetInet4Addr(net.IP(network.Mask).To4()), unix.IoctlIfreq(s, unix.SIOCSIFNETMASK, request))
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
}

// mountVariables mounts the firmware's variables, which need a module.
func mountVariables() error {
	if err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && err != unix.EBUSY {
		return fmt.Errorf("cannot mount the firmware's variables: %w", err)
	}
	return nil
}

// mountDisk mounts the EFI system partition and the data partition.
func mountDisk() error {
	for _, m := range []struct{ device, where, kind, options string }{
		{"/dev/vda1", "/esp", "vfat", "umask=0077"}, {"/dev/vda2", "/data", "ext4", ""},
	} {
		if err := waitFor(10*time.Second, func() error {
			_, err := os.Stat(m.device)
			return err
		}); err != nil {
			return fmt.Errorf("cannot find the disk: %w", err)
		}
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %w", m.where, err)
		}
		if err := unix.Mount(m.device, m.where, m.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, m.options); err != nil {
			return fmt.Errorf("cannot mount %s: %w", m.where, err)
		}
	}
	return nil
}

// waitFor tries until check is content or time is up.
func waitFor(most time.Duration, check func() error) error {
	end := time.Now().Add(most)
	for {
		err := check()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// boot tells what runs, before anything can go wrong.
func boot(serial *line) {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	serial.event("boot", "version", imageVersion(), "kernel", strings.TrimSpace(string(kernel)), "cmdline", strings.TrimSpace(string(cmdline)))
}

// imageVersion is what the measured image says of itself.
func imageVersion() string {
	b, err := os.ReadFile("/etc/cordon/version")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// started tells what the firmware and the boot loader did, and what the TPM holds.
func started(serial *line) {
	const loader = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	secure := "unknown"
	if b := variable("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"); len(b) == 1 {
		secure = map[byte]string{0: "off", 1: "on"}[b[0]]
	}
	serial.event("firmware", "secure_boot", secure, "loader", variableText("LoaderInfo"+loader), "entry", variableText("LoaderEntrySelected"+loader),
		"counter", variableText("LoaderBootCountPath"+loader))
	serial.event("pcrs", registers()...)
}

// variable reads a variable of the firmware, without its attributes.
func variable(name string) []byte {
	b, err := os.ReadFile(filepath.Join(efivars, name))
	if err != nil || len(b) < 4 {
		return nil
	}
	return b[4:]
}

func variableText(name string) string {
	b := variable(name)
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return strings.TrimRight(string(utf16.Decode(units)), "\x00")
}

// registers are the PCRs of the SHA-256 bank as the kernel reads them, as pairs.
func registers() []string {
	var pairs []string
	for i := range 24 {
		b, err := os.ReadFile(fmt.Sprintf("/sys/class/tpm/tpm0/pcr-sha256/%d", i))
		if err == nil {
			pairs = append(pairs, fmt.Sprint(i), strings.ToLower(strings.TrimSpace(string(b))))
		}
	}
	return pairs
}

func listing(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
