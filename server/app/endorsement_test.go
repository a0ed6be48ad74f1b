package app_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/app"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// A denial reaches every device that it names, also those that never poll again; a sweep that was cut short by a crash
// begins anew and leaves nothing out.
func TestSweeperQuarantinesEveryDeniedDevice(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := configured(t, dir)
	r := start(t, c)
	if err := r.stop(); err != nil { // the sweeper is called by hand here
		t.Fatal(err)
	}
	k := &clock{}
	s, err := store.Open(t.Context(), c.Database, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	denied := deniedFleet(t, s, k)
	cut, cancel := context.WithCancel(t.Context())
	go func() { // the power goes in the middle
		for cut.Err() == nil {
			if rows, err := s.ListQuarantines(cut, time.Time{}, time.Time{}, ""); err == nil && len(rows) >= 5 {
				cancel()
			}
		}
	}()
	for _, ctx := range []context.Context{cut, t.Context()} {
		a, err := app.New(t.Context(), c, app.Options{Now: k.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SweepOnce(ctx); err != nil && ctx == t.Context() {
			t.Error(err)
		}
		feed, err := s.Feed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SweepOnce(ctx); err != nil && ctx == t.Context() {
			t.Error(err)
		}
		if after, err := s.Feed(t.Context()); err != nil || ctx == t.Context() && after != feed {
			t.Errorf("a second round wrote %d events, %v", after-feed, err)
		}
		a.Close()
	}
	cancel()
	wantDeniedHeld(t, s, denied)
}

// deniedFleet writes a denial, and more devices than the sweeper takes at once. It returns how many the denial names: every
// third one.
func deniedFleet(t *testing.T, s *store.Store, k *clock) (denied int) {
	t.Helper()
	ca := evidencetest.NewCA("TPM maker")
	ek := ca.NewEK(nil)
	var change store.Change
	for i := range app.SweepBatch + 40 {
		serial := int64(100 + i%3) // every third has the denied certificate
		if serial == 101 {
			denied++
		}
		certificate := ca.Endorse(ek.Private.Public(), func(c *x509.Certificate) { c.SerialNumber = big.NewInt(serial) })
		sum := digest.Of([]byte(fmt.Sprint(i)))
		change.Writes = append(change.Writes, store.PutDevice{Device: fleet.Device{
			ID: fmt.Sprintf("device%03d", i), Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Production,
			EKCertificate: certificate, EKSPKI: sum, TLSKey: sum, EnrolledAt: k.Now(), LeaseUntil: k.Now().Add(time.Hour), Offered: "lamp/2.0",
		}})
	}
	leaf, err := identity.ParseEKCertificate(ca.Endorse(ek.Private.Public(), nil))
	if err != nil {
		t.Fatal(err)
	}
	n1 := identity.Denial{Serial: "65", Issuer: hex.EncodeToString(leaf.AuthorityKeyId), Why: "sold at an auction"}
	if err := n1.Validate(); err != nil {
		t.Fatal(err)
	}
	change.Writes = append(change.Writes, store.PutDenial{Denial: fleet.Denial{ID: "d-1", Denial: n1, By: "ann", At: k.Now()}})
	if err := s.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	return denied
}

// wantDeniedHeld checks that the denied devices are in quarantine, and no others.
func wantDeniedHeld(t *testing.T, s *store.Store, denied int) {
	t.Helper()
	devices, err := s.ListDevices(t.Context(), store.DeviceFilter{}, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for i, d := range devices {
		q, err := s.OpenQuarantine(t.Context(), d.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if i%3 == 1 || d.Standing != fleet.Affirmed {
				t.Errorf("%s: no quarantine, and it is %s", d.ID, d.Standing)
			}
		case err != nil:
			t.Fatal(err)
		default:
			held++
			if i%3 != 1 || d.Standing != fleet.Refused || d.Segment != fleet.Restricted || d.Offered != "" || q.By != "ann" || q.Causes[0] != reason.EKRevoked {
				t.Errorf("%s: got %+v, %+v", d.ID, d, q)
			}
		}
	}
	if held != denied {
		t.Errorf("%d of %d denied devices are in quarantine", held, denied)
	}
}

// N49: TPMs of a maker that nobody named are refused, whatever this build ships; what is named must exist.
func TestConfigurationNamesWhomItBelieves(t *testing.T) {
	t.Parallel()
	ca := evidencetest.NewCA("operator's own")
	file := filepath.Join(t.TempDir(), "roots.pem")
	text := "Manufacturers: id:49465800\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw}))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*config.Config)
		most   int // roots
		least  int
	}{
		"nothing":      {func(*config.Config) {}, 0, 0},
		"own file":     {func(c *config.Config) { c.EKRootsFile = file }, 1, 1},
		"one by name":  {func(c *config.Config) { c.Endorsement.Manufacturers = []string{"infineon"} }, 20, 2},
		"name and own": {func(c *config.Config) { c.Endorsement.Manufacturers, c.EKRootsFile = []string{"infineon"}, file }, 21, 3},
	} {
		c := configured(t, filepath.Join(t.TempDir(), "data"))
		c.EKRootsFile = ""
		test.change(&c)
		roots, err := app.EKRoots(c)
		if err != nil || roots.Len() < test.least || roots.Len() > test.most {
			t.Errorf("%s: %d roots, %v", name, roots.Len(), err)
		}
		for _, root := range roots.List() {
			if len(root.Manufacturers) == 0 {
				t.Errorf("%s: %s speaks for any manufacturer", name, root.Certificate.Subject)
			}
		}
	}
}
