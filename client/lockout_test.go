package client_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/tpm"
)

// lockOut guesses the password of a protected key until the TPM locks itself.
func (d *device) lockOut() {
	d.t.Helper()
	rw, err := d.parts.Open()
	if err != nil {
		d.t.Fatal(err)
	}
	defer rw.Close()
	victim := tpm2.Public{
		Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: tpm2.FlagSignerDefault &^ tpm2.FlagRestricted,
		ECCParameters: &tpm2.ECCParams{CurveID: tpm2.CurveNISTP256, Sign: &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256}},
	}
	h, _, err := tpm2.CreatePrimary(rw, tpm2.HandleOwner, tpm2.PCRSelection{}, "", "secret", victim)
	if err != nil {
		d.t.Fatalf("CreatePrimary: %v", err)
	}
	for range 64 {
		if _, err := tpm2.Sign(rw, h, "wrong", make([]byte, 32), nil, nil); err == nil {
			d.t.Fatal("a wrong password was accepted")
		}
		locked, err := d.tpm.LockedOut()
		if err != nil {
			d.t.Fatal(err)
		}
		if locked {
			if err := tpm2.FlushContext(rw, h); err != nil {
				d.t.Fatal(err)
			}
			return
		}
	}
	d.t.Fatal("the TPM never went into lockout")
}

// TestLockoutIsReportedAndAttestationGoesOn drives the TPM into lockout. The device proves itself all the same, its
// operator and the server are told, and told again when it is over.
func TestLockoutIsReportedAndAttestationGoesOn(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.check()
	d.lockOut()
	d.boot() // a new boot has to be proven over a challenge
	if r := d.check(); r.Verdict != "affirmed" || r.Refusals != nil {
		t.Errorf("Check in lockout = %+v, want a proof", r)
	}
	d.wantReported(reason.TPMLockedOut)
	d.wantLockedOut(true)
	d.install("1.1.0", 3, randomImage(t, 1000)) // counter and keys work on
	rw, err := d.parts.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := tpm2.DictionaryAttackLockReset(rw, tpm2.AuthCommand{Session: tpm2.HandlePasswordSession, Attributes: tpm2.AttrContinueSession}); err != nil {
		t.Fatalf("cannot clear the lockout: %v", err)
	}
	d.check()
	d.wantLockedOut(false)
}

func (d *device) wantLockedOut(want bool) {
	d.t.Helper()
	s, err := client.ReadStatus(d.state)
	if err != nil || s.LockedOut != want {
		d.t.Errorf("status says locked out %v, %v, want %v", s.LockedOut, err, want)
	}
}

// silent is a TPM that refuses to quote with TPM_RC_LOCKOUT, as one does whose keys are under dictionary-attack
// protection; everything else it does.
func silent(t *testing.T, d *device, locked *atomic.Bool) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ct") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go relay(conn, d.parts.Addr(), locked)
		}
	}()
	return path
}

// relay carries the commands of one connection.
func relay(conn net.Conn, to string, locked *atomic.Bool) {
	defer conn.Close()
	up, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	defer up.Close()
	for {
		command, err := message(conn)
		if err != nil {
			return
		}
		const quote, lockout = 0x158, 0x921
		if locked.Load() && binary.BigEndian.Uint32(command[6:]) == quote {
			_, _ = conn.Write(binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, lockout))
			continue
		}
		if _, err := up.Write(command); err != nil {
			return
		}
		answer, err := message(up)
		if err != nil {
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

func message(r io.Reader) ([]byte, error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	b := make([]byte, max(binary.BigEndian.Uint32(head[2:]), 10))
	copy(b, head)
	_, err := io.ReadFull(r, b[10:])
	return b, err
}

// TestLockedTPMIsNoFailedAttestation gives the device a TPM that does not quote. It polls on without evidence, says
// why, and proves itself as soon as the TPM does its work.
func TestLockedTPMIsNoFailedAttestation(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	var locked atomic.Bool
	through := silent(t, d, &locked)
	d.cfg = func(c *client.Config) {
		device, err := tpm.Open(through)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { device.Close() })
		c.TPM = device
	}
	d.restart()
	locked.Store(true)
	polls := 0
	for range 3 {
		r, err := d.client.Step(t.Context())
		if err != nil || r.Verdict != "" || len(r.Refusals) != 1 || r.Refusals[0].Reason != reason.TPMLockedOut || r.Refusals[0].Remedy == "" {
			t.Fatalf("Step = %+v, %v, want tpm_locked_out and no verdict", r, err)
		}
		d.server.set(func() {
			if len(d.server.polls) <= polls {
				t.Error("no poll was sent")
			} else if d.server.polls[len(d.server.polls)-1].Evidence != nil {
				t.Error("the poll carries evidence of a TPM that gave none")
			}
			polls = len(d.server.polls)
		})
	}
	locked.Store(false)
	if r, err := d.client.Step(t.Context()); err != nil || r.Verdict != "affirmed" || r.Refusals != nil {
		t.Errorf("Step after the lockout = %+v, %v, want a proof", r, err)
	}
	d.wantReported(reason.TPMLockedOut)
}
