package suite

import (
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Names that stand beside the file of a root.
const (
	secretSuffix = ".secret" // the words that the root's key is made from; whoever reads it can make devices
	pcrsSuffix   = ".pcrs"   // what the devices' firmware measures, for 'cordon-sign product baseline --pcrs'
)

const rootName = "cordon conformance suite: trust me in tests only"

// manufacturer of the suite's devices, as their certificates name it; a server that binds roots binds this one to it.
const manufacturer = "id:54534D00"

// NewRoot makes an endorsement root: its certificate in file, to be added to the server's ek_roots_file, and beside it
// its secret and the registers of the devices. It refuses to replace files.
func NewRoot(file string) error {
	words := rand.Text() + rand.Text()
	ca := evidencetest.CAOfWords(rootName, words)
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})
	for _, f := range []struct {
		name string
		mode os.FileMode
		text string
	}{
		{file + secretSuffix, 0o600, words + "\n"},
		{file + pcrsSuffix, 0o644, registers()},
		{file, 0o644, "Manufacturers: " + manufacturer + "\n" + string(block)},
	} {
		if err := create(f.name, f.mode, f.text); err != nil {
			return fmt.Errorf("cannot write endorsement root: %w", err)
		}
	}
	return nil
}

func create(name string, mode os.FileMode, text string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// ReadRoot reads what NewRoot wrote.
func ReadRoot(file string) (evidencetest.CA, error) {
	words, err := os.ReadFile(file + secretSuffix)
	if err != nil {
		return evidencetest.CA{}, fmt.Errorf("cannot read endorsement root: %w", err)
	}
	secret := strings.TrimSpace(string(words))
	if len(secret) < 26 {
		return evidencetest.CA{}, fmt.Errorf("cannot read endorsement root: %s holds no secret", file+secretSuffix)
	}
	ca := evidencetest.CAOfWords(rootName, secret)
	text, err := os.ReadFile(file)
	if err != nil {
		return evidencetest.CA{}, fmt.Errorf("cannot read endorsement root: %w", err)
	}
	if block, _ := pem.Decode(text); block == nil || string(block.Bytes) != string(ca.Certificate.Raw) {
		return evidencetest.CA{}, fmt.Errorf("cannot read endorsement root: %s is not made from %s", file, file+secretSuffix)
	}
	return ca, nil
}

// registers are the firmware registers of the devices, one line each.
func registers() string {
	s := evidencetest.NewScenario("suite", evidencetest.Current)
	var b strings.Builder
	for _, p := range reference.LearnBaseline(evidencetest.Profile, s.Registers).PCRs {
		fmt.Fprintf(&b, "SHA256 PCR%02d %s\n", p.Index, s.Registers[p.Index])
	}
	return b.String()
}
