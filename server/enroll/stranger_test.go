package enroll_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

// The EK certificate of a device is no secret. Whoever has it and no TPM must neither fill the audit log, nor write into
// it in the device's name, nor choose how large an event is.
func TestStrangerWithAnEKCertificateCannotFloodTheAuditLog(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	victim, thief := newTPM("victim"), newTPM("thief")
	first := thief.request()
	first.EKCertificate = victim.ek.Certificate
	flood := func(n int, claims string) {
		for range n {
			req := wire.ActivateRequest{Enroll: first, Challenge: s.start(t, thief, first).Challenge, HMAC: make([]byte, 32), Claims: []byte(claims)}
			if _, err := s.Finish(t.Context(), spki(t, thief.tls), thief.exporter, req); err == nil {
				t.Fatal("admitted")
			}
		}
	}
	flood(100, fmt.Sprintf(`{"%s":{"a":1,"a":2}}`, strings.Repeat("x", 60_000)))
	s.Advance(time.Hour)
	flood(1, "\xff")
	events, err := s.Store.Events(t.Context(), store.EventFilter{Subject: victim.id()}, 0, 0)
	if err != nil || len(events) == 0 || len(events) > 16 {
		t.Fatalf("%d events of 101 refused enrollments, %v", len(events), err)
	}
	for _, e := range events {
		if e.Actor == victim.id() {
			t.Fatalf("event %d says that the device itself did it: %s", e.Number, e.Leaf[:100])
		}
		if len(e.Leaf) > 2048 {
			t.Fatalf("event %d has %d bytes of the stranger's choice", e.Number, len(e.Leaf))
		}
	}
	if last := string(events[len(events)-1].Leaf); !strings.Contains(last, `"suppressed":`) {
		t.Errorf("the events that were left out are not counted: %s", last)
	}
}

// A genuine TPM makes TLS keys without end, and enrolls with each: that is a bounded number of events, claimed or not.
func TestActivationsAnewAreFew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*soft, int){
		"TLS keys": func(d *soft, i int) { d.tls = evidencetest.NewTLSKey(evidencetest.Seed(fmt.Sprint("tls ", i))) },
		"counters": func(d *soft, i int) { d.index = uint64(1000 - i) },
	} {
		s := newServer(t)
		d := newTPM("busy " + name)
		var err error
		done := 0
		for done = range 64 {
			if _, err = s.enroll(t, d); err != nil {
				break
			}
			change(d, done)
		}
		wantProblem(t, name, err, reason.RateLimited)
		if done < 4 {
			t.Errorf("%s: refused after %d enrollments already", name, done)
		}
		if got := len(s.Events(d.id())); got > 16 {
			t.Errorf("%s: %d events", name, got)
		}
		s.Advance(time.Hour)
		if _, err := s.enroll(t, d); err != nil {
			t.Errorf("%s: an hour later: %v", name, err)
		}
	}
}

// A genuine TPM that nobody has claimed must not be able to fill the disk with event logs.
func TestLogOfAnUnclaimedDeviceIsNotKept(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	kept := digest.Of(evidencetest.DirectUKI(evidencetest.Release("lamp/1")).Bytes())
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.Log(t.Context(), kept); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("pending: the log was kept: %v", err)
	}
	owned := newTPM("owned")
	s.inventory(t, owned)
	if _, err := s.enroll(t, owned); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.Log(t.Context(), kept); err != nil {
		t.Errorf("claimed: %v", err)
	}
}

// What a device says about its hardware is shown to people.
func TestHardwareClaimCannotWriteToATerminal(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	for _, claim := range []string{"\x1b[2Jrev-a", "a\x00b", "a\nb", "a\u202eb"} {
		first := d.request()
		first.HardwareID = claim
		_, err := s.Start(t.Context(), spki(t, d.tls), first)
		wantProblem(t, fmt.Sprintf("%q", claim), err, reason.RequestMalformed)
	}
}

// A device whose lease has ended long ago gets no new grace by clearing its TPM.
func TestReactivationGivesNoNewGrace(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	s.inventory(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	row := s.row(t, d)
	row.Standing, row.Proven, row.HighCounter, row.Segment = fleet.Affirmed, "lamp/7", 7, fleet.Production
	row.LeaseUntil, row.Accepted = s.Now().Add(-25*time.Hour), &attestation.Accepted{Clock: quote.Clock{Clock: 99}}
	s.commit(t, store.PutDevice{Device: row})
	ended := s.row(t, d).LeaseUntil
	d.tls = evidencetest.NewTLSKey(evidencetest.Seed("after clear"))
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	after := s.row(t, d)
	if after.Segment != fleet.Restricted || !after.StaleSince.Equal(ended) || after.LeaseUntil.After(ended) {
		t.Errorf("got segment %s, stale since %s, lease until %s; the lease ended %s", after.Segment, after.StaleSince, after.LeaseUntil, ended)
	}
	events, err := s.Store.LastEvents(t.Context(), d.id(), 1)
	if err != nil || len(events) != 1 || events[0].Type != "segment.ordered" {
		t.Errorf("the order has no event: %v, %v", events, err)
	}
}

// Everything that costs nothing is checked before the certificate chain.
func TestForeignConnectionIsRefusedBeforeTheChain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	first := d.request()
	first.EKCertificate = []byte("no certificate at all")
	_, err := s.Start(t.Context(), spki(t, newTPM("e").tls), first)
	wantProblem(t, "another connection", err, reason.AKNotBound)
}

// Whoever hangs up on a wrong answer does not get a second guess at the same challenge.
func TestHangingUpDoesNotSaveTheChallenge(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	first := d.request()
	good := d.activation(t, first, s.start(t, d, first))
	wrong := good
	wrong.HMAC = make([]byte, 32)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	if _, err := s.Finish(gone, spki(t, d.tls), d.exporter, wrong); err == nil {
		t.Fatal("admitted with a wrong answer")
	}
	_, err := s.Finish(t.Context(), spki(t, d.tls), d.exporter, good)
	wantProblem(t, "the right answer after a wrong one", err, reason.Conflict)
}

// A TPM has endorsement keys of several kinds. One that no credential can be made for is refused, and is no error of ours.
func TestEndorsementKeysOfOtherKindsAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newTPM("d")
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	d.ek = manufacturer().Certify(private, nil)
	_, err = s.Start(t.Context(), spki(t, d.tls), d.request())
	wantProblem(t, "RSA-3072", err, reason.EKUntrusted)
}
