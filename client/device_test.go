package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// device is a machine with slots as files, a TPM and a client.
type device struct {
	t      testing.TB
	parts  *parts.TPM
	tpm    *tpm.TPM
	server *server
	client *client.Client
	state  string
	slots  string
	now    time.Time
	cfg    func(*client.Config)
	boots  int
}

var oldImage = []byte("the factory image")

func newDevice(t testing.TB) *device {
	t.Helper()
	p := parts.TestTPM(t)
	d := &device{t: t, parts: p, server: newServer(t, p), state: t.TempDir(), slots: t.TempDir(), now: start}
	d.write("a.img", oldImage)
	d.write("active", []byte("a\n"))
	d.write("running", []byte("a\n"))
	d.server.sign()
	d.restart()
	return d
}

func (d *device) write(name string, b []byte) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.slots, name), b, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) read(name string) []byte {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.slots, name))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// restart is a new process over the same state.
func (d *device) restart() {
	d.t.Helper()
	if d.tpm != nil {
		d.tpm.Close()
	}
	var err error
	if d.tpm, err = tpm.Open(d.parts.Addr()); err != nil {
		d.t.Fatalf("tpm.Open: %v", err)
	}
	ab, err := installer.NewAB(d.slots)
	if err != nil {
		d.t.Fatalf("NewAB: %v", err)
	}
	cfg := client.Config{
		Trust: d.server.trust(), TPM: d.tpm, StateDir: d.state, Installers: []installer.Installer{ab}, HardwareID: hardware,
		Now:   func() time.Time { return d.now },
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	if d.cfg != nil {
		d.cfg(&cfg)
	}
	if d.client, err = client.New(cfg); err != nil {
		d.t.Fatalf("client.New: %v", err)
	}
	d.t.Cleanup(func() { d.tpm.Close() })
}

// boot restarts the machine: the slot in next is tried once.
func (d *device) boot() {
	d.t.Helper()
	slot := d.read("active")
	if b, err := os.ReadFile(filepath.Join(d.slots, "next")); err == nil {
		slot = b
		if err := os.Rename(filepath.Join(d.slots, "next"), filepath.Join(d.slots, "tried")); err != nil {
			d.t.Fatal(err)
		}
	}
	d.write("running", slot)
	if err := d.parts.Reset(d.t.Context()); err != nil {
		d.t.Fatalf("Reset: %v", err)
	}
	d.boots++
	d.restart()
}

func (d *device) enroll() {
	d.t.Helper()
	e, err := d.client.Enroll(d.t.Context())
	if err != nil || e.Lifecycle != "active" {
		d.t.Fatalf("Enroll = %+v, %v", e, err)
	}
}

func (d *device) check() client.Result {
	d.t.Helper()
	r, err := d.client.Check(d.t.Context())
	if err != nil {
		d.t.Fatalf("Check: %v", err)
	}
	return r
}

func randomImage(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// publish makes a release of an image and offers it.
func (d *device) publish(version string, counter uint64, image []byte) artifacts.Release {
	d.t.Helper()
	rel := release(version, counter, image)
	d.server.publish(rel, image, d.server.ci, nil)
	d.server.offer(d.client.DeviceID().String(), &rel)
	return rel
}

// install brings a release to its end: downloaded, booted, proven, committed.
func (d *device) install(version string, counter uint64, image []byte) {
	d.t.Helper()
	d.publish(version, counter, image)
	d.stage()
	d.boot()
	r := d.check()
	if !r.Proven {
		d.t.Fatalf("Check after the boot = %+v, want a proven trial", r)
	}
	if refused, err := d.client.Commit(d.t.Context()); err != nil || refused != nil {
		d.t.Fatalf("Commit = %v, %v", refused, err)
	}
	if got := bytes.TrimSpace(d.read("active")); !bytes.Equal(d.read(string(got)+".img"), image) {
		d.t.Fatalf("the active slot %s does not hold the release", got)
	}
}

func (d *device) stage() {
	d.t.Helper()
	r := d.check()
	if r.Update == nil {
		d.t.Fatalf("Check = %+v, want an update", r)
	}
	if refused, err := r.Update.Install(d.t.Context()); err != nil || refused != nil {
		d.t.Fatalf("Install = %v, %v", refused, err)
	}
}

// wantRefused checks that the device refuses what it is offered, for one reason, and changes no slot.
func (d *device) wantRefused(want reason.Reason) {
	d.t.Helper()
	r := d.check()
	if r.Update != nil {
		d.t.Fatalf("Check offers %s, want a refusal with %s", r.Update.Name(), want)
	}
	for _, got := range r.Refusals {
		if got.Reason == want && got.Local {
			d.wantReported(want)
			return
		}
	}
	d.t.Errorf("Check refused with %+v, want %s", r.Refusals, want)
}

// wantReported checks that the next poll tells the server.
func (d *device) wantReported(want reason.Reason) {
	d.t.Helper()
	if _, err := d.client.Check(d.t.Context()); err != nil {
		d.t.Fatalf("Check: %v", err)
	}
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	for _, p := range d.server.polls {
		if bytes.Contains(p.Claims, []byte(`"reason":"`+string(want)+`"`)) {
			return
		}
	}
	d.t.Errorf("no poll reported %s", want)
}
