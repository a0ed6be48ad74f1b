package installer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/installer/installertest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestContract(t *testing.T) {
	t.Parallel()
	for name, machine := range map[string]func(*testing.T) installertest.Machine{
		"ab": newABMachine, "uki": newUKIMachine, "script": newScriptMachine, "rauc": newRAUCMachine, "swupdate": newSWUpdateMachine,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			installertest.Contract(t, machine)
		})
	}
}

// plainImage is an image of no format.
func plainImage(n int, broken bool) []byte {
	text := fmt.Sprintf("image %d ", n)
	if broken {
		text += "BROKEN "
	}
	return []byte(strings.Repeat(text, 50*n))
}

type abMachine struct{ *installertest.Slots }

func newABMachine(t *testing.T) installertest.Machine {
	return abMachine{installertest.NewSlots(t, t.TempDir())}
}

func (m abMachine) Open() (installer.Installer, error) { return installer.Open("ab:" + m.Dir) }

func (m abMachine) Image(n int, broken bool) []byte { return plainImage(n, broken) }

type ukiMachine struct{ *installertest.ESP }

func newUKIMachine(t *testing.T) installertest.Machine {
	m := ukiMachine{installertest.NewESP(t)}
	m.Put("factory.efi", m.ESP.Image("factory", 0))
	m.Boot()
	return m
}

func (m ukiMachine) Open() (installer.Installer, error) { return installer.Open(m.Spec()) }

func (m ukiMachine) Boot() { m.ESP.Boot() }

func (m ukiMachine) Image(n int, broken bool) []byte {
	name := fmt.Sprintf("image %d", n)
	m.Bad[name] = broken
	return m.ESP.Image(name, n)
}

// scripts do for the files of Slots what installer.AB does.
var scripts = map[string]string{
	"prepare": `[ "$running" = "$active" ] || exit 75
rm -f next
[ -e "$free.img" ] || : >"$free.img"
printf '{"path":"%s/%s.img"}' "$PWD" "$free"`,
	"activate": `rm -f tried; echo "$free" >next.new && mv next.new next`,
	"running": `trial=true; [ "$running" != "$active" ] || trial=false
printf '{"slot":"%s","trial":%s,"path":"%s/%s.img"}' "$running" "$trial" "$PWD" "$running"`,
	"commit":   `echo "$running" >active.new && mv active.new active; rm -f tried`,
	"rollback": `rm -f next`,
}

// putScripts writes executables that work in dir.
func putScripts(t *testing.T, dir string, texts map[string]string) string {
	t.Helper()
	at := t.TempDir()
	if err := os.Chmod(at, 0o755); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	for name, text := range texts {
		head := "#!/bin/sh\nset -e\ncd '" + dir + "'\nactive=$(cat active) running=$(cat running)\nfree=b; [ \"$running\" = a ] || free=a\n"
		if err := os.WriteFile(filepath.Join(at, name), []byte(head+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

type scriptMachine struct {
	*installertest.Slots
	scripts string
}

func newScriptMachine(t *testing.T) installertest.Machine {
	s := installertest.NewSlots(t, t.TempDir())
	return scriptMachine{s, putScripts(t, s.Dir, scripts)}
}

func (m scriptMachine) Open() (installer.Installer, error) {
	return installer.Open("script:" + m.scripts)
}

func (m scriptMachine) Image(n int, broken bool) []byte { return plainImage(n, broken) }

type raucMachine struct {
	*parts.RAUC
	t      *testing.T
	images map[string][]byte
}

func newRAUCMachine(t *testing.T) installertest.Machine {
	dir, err := os.MkdirTemp("", "cr") // the path of the bus is a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r, err := parts.StartRAUC(t.Context(), dir)
	if err != nil {
		t.Fatalf("StartRAUC: %v", err)
	}
	t.Cleanup(r.Stop)
	return &raucMachine{RAUC: r, t: t, images: map[string][]byte{}}
}

func (m *raucMachine) Open() (installer.Installer, error) { return installer.Open(m.Spec()) }

// Image is a bundle: making the same one twice gives other bytes.
func (m *raucMachine) Image(n int, broken bool) []byte {
	m.t.Helper()
	key := fmt.Sprint(n, broken)
	if m.images[key] == nil {
		b, err := m.Bundle(m.t.Context(), fmt.Sprint(n), plainImage(n, broken))
		if err != nil {
			m.t.Fatalf("Bundle: %v", err)
		}
		m.images[key] = b
	}
	return m.images[key]
}

func (m *raucMachine) Boot() {
	m.t.Helper()
	_, err := m.Restart(m.t.Context(), func(path string) error {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), "BROKEN") {
			err = errors.New("the image is broken")
		}
		return err
	})
	if err != nil {
		m.t.Fatalf("Restart: %v", err)
	}
}

type swupdateMachine struct {
	*installertest.Slots
	*parts.SWUpdate
	t      *testing.T
	images map[string][]byte
}

func newSWUpdateMachine(t *testing.T) installertest.Machine {
	dir := t.TempDir()
	s, err := parts.NewSWUpdate(t.Context(), dir)
	if err != nil {
		t.Fatalf("NewSWUpdate: %v", err)
	}
	return &swupdateMachine{Slots: installertest.NewSlots(t, dir), SWUpdate: s, t: t, images: map[string][]byte{}}
}

func (m *swupdateMachine) Open() (installer.Installer, error) { return installer.Open(m.Spec()) }

func (m *swupdateMachine) Image(n int, broken bool) []byte {
	m.t.Helper()
	key := fmt.Sprint(n, broken)
	if m.images[key] == nil {
		b, err := m.SWUpdate.Image(m.t.Context(), fmt.Sprint(n), plainImage(n, broken))
		if err != nil {
			m.t.Fatalf("Image: %v", err)
		}
		m.images[key] = b
	}
	return m.images[key]
}
