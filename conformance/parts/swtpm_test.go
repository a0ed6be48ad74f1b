package parts_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/google/go-tpm/legacy/tpm2"
	tpm2direct "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpmutil"
)

// ekCertificate is the NV index of the RSA-2048 EK's certificate.
const ekCertificate = 0x01c00002

func clock(t *testing.T, tpm *parts.TPM) tpm2direct.TPMSTimeInfo {
	t.Helper()
	rw, err := tpm.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer rw.Close()
	rsp, err := tpm2direct.ReadClock{}.Execute(transport.FromReadWriter(rw))
	if err != nil {
		t.Fatalf("TPM2_ReadClock: %v", err)
	}
	return rsp.CurrentTime
}

func pcrs(t *testing.T, tpm *parts.TPM) map[int]digest.SHA256 {
	t.Helper()
	got, err := tpm.PCRs()
	if err != nil {
		t.Fatalf("PCRs: %v", err)
	}
	return got
}

func extend(t *testing.T, tpm *parts.TPM, pcr int, d digest.SHA256) {
	t.Helper()
	if err := tpm.Extend(pcr, d); err != nil {
		t.Fatalf("Extend: %v", err)
	}
}

func ekDER(t *testing.T, tpm *parts.TPM) []byte {
	t.Helper()
	rw, err := tpm.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer rw.Close()
	der, err := tpm2.NVReadEx(rw, ekCertificate, tpm2.HandleOwner, "", 0)
	if err != nil {
		t.Fatalf("NVReadEx: %v", err)
	}
	return der
}

func TestResetClearsPCRsAndCounts(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	before := clock(t, tpm)
	extend(t, tpm, 4, digest.Of([]byte("something")))
	if pcrs(t, tpm)[4].IsZero() {
		t.Fatal("PCR 4 is zero after an extend")
	}
	if err := tpm.Reset(t.Context()); err != nil {
		t.Fatalf("Reset: %v", err)
	}
	after := clock(t, tpm)
	if got := pcrs(t, tpm)[4]; !got.IsZero() {
		t.Errorf("PCR 4 after reset: got %s, want zero", got)
	}
	if after.ClockInfo.ResetCount != before.ClockInfo.ResetCount+1 {
		t.Errorf("resetCount: got %d after %d, want one more", after.ClockInfo.ResetCount, before.ClockInfo.ResetCount)
	}
	if !after.ClockInfo.Safe {
		t.Error("the clock is unsafe after an orderly reset")
	}
}

func TestPowerCutCountsToo(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	before := clock(t, tpm).ClockInfo.ResetCount
	if err := tpm.PowerCut(t.Context()); err != nil {
		t.Fatalf("PowerCut: %v", err)
	}
	if got := clock(t, tpm).ClockInfo.ResetCount; got != before+1 {
		t.Errorf("resetCount: got %d after %d, want one more", got, before)
	}
}

func TestExtendIsHashOfOldAndNew(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	one, two := digest.Of([]byte("one")), digest.Of([]byte("two"))
	extend(t, tpm, 5, one)
	extend(t, tpm, 5, two)
	want := fold(fold(digest.SHA256{}, one), two)
	if got := pcrs(t, tpm)[5]; got != want {
		t.Errorf("PCR 5: got %s, want %s", got, want)
	}
}

func TestStateSurvivesStopAndKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := parts.StartTPM(t.Context(), parts.TPMConfig{Dir: dir, Name: "dev-0001"})
	if err != nil {
		t.Fatalf("StartTPM: %v", err)
	}
	ek, count := ekDER(t, first), clock(t, first).ClockInfo.ResetCount
	pid := first.PID()
	if err := first.Stop(); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("swtpm after Stop: got %v, want no such process", err)
	}
	if _, err := os.Stat(first.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after Stop: got %v, want not exist", err)
	}
	second, err := parts.StartTPM(t.Context(), parts.TPMConfig{Dir: dir})
	if err != nil {
		t.Fatalf("StartTPM again: %v", err)
	}
	second.Kill()
	third := parts.TestTPMWith(t, parts.TPMConfig{Dir: dir})
	if !bytes.Equal(ekDER(t, third), ek) {
		t.Error("the EK certificate changed over a restart")
	}
	if got := clock(t, third).ClockInfo.ResetCount; got <= count {
		t.Errorf("resetCount: got %d after %d, want more", got, count)
	}
}

func TestSecondTPMOverOneStateIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parts.TestTPMWith(t, parts.TPMConfig{Dir: dir})
	second, err := parts.StartTPM(t.Context(), parts.TPMConfig{Dir: dir})
	if err == nil {
		second.Kill()
		t.Fatal("two TPMs run over one state")
	}
}

func TestCloneHasTheSameIdentity(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	dir := t.TempDir()
	if err := tpm.CloneState(dir); err != nil {
		t.Fatalf("CloneState: %v", err)
	}
	clone := parts.TestTPMWith(t, parts.TPMConfig{Dir: dir})
	if !bytes.Equal(ekDER(t, tpm), ekDER(t, clone)) {
		t.Error("the clone has another EK certificate")
	}
	if bytes.Equal(ekDER(t, tpm), ekDER(t, parts.TestTPM(t))) {
		t.Error("two manufactured TPMs share an EK certificate")
	}
}

func TestStockTPMsAreDifferent(t *testing.T) {
	t.Parallel()
	if bytes.Equal(ekDER(t, parts.TestTPM(t)), ekDER(t, parts.TestTPM(t))) {
		t.Error("two TPMs of the stock share an EK certificate")
	}
	if tpm, err := parts.StartTPM(t.Context(), parts.TPMConfig{Dir: t.TempDir(), Name: "mine", Stock: 1}); err == nil {
		tpm.Kill()
		t.Error("a TPM of the stock took a name of its own")
	}
}

func TestEKCertificateChainsToTheCA(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPMWith(t, parts.TPMConfig{Dir: t.TempDir(), CA: filepath.Join(t.TempDir(), "ca"), Name: "dev-0042"})
	rootPEM, issuerPEM, err := tpm.CARoots()
	if err != nil {
		t.Fatalf("CARoots: %v", err)
	}
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(rootPEM) || !issuers.AppendCertsFromPEM(issuerPEM) {
		t.Fatal("CARoots holds no certificates")
	}
	cert, err := x509.ParseCertificate(ekDER(t, tpm))
	if err != nil {
		t.Fatalf("EK certificate: %v", err)
	}
	if cert.Subject.CommonName != "dev-0042" {
		t.Errorf("subject: got %q, want dev-0042", cert.Subject.CommonName)
	}
	// The TPM's name in the critical subject alternative name is not one that crypto/x509 knows.
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	for _, oid := range cert.UnhandledCriticalExtensions {
		if !oid.Equal(san) {
			t.Errorf("unexpected critical extension %v", oid)
		}
	}
	cert.UnhandledCriticalExtensions = nil
	_, err = cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		t.Errorf("EK certificate: %v", err)
	}
	parts.TestTPM(t)
	otherPEM, _, err := parts.CARoots("")
	if err != nil {
		t.Fatalf("CARoots: %v", err)
	}
	other := x509.NewCertPool()
	if !other.AppendCertsFromPEM(otherPEM) {
		t.Fatal("the default CA has no root")
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: other, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the certificate also chains to another CA")
	}
}

func TestTPMUtilOpensTheSocket(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPM(t)
	if n := len(tpm.Socket()); n > 100 {
		t.Errorf("socket path of %d bytes: too near to the 107 that fit", n)
	}
	rw, err := tpmutil.OpenTPM(tpm.Socket())
	if err != nil {
		t.Fatalf("OpenTPM: %v", err)
	}
	defer rw.Close()
	if _, err := tpm2.ReadPCR(rw, 0, tpm2.AlgSHA256); err != nil {
		t.Errorf("ReadPCR: %v", err)
	}
}

func TestTPMOverTCP(t *testing.T) {
	t.Parallel()
	tpm := parts.TestTPMWith(t, parts.TPMConfig{Dir: t.TempDir(), TCPAddr: "127.0.0.1:0"})
	if tpm.Socket() != "" || tpm.Addr() == "127.0.0.1:0" {
		t.Errorf("got socket %q and address %q, want no socket and a real port", tpm.Socket(), tpm.Addr())
	}
	extend(t, tpm, 7, digest.Of([]byte("over TCP")))
	if err := tpm.Reset(t.Context()); err != nil {
		t.Fatalf("Reset: %v", err)
	}
	if !pcrs(t, tpm)[7].IsZero() {
		t.Error("PCR 7 survived a reset")
	}
}
