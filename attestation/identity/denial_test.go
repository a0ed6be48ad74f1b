package identity_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
)

func TestDenialHasOneFormAndOneWay(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("0a", 32)
	good := map[string]identity.Denial{
		"key":      {Key: key},
		"serial":   {Serial: "01ff", Issuer: "0badc0de"},
		"issuer":   {Issuer: "0badc0de"},
		"firmware": {Manufacturer: "id:49465800", FirmwareTo: math.MaxUint64},
	}
	for name, d := range good {
		d.Why = "it leaked"
		if err := d.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back identity.Denial
		if err := json.Unmarshal(b, &back, json.RejectUnknownMembers(true)); err != nil || back != d {
			t.Errorf("%s: %s comes back as %+v (%v)", name, b, back, err)
		}
	}
	bad := map[string]identity.Denial{
		"nothing":                {Why: "x"},
		"no reason":              {Key: key},
		"reason of two lines":    {Key: key, Why: "a\nb"},
		"long reason":            {Key: key, Why: strings.Repeat("x", 513)},
		"short key":              {Key: key[2:], Why: "x"},
		"capital key":            {Key: strings.ToUpper(key), Why: "x"},
		"two ways":               {Key: key, Issuer: "0b", Why: "x"},
		"key and firmware":       {Key: key, FirmwareTo: 1, Why: "x"},
		"issuer and firmware":    {Issuer: "0b", FirmwareTo: 1, Why: "x"},
		"serial alone":           {Serial: "01", Why: "x"},
		"serial with zeros":      {Serial: "0001", Issuer: "0b", Why: "x"},
		"long serial":            {Serial: strings.Repeat("11", 21), Issuer: "0b", Why: "x"},
		"issuer that is no hex":  {Issuer: "xy", Why: "x"},
		"odd issuer":             {Issuer: "123", Why: "x"},
		"manufacturer alone":     {Manufacturer: "id:49465800", Why: "x"},
		"range backwards":        {Manufacturer: "id:49465800", FirmwareFrom: 2, FirmwareTo: 1, Why: "x"},
		"range of nobody":        {FirmwareFrom: 1, FirmwareTo: 2, Why: "x"},
		"manufacturer by letter": {Manufacturer: "IFX", FirmwareTo: 1, Why: "x"},
		"small manufacturer":     {Manufacturer: "id:4e544300", FirmwareTo: 1, Why: "x"},
		"manufacturer and key":   {Manufacturer: "id:49465800", Key: key, FirmwareTo: 1, Why: "x"},
	}
	for name, d := range bad {
		if err := d.Validate(); !errors.Is(err, identity.ErrDenial) {
			t.Errorf("%s: got %v, want ErrDenial", name, err)
		}
	}
}

// People copy what other tools print.
func TestDenialTakesWhatToolsPrint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want identity.Denial }{
		{identity.Denial{Serial: "00:01:FF", Issuer: "0B:AD:C0:DE"}, identity.Denial{Serial: "01ff", Issuer: "0badc0de"}},
		{identity.Denial{Serial: "1FF", Issuer: "0b ad"}, identity.Denial{Serial: "01ff", Issuer: "0bad"}},
		{identity.Denial{Key: strings.Repeat("0A:", 31) + "0A"}, identity.Denial{Key: strings.Repeat("0a", 32)}},
		{identity.Denial{Manufacturer: " id:4e544300"}, identity.Denial{Manufacturer: "id:4E544300"}},
	} {
		if got := c.in.Canonical(); got != c.want {
			t.Errorf("%+v: got %+v, want %+v", c.in, got, c.want)
		}
	}
}

// N48: the cases of denials, and that the first of several is the one that is named.
func TestDeniedIsPureAndTakesTheFirst(t *testing.T) {
	t.Parallel()
	for _, c := range evidencetest.IdentityCases() {
		if c.EK == nil || len(c.EK.Denials) == 0 {
			continue
		}
		policy, err := c.EK.Policy()
		if err != nil {
			t.Fatal(err)
		}
		ek, problems := policy.Verify(c.EK.Certificate, c.EK.Intermediates, c.EK.At)
		if len(problems) > 0 {
			t.Fatalf("%s: %+v", c.Name, problems)
		}
		for _, d := range c.EK.Denials {
			if err := d.Validate(); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
		want := len(c.Reasons) > 0
		if _, got := identity.Denied(ek, c.EK.Firmware, c.EK.Denials); got != want {
			t.Errorf("%s: denied %t, want %t", c.Name, got, want)
		}
		stored, err := identity.StoredEK(c.EK.Certificate, ek.Issuers)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := identity.Denied(stored, c.EK.Firmware, c.EK.Denials); got != want {
			t.Errorf("%s: as stored: denied %t, want %t", c.Name, got, want)
		}
		if d, _ := identity.Denied(ek, 0, []identity.Denial{{Issuer: "00", Why: "other"}, {Issuer: ek.Issuers[0], Why: "first"}, {Issuer: ek.Issuers[0], Why: "second"}}); d.Why != "first" {
			t.Errorf("got %+v, want the first", d)
		}
	}
}

// An endorsement key of which nothing is known is denied by nothing but its own key, and an empty denial denies nobody.
func TestDeniedNeedsSomethingToCompare(t *testing.T) {
	t.Parallel()
	everything := []identity.Denial{
		{Why: "empty"}, {Key: strings.Repeat("0a", 32), Why: "x"}, {Issuer: "0b", Why: "x"}, {Serial: "01", Issuer: "0b", Why: "x"},
		{Manufacturer: "id:49465800", FirmwareTo: math.MaxUint64, Why: "x"},
	}
	if d, denied := identity.Denied(identity.EK{}, 7, everything); denied {
		t.Errorf("denied by %+v", d)
	}
	ek, problems := identity.EKWithoutCertificate(evidencetest.NewCA("maker").NewEK(nil).SPKI)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if _, denied := identity.Denied(ek, 7, everything); denied {
		t.Error("a key without a certificate is denied by what only a certificate says")
	}
	for _, spki := range [][]byte{nil, []byte("x"), append(evidencetest.NewCA("maker").NewEK(nil).SPKI, 0), make([]byte, identity.MaxPublicBytes+1)} {
		if _, problems := identity.EKWithoutCertificate(spki); len(problems) == 0 {
			t.Errorf("%x is taken as an endorsement key", spki)
		}
	}
}

// V-20: a key without a certificate is as strong as one with it.
func TestBareEndorsementKeysAreAsStrongAsCertifiedOnes(t *testing.T) {
	t.Parallel()
	bad := 0
	for _, c := range evidencetest.IdentityCases() {
		if c.EK == nil || !strings.HasPrefix(c.Name, "EK o") {
			continue
		}
		cert, err := identity.ParseEKCertificate(c.EK.Certificate)
		if err != nil {
			continue // a curve that X.509 cannot name
		}
		if _, problems := identity.EKWithoutCertificate(cert.RawSubjectPublicKeyInfo); len(problems) == 0 {
			t.Errorf("%s: accepted", c.Name)
		}
		bad++
	}
	if bad < 4 {
		t.Errorf("%d weak keys, want RSA-1024, a small exponent, P-224 and another kind", bad)
	}
	ek, problems := identity.EKWithoutCertificate(evidencetest.NewCA("maker").NewEK(nil).SPKI)
	if len(problems) > 0 || ek.Certificate != nil || ek.Manufacturer != "" || len(ek.Notes) != 1 || ek.Device != identity.DeviceIDOf(ek.SPKI) {
		t.Errorf("got %+v, %+v", ek, problems)
	}
}

func FuzzDenial(f *testing.F) {
	for _, c := range evidencetest.IdentityCases() {
		if c.EK == nil {
			continue
		}
		for _, d := range c.EK.Denials {
			b, err := json.Marshal(d)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	ek, problems := identity.VerifyEK(ekVector(f, "ek-rsa2048.crt"), [][]byte{ekVector(f, "issuer.pem")}, swtpmRoots(f), today)
	if len(problems) > 0 {
		f.Fatal(problems)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d identity.Denial
		if json.Unmarshal(b, &d, json.RejectUnknownMembers(true)) != nil {
			return
		}
		c := d.Canonical()
		if got := c.Canonical(); got != c {
			t.Errorf("%+v has two forms: %+v and %+v", d, c, got)
		}
		if _, denied := identity.Denied(ek, 1, []identity.Denial{d}); denied && d.Key == "" && d.Issuer == "" && d.Manufacturer == "" {
			t.Errorf("a denial that names nothing denies: %+v", d)
		}
	})
}
