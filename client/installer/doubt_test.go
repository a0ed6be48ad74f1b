package installer_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/client/installer"
)

// bring puts an image into the slot and activates it.
func bring(t *testing.T, in installer.Installer, image []byte) error {
	t.Helper()
	s, err := in.Prepare(t.Context(), describe(image))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.WriteAt(image, 0)
	if err := errors.Join(err, s.Sync(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return in.Activate(t.Context(), describe(image))
}

// slotAfterBoots restarts many times, keeps each boot that is no trial, and returns the slot that runs in the end.
func slotAfterBoots(t *testing.T, m *raucMachine) string {
	t.Helper()
	var boot installer.Boot
	for range 4 { // a slot has three starts
		m.Boot()
		in, err := m.Open()
		if err != nil {
			t.Fatal(err)
		}
		if boot, err = in.Running(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := in.(installer.Keeper).Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return boot.Slot
}

// afterInstalling lets RAUC do its work and then has its program say something else.
func (m *raucMachine) afterInstalling(t *testing.T, says string) {
	t.Helper()
	replaceIn(t, m.Program(), "exec rauc \"$@\"", "rauc \"$@\" || exit $?\ncase \"$*\" in *' install '*) echo '"+says+"' >&2; exit 1 ;; esac")
}

// RAUC may have installed what its caller was told had failed. What boots then was proven to nobody, so nobody may say that it
// is good.
func TestRAUCKeepsNoSlotThatNobodyHasProven(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t).(*raucMachine)
	m.afterInstalling(t, "LastError: Failed updating slot rootfs.1")
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := bring(t, in, m.Image(1, false)); kindOf(err) != failed {
		t.Fatalf("Activate: %v", err)
	}
	if slot := slotAfterBoots(t, m); slot != "A" {
		t.Errorf("after four starts slot %s runs, want A: B was never proven", slot)
	}
}

// An agent that was killed while RAUC installed asks again, and hears that RAUC is at work. What it had begun is what boots, on
// trial.
func TestRAUCGoesOnForAnAgentThatWasKilled(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t).(*raucMachine)
	image := m.Image(1, false)
	m.afterInstalling(t, "Terminated'; kill -9 $$; '")
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := bring(t, in, image); kindOf(err) != passing { // the service is done, and nobody has heard of it
		t.Fatalf("Activate: %v", err)
	}
	replaceIn(t, m.Program(), "#!/bin/sh\n", "#!/bin/sh\ncase \"$*\" in *' install '*) echo 'Failed to install: GDBus.Error: Already processing a different method' >&2; exit 1 ;; esac\n")
	if err := in.Activate(t.Context(), describe(image)); kindOf(err) != passing {
		t.Fatalf("Activate: %v", err)
	}
	m.Boot()
	if in, err = m.Open(); err != nil {
		t.Fatal(err)
	}
	boot, err := in.Running(t.Context())
	if want := describe(image); err != nil || boot.Slot != "B" || !boot.Trial || boot.SHA256 != want.SHA256 || boot.Length != want.Length {
		t.Errorf("Running = %+v, %v, want the trial of the image", boot, err)
	}
	if slot := slotAfterBoots(t, m); slot != "A" {
		t.Errorf("after its starts slot %s runs, want A: the trial was never proven", slot)
	}
}

// RAUC's program prints the same failure in another order each time. The cause is told once, so it has to be one text.
func TestRAUCSaysTheSameOfTheSameTrouble(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t).(*raucMachine)
	fill(t, m.Slot("B"))
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for range 4 {
		err := bring(t, in, m.Image(1, false))
		if errors.Is(err, installer.ErrUntold) {
			continue
		}
		if kindOf(err) != passing || !strings.Contains(err.Error(), "exit status 1: LastError: ") || !strings.HasSuffix(err.Error(), "No space left on device") {
			t.Fatalf("Activate: %v", err)
		}
		if want == "" {
			want = err.Error()
		}
		if err.Error() != want {
			t.Errorf("Activate: %v, before: %s", err, want)
		}
	}
}

// RAUC's program may end before it hears why an installation failed. That says nothing about the image, however often.
func TestRAUCThatDoesNotSayWhyRefusesNothing(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t).(*raucMachine)
	replaceIn(t, m.Program(), "#!/bin/sh\n", `#!/bin/sh
case "$*" in *' install '*)
	echo "rauc-Message: $(date +%T.%N): Using central status file" >&2
	echo "Installing bundle failed" >&2
	exit 1 ;;
esac
`)
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for range 2 {
		err := bring(t, in, m.Image(1, false))
		if kindOf(err) != passing || !errors.Is(err, installer.ErrUntold) || !strings.HasSuffix(err.Error(), "exit status 1: Installing bundle failed") {
			t.Errorf("Activate: %v", err)
		}
		if want == "" {
			want = err.Error()
		}
		if err.Error() != want {
			t.Errorf("Activate: %v, before: %s", err, want)
		}
	}
}

// A release that is taken back before it boots, and boots all the same, is not kept either.
func TestRAUCKeepsNoSlotThatWasTakenBack(t *testing.T) {
	t.Parallel()
	m := newRAUCMachine(t).(*raucMachine)
	in, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(bring(t, in, m.Image(1, false)), in.Rollback(t.Context())); err != nil {
		t.Fatal(err)
	}
	loader := filepath.Join(filepath.Dir(m.Slot("A")), "loader")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(loader, name), []byte(text), fs.FileMode(0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("order", "B A\n")
	write("B.left", "3\n")
	if slot := slotAfterBoots(t, m); slot != "A" {
		t.Errorf("after four starts slot %s runs, want A: B was never proven", slot)
	}
}

// certify replaces the certificate that images are signed with by one of the same key that is valid in another time.
func certify(t *testing.T, dir string, from, to time.Time) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "images"}, NotBefore: from, NotAfter: to, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.(crypto.Signer).Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Time comes from the network or not at all. Whoever sets a device's clock must not bring it to give up a good release for good.
// RAUC says that it was the time. SWUpdate does not: whoever asks it has to know whether the clock is right.
func TestImagesAreNotGivenUpForTheClock(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for what, valid := range map[string][2]time.Time{
		"a clock behind": {now.AddDate(1, 0, 0), now.AddDate(9, 0, 0)},
		"a clock ahead":  {now.AddDate(-9, 0, 0), now.AddDate(-1, 0, 0)},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRAUCMachine(t).(*raucMachine)
			certify(t, filepath.Dir(r.Slot("A")), valid[0], valid[1])
			if err := r.RAUC.Boot(t.Context(), "A"); err != nil {
				t.Fatal(err)
			}
			wantVerdict(t, r, r.Image(1, false), "RAUC with "+what, passing)
			s := newSWUpdateMachine(t).(*swupdateMachine)
			certify(t, s.Slots.Dir, valid[0], valid[1])
			wantVerdict(t, s, s.Image(1, false), "SWUpdate with "+what, refused)
		})
	}
}
