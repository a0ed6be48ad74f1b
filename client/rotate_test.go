package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpmutil"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

func (d *device) rotate() {
	d.t.Helper()
	e, err := d.client.RotateAK(d.t.Context())
	if err != nil || e.Lifecycle != "active" {
		d.t.Fatalf("RotateAK = %+v, %v", e, err)
	}
}

func (d *device) step() client.Result {
	d.t.Helper()
	r, err := d.client.Step(d.t.Context())
	if err != nil {
		d.t.Fatalf("Step: %v", err)
	}
	return r
}

// registered is the attestation key that the server knows.
func (d *device) registered() []byte {
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	return bytes.Clone(d.server.ak.Raw)
}

// wantAK checks that device and server use the same key, which is another one than before if that is given.
func (d *device) wantAK(what string, before []byte) {
	d.t.Helper()
	got, err := d.tpm.AKPublic()
	if err != nil {
		d.t.Fatal(err)
	}
	if !bytes.Equal(got, d.registered()) {
		d.t.Errorf("%s: device and server use different attestation keys", what)
	}
	if bytes.Equal(got, before) {
		d.t.Errorf("%s: the attestation key is the one before", what)
	}
}

func (d *device) wantAffirmed(what string) {
	d.t.Helper()
	d.server.set(func() { d.server.proven, d.server.beacon = 0, [32]byte{} }) // it wants a proof
	if r := d.step(); r.Verdict != "affirmed" || len(r.Refusals) > 0 {
		d.t.Errorf("%s: Step = %+v, want an affirmed proof", what, r)
	}
}

func TestRotatesTheAttestationKey(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	if _, err := d.client.RotateAK(t.Context()); !errors.Is(err, client.ErrNotEnrolled) {
		t.Errorf("before the enrollment: got %v, want ErrNotEnrolled", err)
	}
	d.enroll()
	before := d.registered()
	d.rotate()
	d.wantAK("rotated", before)
	d.wantAffirmed("rotated")
	d.restart()
	d.wantAK("after a restart", before)
	d.wantAffirmed("after a restart")
	second := d.registered()
	d.rotate()
	d.wantAK("rotated again", second)
	d.boot()
	d.wantAffirmed("after a reboot")
}

// TestRotationSurvivesEveryCrash cuts the connection and kills the process before and after the server's commit: the
// device comes back by itself, with the new key, and stays able to prove its state all the time.
func TestRotationSurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	for name, committed := range map[string]bool{"before the commit": false, "after the commit": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.enroll()
			before := d.registered()
			d.server.set(func() { d.server.onAK = func(at bool) bool { return at == committed } })
			if e, err := d.client.RotateAK(t.Context()); err == nil {
				t.Fatalf("RotateAK = %+v", e)
			}
			d.server.set(func() { d.server.onAK = nil })
			d.restart() // killed: what was in memory is gone
			d.wantAffirmed("after the crash")
			d.wantAK("after the crash", before)
			d.restart()
			d.wantAffirmed("after another start")
		})
	}
}

// TestRotationThatCannotBeFinishedDoesNotSilenceTheDevice has the server fail at every attempt.
func TestRotationThatCannotBeFinishedDoesNotSilenceTheDevice(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	before := d.registered()
	d.server.set(func() { d.server.onAK = func(bool) bool { return true } })
	if _, err := d.client.RotateAK(t.Context()); err == nil {
		t.Fatal("RotateAK passed")
	}
	d.restart()
	for range 3 {
		d.wantAffirmed("while the server fails")
	}
	if !bytes.Equal(d.registered(), before) {
		t.Error("the key was replaced")
	}
}

// TestRotationThatHasToWaitIsLoggedOnce: it is tried at every poll, and a server may limit rotations to one in some hours.
func TestRotationThatHasToWaitIsLoggedOnce(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	answers := make(chan int, 1) // to the second round
	inner := d.server.Config.Handler
	d.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.PathActivate {
			inner.ServeHTTP(w, r)
			return
		}
		status := <-answers
		answers <- status
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		d.server.refuse(w, status, reason.RateLimited)
	})
	answers <- http.StatusTooManyRequests
	if _, err := d.client.RotateAK(t.Context()); err == nil {
		t.Fatal("RotateAK passed")
	}
	var log strings.Builder
	d.cfg = func(c *client.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
	d.restart()
	const text = "cannot finish the rotation of the attestation key now"
	for i, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, 0, http.StatusTooManyRequests} {
		<-answers
		answers <- status
		for range 3 {
			d.wantAffirmed("while the server wants it later")
		}
		if got := strings.Count(log.String(), text); got != i+1 {
			t.Errorf("status %d: logged %d times, want %d, once for each cause:\n%s", status, got, i+1, log.String())
		}
	}
}

// Each connection begins at another port; that is no other cause.
func TestCauseOfAnErrorNamesNoPort(t *testing.T) {
	t.Parallel()
	reset := func(port int) error {
		return fmt.Errorf("cannot exchange: %w", &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv6loopback, Port: port},
			Addr: &net.TCPAddr{IP: net.IPv6loopback, Port: 443}, Err: syscall.ECONNRESET})
	}
	if a, b := client.CauseOf(reset(40001)), client.CauseOf(reset(40002)); a != b || !strings.Contains(a, "connection reset") {
		t.Errorf("causes %q and %q, want the same", a, b)
	}
}

func TestRefusedRotationKeepsTheKey(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	before := d.registered()
	d.server.set(func() { d.server.noRotate = true })
	e, err := d.client.RotateAK(t.Context())
	if err != nil || e.Lifecycle != "" || len(e.Refusals) != 1 || e.Refusals[0].Reason != reason.AKNotBound {
		t.Errorf("RotateAK = %+v, %v", e, err)
	}
	d.wantAffirmed("refused")
	if got, err := d.tpm.AKPublic(); err != nil || !bytes.Equal(got, before) {
		t.Errorf("another key is in use, %v", err)
	}
}

// TestStateThatNamesAnotherKeyHeals: the state is a hint. A device that lost it, or had it set back, or finds nonsense in
// it, learns from the server which of its keys is registered.
func TestStateThatNamesAnotherKeyHeals(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	path := filepath.Join(d.state, "state.json")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.rotate()
	d.rotate()
	before := d.registered()
	for name, spoil := range map[string]func() error{
		"lost":     func() error { return os.Remove(path) },
		"set back": func() error { return os.WriteFile(path, old, 0o600) },
		"nonsense": func() error {
			return os.WriteFile(path, bytes.Replace(old, []byte(`"enrolled":true`), []byte(`"enrolled":true,"ak_generation":4000000000`), 1), 0o600)
		},
		"another generation": func() error {
			return os.WriteFile(path, bytes.Replace(old, []byte(`"enrolled":true`), []byte(`"enrolled":true,"ak_generation":7`), 1), 0o600)
		},
		"a rotation that nobody began": func() error {
			return os.WriteFile(path, bytes.Replace(old, []byte(`"enrolled":true`), []byte(`"enrolled":true,"ak_next":9`), 1), 0o600)
		},
	} {
		d.server.set(func() { d.server.noRotate = true })
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		d.restart()
		d.server.set(func() { d.server.proven, d.server.beacon = 0, [32]byte{} })
		d.step()
		d.wantAffirmed(name)
		if got, err := d.tpm.AKPublic(); err != nil || !bytes.Equal(got, before) {
			t.Errorf("%s: another key than the registered one is in use, %v", name, err)
		}
	}
}

func TestLastGenerationIsNotRotated(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	path := filepath.Join(d.state, "state.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte(`"enrolled":true`), []byte(`"enrolled":true,"ak_generation":31`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	d.restart()
	if _, err := d.client.RotateAK(t.Context()); !errors.Is(err, client.ErrLastKey) {
		t.Errorf("got %v, want ErrLastKey", err)
	}
}

func TestEnrollsWithoutAnEKCertificate(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	id := d.client.DeviceID()
	rw, err := d.parts.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tpm2.NVUndefineSpace(rw, "", tpm2.HandlePlatform, tpmutil.Handle(0x01c00002)), rw.Close()); err != nil {
		t.Fatal(err)
	}
	d.restart()
	if _, err := d.tpm.EKCertificate(); !errors.Is(err, tpm.ErrNoEKCertificate) {
		t.Fatalf("got %v, want no certificate", err)
	}
	d.enroll()
	if got := d.client.DeviceID(); got != id {
		t.Errorf("device %s, with its certificate it was %s", got, id)
	}
	d.wantAffirmed("without a certificate")
}
