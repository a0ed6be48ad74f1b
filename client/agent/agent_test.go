package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cordon-agent": main})
}

// TestScripts uses the agent as people type it, with a real TPM and no server.
func TestScripts(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPMWith(t, parts.TPMConfig{TCPAddr: "127.0.0.1:0"})
	bundle := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(bundle, trustBundle(t), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, "TPM="+tpm.Addr(), "TRUST="+bundle)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command that must end with an exit code: exits CODE COMMAND [ARG...].
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit %d, want %s", got, args[0])
	}
}

// trustBundle names a server on a port where nobody listens.
func trustBundle(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spec := tufrepo.RootSpec{Version: 1, Expires: time.Now().Add(time.Hour), Keys: map[string][]crypto.PublicKey{}, Threshold: map[string]int{}}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		spec.Keys[role], spec.Threshold[role] = []crypto.PublicKey{key.Public()}, 1
	}
	doc, err := tufrepo.RootPayload(spec)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := tufrepo.PayloadBytes(doc)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tufrepo.AddSignature(doc, key.Public(), ed25519.Sign(key, payload))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(wire.Trust{Version: wire.TrustVersion, Server: "https://127.0.0.1:1", TrustDomain: "example.org",
		ServerCA: certificate(t), ImageRoot: root, DirectorRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestRunEndsCleanlyOnASignal cancels the context as SIGTERM does.
func TestRunEndsCleanlyOnASignal(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	bundle := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(bundle, trustBundle(t), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := &waiter{want: "cannot complete a round", seen: cancel}
	if code := run(ctx, []string{"--trust", bundle, "--tpm", tpm.Addr(), "--state", t.TempDir()}, t.Output(), log); code != exitOK {
		t.Errorf("exit %d, want %d\n%s", code, exitOK, log.text)
	}
}

// A server names reasons and verdicts; it cannot move the cursor with them.
func TestOutcomeKeepsTheTerminalStill(t *testing.T) {
	t.Parallel()
	const evil = "\x1b[2J\r\u202e"
	var out bytes.Buffer
	outcome{Verdict: evil, Refusals: []client.Refusal{{Reason: evil, Detail: evil, Remedy: evil}}}.text(&out)
	if strings.ContainsAny(out.String(), "\x1b\r\u202e") || !strings.Contains(out.String(), "refused by the server: ?[2J??") {
		t.Errorf("got %q", out.String())
	}
}

// waiter is a log that calls seen when it holds a text.
type waiter struct {
	text []byte
	want string
	seen func()
}

func (w *waiter) Write(b []byte) (int, error) {
	w.text = append(w.text, b...)
	if bytes.Contains(w.text, []byte(w.want)) {
		w.seen()
	}
	return len(b), nil
}

// TestDoctorReplaysTheEventLog boots a machine and compares its log with its TPM, then after somebody measured
// something that is in no log.
func TestDoctorReplaysTheEventLog(t *testing.T) {
	t.Parallel()
	m := parts.TestMachine(t, parts.MachineConfig{})
	if err := m.CopyToSlot(parts.SlotA, parts.TestUKI(t, parts.UKISpec{Version: "1.0.0"})); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(t.Context()); err != nil {
		t.Fatalf("Boot: %v", err)
	}
	doctor := func() string {
		var out bytes.Buffer
		run(t.Context(), []string{"doctor", "--tpm", m.TPM().Addr(), "--event-log", m.EventLog(), "--installer", "ab:" + m.Dir()}, &out, t.Output())
		return out.String()
	}
	if out := doctor(); !strings.Contains(out, "events explain all registers") || !strings.Contains(out, "ok    installers: 1") {
		t.Errorf("doctor:\n%s", out)
	}
	if err := m.TPM().Extend(4, digest.Of([]byte("an implant"))); err != nil {
		t.Fatal(err)
	}
	if out := doctor(); !strings.Contains(out, "FAIL  event log: PCR 4 is") {
		t.Errorf("doctor after an unlogged measurement:\n%s", out)
	}
}
