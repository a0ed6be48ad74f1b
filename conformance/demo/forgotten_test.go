package demo_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// What the templates of the device's keys hold, and what root puts in its place: a genuine key of the TPM that nobody else
// can derive again.
var (
	nextAK = sha256.Sum256([]byte("cordon attestation key v1, generation 1"))
	tlsKey = sha256.Sum256([]byte("cordon tls key v1"))
	hidden = sha256.Sum256([]byte("known to root alone"))
)

// hide passes commands on to a TPM's socket and makes some of the keys from another template. It returns its address.
func hide(t *testing.T, target string, keys [][32]byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			go func() {
				defer conn.Close()
				if err := hideOne(conn, target, keys); err != nil && err != io.EOF {
					fmt.Fprintln(t.Output(), "hide:", err)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// hideOne passes one command on: the agent sends each over a connection of its own.
func hideOne(conn net.Conn, target string, keys [][32]byte) error {
	command := make([]byte, 10)
	if _, err := io.ReadFull(conn, command); err != nil {
		return err
	}
	size := min(binary.BigEndian.Uint32(command[2:]), 8192)
	command = append(command, make([]byte, max(size, 10)-10)...)
	if _, err := io.ReadFull(conn, command[10:]); err != nil {
		return err
	}
	tpm, err := net.Dial("unix", target)
	if err != nil {
		return err
	}
	defer tpm.Close()
	for _, key := range keys {
		command = bytes.ReplaceAll(command, key[:], hidden[:])
	}
	if _, err := tpm.Write(command); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	n, err := tpm.Read(answer)
	if err == nil {
		_, err = conn.Write(answer[:n])
	}
	return err
}

// valueOf is the value of a flag.
func valueOf(args []string, flag string) string { return args[slices.Index(args, flag)+1] }

// rotateAway is what root does in a moment on the device: keys are replaced by some that it keeps to itself, and everything
// on the disk is as before.
func rotateAway(t *testing.T, s *demo.Stage, d *demo.Device, keys ...[32]byte) {
	t.Helper()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(d.StateDir())); err != nil {
		t.Fatal(err)
	}
	args := d.Args()
	code, stdout, stderr := s.Run("cordon-agent", "rotate-ak", "--trust", valueOf(args, "--trust"), "--tpm", hide(t, valueOf(args, "--tpm"), keys),
		"--state", copied, "--event-log", valueOf(args, "--event-log"))
	if code != 0 || !strings.Contains(stdout, "the attestation key was replaced") {
		t.Fatalf("rotate-ak: exit %d\n%s%s", code, stdout, stderr)
	}
}

// stranger tries to use the time in which the server knows no attestation key of the device: another genuine TPM, with the
// device's endorsement certificate, which is no secret.
func stranger(t *testing.T, d, other *demo.Device) {
	t.Helper()
	certificate, err := open(t, d).EKCertificate()
	if err != nil {
		t.Fatal(err)
	}
	own := open(t, other)
	ak, akErr := own.AKPublic()
	public, tlsErr := own.TLSPublic()
	body, err := json.Marshal(wire.EnrollRequest{EKCertificate: certificate.Raw, AKPublic: ak, TLSPublic: public})
	if akErr != nil || tlsErr != nil || err != nil {
		t.Fatal(akErr, tlsErr, err)
	}
	var offer wire.EnrollChallenge
	status, answer := other.Ask("POST", wire.PathEnroll, body)
	if err := json.Unmarshal(answer, &offer); status != 200 || err != nil || offer.Device != d.ID() {
		t.Fatalf("round 1: %d %s, %v", status, answer, err)
	}
	if secret, err := own.ActivateCredential(offer.Credential, offer.EncryptedSecret); err == nil {
		t.Errorf("another TPM has opened the credential: %x", secret)
	}
}

func open(t *testing.T, d *demo.Device) *tpm.TPM {
	t.Helper()
	out, err := tpm.Open(valueOf(d.Args(), "--tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}

// forget is a person's wish; it returns exit code and output.
func forget(s *demo.Stage, person string, d *demo.Device) (int, string) {
	code, stdout, stderr := s.Run("cordonctl", s.By(person, "device", "forget-key", d.ID(), "--reason", "it was rotated away")...)
	return code, stdout + stderr
}

// Root has rotated the attestation key to one that nobody finds again. The device is clean again and refused for good, until
// two people have that key forgotten: it comes back by itself, as the device that it was.
func TestDeviceWhoseKeyWasRotatedAwayComesBackByTwoPeople(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d, other := s.Updated("robbed"), s.NewDevice("other", false)
	before := d.Seen()
	rotateAway(t, s, d, nextAK)
	isRefused(t, d)
	if why := s.Ctl("bob", "why", d.ID()); !strings.Contains(why, "device.ak_rotated") || !strings.Contains(why, "cordonctl device forget-key") {
		t.Errorf("an operator does not see the cause:\n%s", why)
	}
	if code, out := forget(s, "bob", d); code != 0 || !strings.Contains(out, "bob wants the attestation key forgotten: it was rotated away") {
		t.Fatalf("bob: exit %d\n%s", code, out)
	}
	if code, out := forget(s, "bob", d); code != 1 || !strings.Contains(out, string(reason.SamePerson)) {
		t.Errorf("bob again: exit %d\n%s", code, out)
	}
	if code, out := forget(s, "dave", d); code != 1 || !strings.Contains(out, string(reason.PermissionDenied)) {
		t.Errorf("an auditor: exit %d\n%s", code, out)
	}
	isRefused(t, d)
	if code, out := forget(s, "carol", d); code != 0 || !strings.Contains(out, "the attestation key is forgotten") {
		t.Fatalf("carol: exit %d\n%s", code, out)
	}
	if got := d.Seen(); got.Standing != "unproven" || got.Segment != "restricted" || got.LeaseUntil != nil || got.ForgetKey == nil || !got.ForgetKey.Forgotten {
		t.Errorf("forgotten: %+v", got)
	}
	for _, version := range []string{"1.0", demo.Recovery} {
		if status, p := d.Fetch(s.Image(version)); status != 403 || p.Reason != reason.AKUnknown {
			t.Errorf("the door gives %s: %d %s", version, status, p.Reason)
		}
	}
	s.Report() // an auditor can follow it before the device is back, too
	stranger(t, d, other)
	if got := other.Agent(); !demo.Refused(got, reason.DevicePending, false) || other.ID() == d.ID() {
		t.Errorf("another device: %s", got)
	}
	comesBack(t, s, d)
	after := d.Seen()
	if after.ID != before.ID || after.Tier != before.Tier || after.AdmittedBy != before.AdmittedBy || after.Product != before.Product ||
		!after.EnrolledAt.Equal(before.EnrolledAt) {
		t.Errorf("it is another device now: %+v, was %+v", after, before)
	}
	wantKeyEvents(t, s, d)
	s.Report()
}

// The same, where root has replaced the TLS key, too: the server does not even know who polls.
func TestDeviceWhoseKeysWereAllReplacedComesBackByTwoPeople(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("stripped")
	rotateAway(t, s, d, nextAK, tlsKey)
	isRefused(t, d)
	if status, p := d.Fetch(s.Image("1.0")); status != 401 || p.Reason != reason.DeviceUnknown {
		t.Errorf("the device's own TLS key: %d %s", status, p.Reason)
	}
	for _, person := range []string{"carol", "bob"} {
		if code, out := forget(s, person, d); code != 0 {
			t.Fatalf("%s: exit %d\n%s", person, code, out)
		}
	}
	comesBack(t, s, d)
	s.Report()
}

// isRefused restarts the clean device, which has to prove its boot then and cannot.
func isRefused(t *testing.T, d *demo.Device) {
	t.Helper()
	d.Boot()
	for range 2 {
		got := d.Agent()
		if !demo.Refused(got, reason.AKNotBound, false) || got.Verdict == "affirmed" || got.Staged != "" {
			t.Fatalf("the honest device: %s", got)
		}
		if !strings.Contains(got.Refusals[0].Remedy, "cordonctl device forget-key") {
			t.Errorf("the device does not say what to do: %s", got.Refusals[0].Remedy)
		}
	}
}

func wantKeyEvents(t *testing.T, s *demo.Stage, d *demo.Device) {
	t.Helper()
	var asked, ended []string
	for _, e := range events(t, s, d.ID()) {
		if strings.HasPrefix(e, "device.ak_forget_") {
			asked = append(asked, e)
		} else if strings.HasPrefix(e, "device.ak_") {
			ended = append(ended, e)
		}
	}
	if len(asked) != 2 || !slices.Equal(ended, []string{"device.ak_rotated", "device.ak_forgotten", "device.ak_registered"}) {
		t.Errorf("events %v, %v", asked, ended)
	}
}

// comesBack has the device enroll, prove its boot, and take the next update.
func comesBack(t *testing.T, s *demo.Stage, d *demo.Device) {
	t.Helper()
	if got := d.Agent(); got.Verdict != "affirmed" || len(got.Refusals) > 0 {
		t.Errorf("the honest device: %s", got)
	}
	if got := d.Seen(); got.Standing != "affirmed" || got.Segment != "production" || got.ForgetKey != nil || got.Quarantine != nil || got.Proven != "gateway/1.0" {
		t.Errorf("standing %s in %s, proven %s, %+v", got.Standing, got.Segment, got.Proven, got.ForgetKey)
	}
	s.Publish("1.1")
	if got := d.Agent(); got.Staged != "gateway/1.1" {
		t.Errorf("the update: %s", got)
	}
	d.Boot()
	if got := d.Agent(); !got.Committed {
		t.Errorf("the update: %s", got)
	}
	if got := d.Seen(); got.Proven != "gateway/1.1" {
		t.Errorf("proven %s", got.Proven)
	}
}
