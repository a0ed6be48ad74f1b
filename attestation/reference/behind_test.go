package reference_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reference"
)

// behind is a boot loader that says its name behind the last section, as Debian 12's for arm64 does.
func behind(text string) []byte {
	return append(buildPE(true, []part{{".text", bytes.Repeat([]byte("loader"), 300)}}, nil), text...)
}

const magicText = "#### LoaderInfo: " + knownLoader + " ####\x00"

// Debian 12 ships systemd-boot for arm64 with its name behind the last section. The firmware measures those bytes too.
func TestLoaderMaySayItsNameBehindItsSections(t *testing.T) {
	t.Parallel()
	plain := behind("padding\x00" + magicText + "sbat,1\n")
	v := foretell(t, uki(), plain)
	if got := v.Inputs[0]; got.What != knownLoader || got.Program != oracle(t, plain) {
		t.Errorf("got %+v, want %s as %s", got, knownLoader, oracle(t, plain))
	}
	moved := foretell(t, uki(), behind("paddinG\x00"+magicText+"sbat,1\n"))
	if moved.Inputs[0].Program == v.Inputs[0].Program {
		t.Error("bytes behind the sections are not measured")
	}
	for name, row := range map[string]struct {
		loader []byte
		says   string
	}{
		"another version":             {behind("#### LoaderInfo: systemd-boot 255.4 ####\x00"), "it is systemd-boot 255.4"},
		"a stub":                      {behind("#### LoaderInfo: systemd-stub 252.39 ####\x00"), "calls itself"},
		"two names":                   {behind(magicText + magicText), "no section .sdmagic"},
		"two names, one of a section": {append(loader("systemd-boot 255.4"), magicText...), "it is systemd-boot 255.4"},
		"a name without an end":       {behind(magicText[:17] + strings.Repeat("x", 2000)), "no section .sdmagic"},
		"a name among the sections":   {buildPE(true, []part{{".text", []byte(magicText)}}, nil), "no section .sdmagic"},
		"a name in the signature":     {buildPE(true, []part{{".text", []byte("loader")}}, []byte(magicText)), "no section .sdmagic"},
	} {
		_, err := reference.Predict(reference.SourceOf(uki()), with252(row.loader))
		if !errors.Is(err, reference.ErrUnpredictable) || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: got %v, want ErrUnpredictable with %q", name, err, row.says)
		}
	}
}
