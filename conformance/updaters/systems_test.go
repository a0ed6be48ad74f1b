package updaters_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// system is a machine that another program updates. Its releases are for hardware of its own, named after the program.
type system struct {
	kind     string // of installer
	device   *demo.Device
	updater  packer
	stranger packer              // of another maker
	slot     func(string) string // file of a slot
	stands   func() string       // what updater and boot loader say
	after    func(string) string // what they say when a slot runs that was proven
	failed   func(string) string // what they say when a slot did not start
	says     string              // of an image that a stranger signed
}

// packer makes what a release carries, signed for one maker's updater.
type packer func(ctx context.Context, version string, slot []byte) ([]byte, error)

func (s *system) hardware() string { return "board-" + s.kind }

// newRAUC makes a machine whose slots RAUC fills and whose boot loader RAUC tells what to start.
func newRAUC(t *testing.T, stage *demo.Stage, factory string) *system {
	mine := startRAUC(t)
	s := &system{kind: "rauc", says: "signature verification failed", updater: mine.Bundle, stranger: startRAUC(t).Bundle}
	s.slot = func(slot string) string { return mine.Slot(strings.ToUpper(slot)) }
	s.stands = func() string { return raucStands(t, mine) }
	s.after = func(slot string) string { return fmt.Sprintf("runs %s, next %s; a is good, b is good", slot, slot) }
	s.failed = func(slot string) string {
		other := otherOf(slot)
		states := map[string]string{slot: "bad", other: "good"}
		return fmt.Sprintf("runs %s, next %s; a is %s, b is %s", other, other, states["a"], states["b"])
	}
	b, err := os.ReadFile(factory)
	if err == nil {
		err = os.WriteFile(s.slot("a"), b, 0o600)
	}
	must(t, err)
	s.device = stage.NewDeviceOn(s.kind, demo.System{Hardware: s.hardware(), Installer: mine.Spec(), Restart: func(ctx context.Context, m *parts.Machine) (parts.BootReport, error) {
		var report parts.BootReport
		var tried error
		slot, err := mine.Restart(ctx, func(path string) error {
			var err error
			if report, err = m.BootFrom(ctx, path); err != nil {
				tried = err
			}
			return err
		})
		report.Slot, report.Tried = slot, tried
		return report, err
	}}, true)
	return s
}

func startRAUC(t *testing.T) *parts.RAUC {
	t.Helper()
	dir, err := os.MkdirTemp("", "cr") // the path of the bus is a socket's
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	r, err := parts.StartRAUC(t.Context(), dir)
	must(t, err)
	t.Cleanup(r.Stop)
	return r
}

// raucStands asks RAUC, which asks the boot loader.
func raucStands(t *testing.T, r *parts.RAUC) string {
	t.Helper()
	b, err := r.Status(t.Context())
	must(t, err)
	var status struct {
		Booted  string `json:"booted"`
		Primary string `json:"boot_primary"`
		Slots   []map[string]struct {
			Name  string `json:"bootname"`
			State string `json:"boot_status"`
		} `json:"slots"`
	}
	must(t, json.Unmarshal(b, &status))
	names, states := map[string]string{}, map[string]string{}
	for _, slot := range status.Slots {
		for device, s := range slot {
			names[device], states[s.Name] = s.Name, s.State
		}
	}
	return fmt.Sprintf("runs %s, next %s; a is %s, b is %s", strings.ToLower(status.Booted), strings.ToLower(names[status.Primary]), states["A"], states["B"])
}

// newSWUpdate makes a machine whose slots SWUpdate fills, with the hooks of its maker.
func newSWUpdate(t *testing.T, stage *demo.Stage, factory string) *system {
	s := &system{kind: "swupdate", says: "Authentication of all signatures failed"}
	s.after = func(slot string) string { return fmt.Sprintf("runs %s, stays %s, tries \"\"", slot, slot) }
	s.failed = func(slot string) string { return s.after(otherOf(slot)) }
	slots := stage.Path("devices", s.kind, "slots")
	must(t, os.MkdirAll(slots, 0o755))
	mine, err := parts.NewSWUpdate(t.Context(), slots)
	must(t, err)
	stranger, err := parts.NewSWUpdate(t.Context(), t.TempDir())
	must(t, err)
	s.updater, s.stranger = mine.Image, stranger.Image
	s.slot = func(slot string) string { return filepath.Join(slots, slot+".img") }
	s.device = stage.NewDeviceOn(s.kind, demo.System{Hardware: s.hardware(), Factory: factory, Installer: mine.Spec()}, true)
	s.stands = func() string {
		state := map[string]string{}
		for _, name := range []string{"running", "active", "next"} {
			b, err := os.ReadFile(filepath.Join(slots, name))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			state[name] = strings.TrimSpace(string(b))
		}
		return fmt.Sprintf("runs %s, stays %s, tries %q", state["running"], state["active"], state["next"])
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func otherOf(slot string) string { return map[string]string{"a": "b", "b": "a"}[slot] }
