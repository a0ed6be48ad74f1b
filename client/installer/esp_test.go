package installer_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
)

const vendor = installertest.LoaderVendor

// esp is a machine with systemd-boot and the process that installs on it.
type esp struct {
	*installertest.ESP
	t       testing.TB
	images  map[string][]byte
	uki     *installer.UKI
	cutting *cut // the power failure of a test of cuts
}

func newESP(t testing.TB, files map[string][]byte) *esp {
	t.Helper()
	m := &esp{ESP: installertest.NewESP(t), t: t, images: map[string][]byte{}}
	for name, b := range files {
		m.Put(name, b)
	}
	m.open()
	return m
}

func (m *esp) open() {
	m.t.Helper()
	var err error
	if m.uki, err = installer.NewUKI(m.Root, m.Vars); err != nil {
		m.t.Fatalf("NewUKI: %v", err)
	}
}

// boot restarts into a new process.
func (m *esp) boot() string {
	m.t.Helper()
	file := m.Boot()
	m.open()
	return file
}

func (m *esp) image(name string, version int) []byte {
	m.images[name] = m.Image(name, version)
	return m.images[name]
}

func describe(b []byte) installer.Image {
	return installer.Image{Component: "system", SHA256: digest.Of(b), Length: int64(len(b))}
}

// install writes and activates as the client does, also again after a cut.
func (m *esp) install(b []byte) error {
	m.t.Helper()
	image := describe(b)
	slot, err := m.uki.Prepare(m.t.Context(), image)
	if err != nil {
		return err
	}
	have := make([]byte, len(b))
	if n, _ := slot.ReadAt(have, 0); n < len(b) || !bytes.Equal(have, b) {
		if _, err := slot.WriteAt(b, 0); err != nil {
			return errors.Join(err, slot.Close())
		}
	}
	if err := errors.Join(slot.Sync(), slot.Close()); err != nil {
		return err
	}
	return m.uki.Activate(m.t.Context(), image)
}

func (m *esp) wantRunning(name string, trial bool) {
	m.t.Helper()
	b, err := m.uki.Running(m.t.Context())
	if err != nil {
		m.t.Fatalf("Running: %v", err)
	}
	got := ""
	for n, content := range m.images {
		if digest.Of(content) == b.SHA256 && int64(len(content)) == b.Length {
			got = n
		}
	}
	if got != name || b.Trial != trial {
		m.t.Errorf("Running = %s (%s), trial %v, want %s, trial %v", got, b.Slot, b.Trial, name, trial)
	}
}
