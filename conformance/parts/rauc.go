package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// RAUC is a system that RAUC updates: the slots A and B as files, a boot loader's store that RAUC talks to, and the RAUC
// service on a bus of its own.
type RAUC struct {
	dir string // of everything below
	bus *process
	svc *process
}

// raucBackend is the store of a boot loader as RAUC's manual sets U-Boot up: the slots in the order in which they are
// started, and how many starts each one has left.
const raucBackend = `#!/bin/sh
cd "$(dirname "$0")/loader" || exit 1
put() { echo "$2" >"$1.new" && mv "$1.new" "$1"; }
case $1 in
get-primary) for s in $(cat order); do [ "$(cat "$s.left")" = 0 ] || { echo "$s"; break; }; done ;;
set-primary) put order "$2 $(sed "s/$2//" order)" && put "$2.left" 3 ;;
get-state) if [ "$(cat "$2.left")" = 0 ]; then echo bad; else echo good; fi ;;
set-state) if [ "$3" = good ]; then put "$2.left" 3; else put "$2.left" 0; fi ;;
esac
`

const raucSystem = `[system]
compatible=acme
bootloader=custom
data-directory=@/data
mountprefix=@/mnt
[handlers]
bootloader-custom-backend=@/backend
[keyring]
path=@/cert.pem
[slot.rootfs.0]
device=@/A.img
type=raw
bootname=A
[slot.rootfs.1]
device=@/B.img
type=raw
bootname=B
`

// raucProgram reaches the service on its own bus.
const raucProgram = `#!/bin/sh
DBUS_STARTER_BUS_TYPE=session DBUS_SESSION_BUS_ADDRESS=unix:path=@/bus exec rauc "$@"
`

// Lengths of a slot, and of what a bundle fills at least, so that nothing is left of a small image before.
const (
	raucSlotBytes = 32 << 20
	raucFillBytes = 64 << 10
)

// StartRAUC makes such a system in dir, whose path must be short for the bus, and boots slot A.
func StartRAUC(ctx context.Context, dir string) (*RAUC, error) {
	if err := Require(ctx, os.Stderr, "rauc", "squashfs-tools", "dbus-daemon", "openssl"); err != nil {
		return nil, err
	}
	r := &RAUC{dir: dir}
	if err := r.lay(ctx); err != nil {
		return nil, fmt.Errorf("cannot make a system for RAUC: %w", err)
	}
	daemon, err := command("dbus-daemon")
	if err != nil {
		return nil, err
	}
	bus := filepath.Join(dir, "bus")
	r.bus, err = startProcess(processConfig{
		Argv: []string{daemon, "--session", "--nofork", "--nopidfile", "--address=unix:path=" + bus}, Log: filepath.Join(dir, "bus.log"), Stop: "TERM"})
	if err != nil {
		return nil, err
	}
	err = r.bus.waitReady(ctx, "dbus-daemon", func() error { _, err := os.Stat(bus); return err })
	if err == nil {
		err = r.Boot(ctx, "A")
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

func (r *RAUC) lay(ctx context.Context) error {
	for _, name := range []string{"data", "mnt", "loader"} {
		if err := os.MkdirAll(filepath.Join(r.dir, name), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"backend": raucBackend, "rauc": raucProgram, "system.conf": raucSystem,
		"loader/order": "A B\n", "loader/A.left": "3\n", "loader/B.left": "3\n", "A.img": "", "B.img": ""} {
		text = strings.ReplaceAll(text, "@/", r.dir+"/")
		if err := os.WriteFile(r.path(name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Truncate(r.Slot("A"), raucSlotBytes), os.Truncate(r.Slot("B"), raucSlotBytes)); err != nil {
		return err
	}
	_, err := run(ctx, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=bundles",
		"-days", "3650", "-keyout", r.path("key.pem"), "-out", r.path("cert.pem"))
	return err
}

func (r *RAUC) path(name string) string { return filepath.Join(r.dir, name) }

// Spec is what the agent's --installer takes; bundles go to the folder data.
func (r *RAUC) Spec() string {
	return "rauc:" + r.path("data") + ",conf=" + r.path("system.conf") + ",program=" + r.path("rauc")
}

// Program is a rauc that reaches the service.
func (r *RAUC) Program() string { return r.path("rauc") }

// Slot is the file of a slot.
func (r *RAUC) Slot(name string) string { return r.path(name + ".img") }

// Bundle makes a bundle that fills a slot.
func (r *RAUC) Bundle(ctx context.Context, version string, content []byte) ([]byte, error) {
	work, err := os.MkdirTemp(r.dir, "bundle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	in, out := filepath.Join(work, "in"), filepath.Join(work, "out.raucb")
	manifest := "[update]\ncompatible=acme\nversion=" + version + "\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n"
	full := append(append([]byte(nil), content...), make([]byte, max(0, raucFillBytes-len(content)))...)
	if err := errors.Join(os.Mkdir(in, 0o755), os.WriteFile(filepath.Join(in, "manifest.raucm"), []byte(manifest), 0o644),
		os.WriteFile(filepath.Join(in, "rootfs.img"), full, 0o644)); err != nil {
		return nil, err
	}
	if _, err := run(ctx, "rauc", "bundle", "--cert", r.path("cert.pem"), "--key", r.path("key.pem"), in, out); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// Restart restarts the system: the boot loader takes one from the starts that the first slot with any has left, and goes
// on when start says that the slot in that file does not start. It returns the slot that runs then.
func (r *RAUC) Restart(ctx context.Context, start func(path string) error) (slot string, err error) {
	var failed error
	for range 7 { // more than both slots have
		slot, err := r.next()
		if err != nil {
			return "", fmt.Errorf("cannot restart: %w", err)
		}
		if err := start(r.Slot(slot)); err != nil {
			failed = err
			continue
		}
		return slot, r.Boot(ctx, slot)
	}
	return "", fmt.Errorf("cannot restart: neither slot starts: %w", failed)
}

// next is the slot that the boot loader starts now; when none has a start left, all are given new ones.
func (r *RAUC) next() (string, error) {
	order, err := os.ReadFile(r.path("loader/order"))
	if err != nil {
		return "", err
	}
	slots := strings.Fields(string(order))
	for range 2 {
		for _, slot := range slots {
			left, err := os.ReadFile(r.left(slot))
			if err != nil {
				return "", err
			}
			if n, err := strconv.Atoi(strings.TrimSpace(string(left))); err != nil || n > 0 {
				return slot, errors.Join(err, os.WriteFile(r.left(slot), fmt.Appendln(nil, n-1), 0o644))
			}
		}
		for _, slot := range slots {
			err = errors.Join(err, os.WriteFile(r.left(slot), []byte("3\n"), 0o644))
		}
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("the boot loader knows no slots: %q", order)
}

// left is the file that counts the starts of a slot.
func (r *RAUC) left(slot string) string { return r.path("loader/" + slot + ".left") }

// Boot restarts the service as the system does that was booted from a slot.
func (r *RAUC) Boot(ctx context.Context, slot string) error {
	if r.svc != nil {
		r.svc.stop()
	}
	rauc, err := command("rauc")
	if err != nil {
		return err
	}
	r.svc, err = startProcess(processConfig{
		Argv: []string{rauc, "--conf=" + r.path("system.conf"), "--override-boot-slot=" + slot, "service"}, Log: r.path("rauc.log"), Stop: "TERM",
		Env: []string{"DBUS_STARTER_BUS_TYPE=session", "DBUS_SESSION_BUS_ADDRESS=unix:path=" + r.path("bus")},
	})
	if err != nil {
		return err
	}
	return r.svc.waitReady(ctx, "rauc service", func() error {
		b, err := r.Status(ctx)
		if err == nil && !strings.Contains(string(b), `"booted":"`+slot+`"`) {
			err = errors.New("it does not answer yet")
		}
		return err
	})
}

// Status is what RAUC says about the system, as JSON.
func (r *RAUC) Status(ctx context.Context) ([]byte, error) {
	return run(ctx, r.Program(), "--conf="+r.path("system.conf"), "status", "--output-format=json")
}

// Stop ends service and bus.
func (r *RAUC) Stop() {
	if r.svc != nil {
		r.svc.stop()
	}
	if r.bus != nil {
		r.bus.stop()
	}
}
