package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// RAUC is a system that RAUC updates: the slots A and B as files, a boot loader's store that RAUC talks to, and the RAUC
// service on a bus of its own.
type RAUC struct {
	dir string // of everything below
	bus *process
	svc *process
}

// raucBackend is the store of the boot loader: the slot that boots first, and those that are bad.
const raucBackend = `#!/bin/sh
d=$(dirname "$0")/loader
case $1 in
get-primary) cat "$d/primary" ;;
set-primary) echo "$2" >"$d/primary.new" && mv "$d/primary.new" "$d/primary" && rm -f "$d/$2.bad" && echo 1 >"$d/$2.tries" ;;
get-state) if [ -e "$d/$2.bad" ]; then echo bad; else echo good; fi ;;
set-state) if [ "$3" = good ]; then rm -f "$d/$2.bad" "$d/$2.tries"; else : >"$d/$2.bad"; fi ;;
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

// RAUCSlotBytes is the length of a slot.
const RAUCSlotBytes = 64 << 10

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
		"loader/primary": "A\n", "A.img": strings.Repeat("\x00", RAUCSlotBytes), "B.img": strings.Repeat("\x00", RAUCSlotBytes)} {
		text = strings.ReplaceAll(text, "@/", r.dir+"/")
		if name == "backend" || name == "rauc" {
			text = strings.ReplaceAll(text, `"$@/`, `"$@`)
		}
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o755); err != nil {
			return err
		}
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
	full := append(append([]byte(nil), content...), make([]byte, RAUCSlotBytes-len(content))...)
	if err := errors.Join(os.Mkdir(in, 0o755), os.WriteFile(filepath.Join(in, "manifest.raucm"), []byte(manifest), 0o644),
		os.WriteFile(filepath.Join(in, "rootfs.img"), full, 0o644)); err != nil {
		return nil, err
	}
	if _, err := run(ctx, "rauc", "bundle", "--cert", r.path("cert.pem"), "--key", r.path("key.pem"), in, out); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// Primary is the slot that the boot loader starts now. It starts a slot that was made primary once; when nobody has
// marked it good since, it starts the other one.
func (r *RAUC) Primary() (string, error) {
	b, err := os.ReadFile(r.path("loader/primary"))
	if err != nil {
		return "", err
	}
	slot := strings.TrimSpace(string(b))
	other := map[string]string{"A": "B", "B": "A"}[slot]
	if _, err := os.Stat(r.path("loader/" + slot + ".bad")); err == nil {
		return other, nil
	}
	tries, err := os.ReadFile(r.path("loader/" + slot + ".tries"))
	if errors.Is(err, os.ErrNotExist) {
		return slot, nil
	}
	if err != nil || string(tries) == "0\n" {
		return other, err
	}
	return slot, os.WriteFile(r.path("loader/"+slot+".tries"), []byte("0\n"), 0o644)
}

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
		b, err := run(ctx, r.Program(), "--conf="+r.path("system.conf"), "status", "--output-format=json")
		if err == nil && !strings.Contains(string(b), `"booted":"`+slot+`"`) {
			err = errors.New("it does not answer yet")
		}
		return err
	})
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
