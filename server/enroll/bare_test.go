package enroll_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

func newBare(label string) *soft {
	d := newTPM(label)
	d.bare = true
	return d
}

// V-20: an EK without a certificate is admitted by an inventory entry of its hash, in the lowest tier of a TPM.
func TestBareTPMIsAdmittedByInventory(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newBare("d")
	_, err := s.enroll(t, d)
	wantProblem(t, "nobody vouches", err, reason.EKUntrusted)
	if _, err := s.Store.Device(t.Context(), d.id()); !errors.Is(err, store.ErrNotFound) {
		t.Error("anybody's software key makes a row")
	}
	s.inventory(t, d)
	got, err := s.enroll(t, d)
	row := s.row(t, d)
	if err != nil || got.Lifecycle != "active" || row.Tier != fleet.TierBare || row.AdmittedBy != "inventory" || row.Certified() ||
		!bytes.Equal(row.EKPublic, d.ek.SPKI) || row.EKSPKI != digest.Of(d.ek.SPKI) {
		t.Errorf("got %+v, %v, %+v", got, err, row)
	}
	// It never rises by itself: not even with a certificate for the same key.
	d.bare = false
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	if after := s.row(t, d); after.Tier != fleet.TierBare {
		t.Errorf("tier %d", after.Tier)
	}
}

// V-20: a token alone is not enough without a certificate; a person has to say yes as well.
func TestBareTPMWithATokenWaitsForAPerson(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newBare("d")
	s.commit(t, store.AddEnrollToken{Token: store.EnrollToken{
		Hash: digest.Of([]byte("once")), Product: appraisetest.Product, HardwareID: "rev-t", Profile: evidencetest.Profile, Expires: s.Now().Add(time.Hour),
	}})
	for range 2 { // a lost answer: the same token again
		first := d.request()
		first.Token = "once"
		got, err := s.Finish(t.Context(), spki(t, d.tls), d.exporter, d.activation(t, first, s.start(t, d, first)))
		if err != nil || got.Lifecycle != "pending" {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	row := s.row(t, d)
	if row.Tier != 0 || row.AdmittedBy != "token" || !fleet.Approvable(row, appraisetest.Product) || fleet.Approvable(row, "another") {
		t.Errorf("got %+v", row)
	}
	if by := "approval:ann"; fleet.TierOf(row, by) != fleet.TierBare {
		t.Errorf("approved: tier %d", fleet.TierOf(row, by))
	}
}

func TestBareTPMRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newBare("d")
	short, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*wire.EnrollRequest){
		"with a certificate as well": func(r *wire.EnrollRequest) { r.EKCertificate = d.ek.Certificate },
		"with a chain":               func(r *wire.EnrollRequest) { r.EKChain = [][]byte{manufacturer().Certificate.Raw} },
		"not a key":                  func(r *wire.EnrollRequest) { r.EKPublic = []byte("key") },
		"bytes after the key":        func(r *wire.EnrollRequest) { r.EKPublic = append(bytes.Clone(r.EKPublic), 0) },
		"the TLS key":                func(r *wire.EnrollRequest) { r.EKPublic = spki(t, d.tls) },
		"a key of another template":  func(r *wire.EnrollRequest) { r.EKPublic, _ = x509.MarshalPKIXPublicKey(short.Public()) },
	}
	for name, change := range tests {
		req := d.request()
		change(&req)
		_, err := s.Start(t.Context(), spki(t, d.tls), req)
		if err == nil {
			t.Errorf("%s: admitted to round 2", name)
		}
		if name != "the TLS key" && name != "a key of another template" { // those have no standard EK template
			wantProblem(t, name, err, reason.EKUntrusted)
		}
	}
	challenges := appraise.NewChallenges(bytes.Repeat([]byte{9}, 32), 5*time.Minute)
	closed := enroll.New(s.Store, enroll.Admission{}, challenges, make([]byte, 32), standing.Rules{}, time.Minute, s.Now)
	s.inventory(t, d)
	_, err = closed.Start(t.Context(), spki(t, d.tls), d.request())
	wantProblem(t, "a server that admits none", err, reason.EKUntrusted)
}

// N49 and the ceilings of the ways of admission.
func TestTierOfEachAdmission(t *testing.T) {
	t.Parallel()
	hardware, virtual := fleet.Device{EKCertificate: []byte{1}, Manufacturer: "id:49465800"}, fleet.Device{EKCertificate: []byte{1}, Manufacturer: "id:00001014"}
	for _, test := range []struct {
		d    fleet.Device
		by   string
		want int
	}{
		{hardware, "inventory", 5}, {hardware, "token", 4}, {hardware, "approval:ann", 4},
		{virtual, "inventory", 4}, {virtual, "token", 4}, {virtual, "approval:ann", 4},
		{fleet.Device{}, "inventory", 2}, {fleet.Device{}, "token", 2}, {fleet.Device{}, "approval:ann", 2},
	} {
		if got := fleet.TierOf(test.d, test.by); got != test.want {
			t.Errorf("%s by %s: tier %d, want %d", test.d.Manufacturer, test.by, got, test.want)
		}
	}
}

// roots are bound to no manufacturer.
func roots(t testing.TB, certificates ...*x509.Certificate) identity.Roots {
	t.Helper()
	var list []identity.Root
	for _, c := range certificates {
		list = append(list, identity.Root{Certificate: c})
	}
	out, err := identity.NewRoots(list...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
