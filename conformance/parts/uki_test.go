package parts_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func TestKernelsAreTwoDifferentOnes(t *testing.T) {
	t.Parallel()
	kernels := parts.TestKernels(t)
	if len(kernels) != 2 {
		t.Fatalf("got %d kernels, want 2", len(kernels))
	}
	if kernels[0].Release == kernels[1].Release {
		t.Errorf("both kernels are %s", kernels[0].Release)
	}
	var sums []digest.SHA256
	for _, k := range kernels {
		b := readFile(t, k.Path)
		if _, err := parts.Authenticode(b); err != nil {
			t.Errorf("%s: %v", k.Release, err)
		}
		sums = append(sums, digest.Of(b))
	}
	if sums[0] == sums[1] {
		t.Error("both kernels have the same bytes")
	}
}

func TestUKIHoldsItsParts(t *testing.T) {
	t.Parallel()
	kernel := parts.TestKernels(t)[0]
	files := map[string][]byte{"init": []byte("#!/bin/true\n"), "etc/app/app.conf": []byte("a = 1\n")}
	image := readFile(t, parts.TestUKI(t, parts.UKISpec{
		Version: "7", Kernel: kernel, Cmdline: "quiet fw.version=7", OSRelease: map[string]string{"NAME": "Edge Box"}, Files: files,
	}))
	want := map[string]string{
		".cmdline": "quiet fw.version=7",
		".uname":   kernel.Release,
		".linux":   string(readFile(t, kernel.Path)),
		".osrel":   "ID=acmefw\nIMAGE_ID=acmefw\nIMAGE_VERSION=7\nNAME=\"Edge Box\"\nPRETTY_NAME=\"AcmeFW 7\"\nVERSION_ID=7\n",
	}
	for name, content := range want {
		got, err := parts.Section(image, name)
		if err != nil {
			t.Errorf("Section(%s): %v", name, err)
		}
		if string(got) != content {
			t.Errorf("section %s: got %d bytes %.80q, want %d bytes %.80q", name, len(got), got, len(content), content)
		}
	}
	initrd, err := parts.Section(image, ".initrd")
	if err != nil {
		t.Fatalf("Section(.initrd): %v", err)
	}
	checkInitrd(t, initrd)
}

// checkInitrd unpacks an initrd with gzip and cpio, which know nothing of how it was made.
func checkInitrd(t *testing.T, initrd []byte) {
	t.Helper()
	if err := parts.Require(t.Context(), t.Output(), "cpio"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "gzip -dc | cpio -idm --quiet && find . | LC_ALL=C sort")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(initrd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	if got, want := string(out), ".\n./etc\n./etc/app\n./etc/app/app.conf\n./init\n"; got != want {
		t.Errorf("initrd: got %q, want %q", got, want)
	}
	if got, want := string(readFile(t, filepath.Join(dir, "etc/app/app.conf"))), "a = 1\n"; got != want {
		t.Errorf("app.conf: got %q, want %q", got, want)
	}
	info, err := os.Stat(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(time.Unix(0, 0)) || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("init: got time %v and mode %v, want the epoch and executable", info.ModTime(), info.Mode())
	}
}

func TestUKIIsReproducible(t *testing.T) {
	t.Parallel()
	kernel := parts.TestKernels(t)[0]
	build := func(version string) []byte {
		return readFile(t, parts.TestUKI(t, parts.UKISpec{
			Version: version, Kernel: kernel, Files: map[string][]byte{"init": []byte("x"), "b/c": []byte("y"), "b/d": []byte("z")},
			Out: filepath.Join(t.TempDir(), "uki.efi"),
		}))
	}
	first, second := build("1"), build("1")
	if !bytes.Equal(first, second) {
		t.Error("the same spec gave different bytes")
	}
	if bytes.Equal(first, build("2")) {
		t.Error("different versions gave the same bytes")
	}
}

func TestInitrdRefusesPathsThatLeaveIt(t *testing.T) {
	t.Parallel()
	kernel := parts.TestKernels(t)[0]
	for _, name := range []string{"", "/init", "../init", "a/../b", "a//b", "a\x00b"} {
		_, err := parts.BuildUKI(t.Context(), parts.UKISpec{Version: "1", Kernel: kernel, Files: map[string][]byte{name: nil}})
		if err == nil {
			t.Errorf("path %q: got no error", name)
		}
	}
}

// The digest that sbsign signed for a UKI, and the one that Debian signed for its kernel, are ours.
func TestAuthenticodeAgreesWithSigningTools(t *testing.T) {
	t.Parallel()
	if err := parts.Require(t.Context(), t.Output(), "sbsigntool"); err != nil {
		t.Fatal(err)
	}
	key, cert := signingKey(t)
	kernel := parts.TestKernels(t)[0]
	uki := filepath.Join(t.TempDir(), "signed.efi")
	tool(t, "sbsign", "--key", key, "--cert", cert, "--output", uki, parts.TestUKI(t, parts.UKISpec{Version: "1", Kernel: kernel}))
	tool(t, "sbverify", "--cert", cert, uki)
	for name, signed := range map[string]string{"uki": uki, "kernel signed by Debian": kernel.Path} {
		image := readFile(t, signed)
		got, err := parts.Authenticode(image)
		if err != nil {
			t.Fatalf("Authenticode: %v", err)
		}
		signature := filepath.Join(t.TempDir(), "signature.p7")
		tool(t, "sbattach", "--detach", signature, signed)
		if !bytes.Contains(readFile(t, signature), got[:]) {
			t.Errorf("%s: its signature is not over %s", name, got)
		}
		image[len(image)/2] ^= 1
		if other, err := parts.Authenticode(image); err != nil || other == got {
			t.Errorf("%s: got %s, %v after a change", name, other, err)
		}
	}
}

func TestAuthenticodeRefusesWhatIsNoImage(t *testing.T) {
	t.Parallel()
	uki := readFile(t, parts.TestUKI(t, parts.UKISpec{Version: "1"}))
	for name, image := range map[string][]byte{
		"empty": nil, "text": []byte("not an image"), "zeros": make([]byte, 4096), "cut": uki[:len(uki)/2], "headers only": uki[:1024],
	} {
		if _, err := parts.Authenticode(image); !errors.Is(err, parts.ErrNotBootable) {
			t.Errorf("%s: got %v, want %v", name, err, parts.ErrNotBootable)
		}
	}
}

func FuzzAuthenticode(f *testing.F) {
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		f.Fatalf("%v; install it with: %s", err, parts.InstallLine("systemd-boot-efi"))
	}
	f.Add(stub)
	f.Add(stub[:600])
	f.Fuzz(func(t *testing.T, image []byte) {
		if _, err := parts.Authenticode(image); err != nil && !errors.Is(err, parts.ErrNotBootable) {
			t.Errorf("got %v, want %v", err, parts.ErrNotBootable)
		}
		if _, err := parts.Section(image, ".text"); err != nil && !errors.Is(err, parts.ErrNotBootable) {
			t.Errorf("got %v, want %v", err, parts.ErrNotBootable)
		}
	})
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

// signingKey writes an RSA key and a self-signed certificate as PEM files.
func signingKey(t *testing.T) (keyFile, certFile string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, certFile = filepath.Join(t.TempDir(), "db.key"), filepath.Join(t.TempDir(), "db.crt")
	for path, block := range map[string]*pem.Block{keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}, certFile: {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return keyFile, certFile
}
