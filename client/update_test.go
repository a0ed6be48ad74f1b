package client_test

import (
	"bytes"
	"testing"
)

func TestUpdatesThroughTrialProofAndCommit(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	before, err := d.tpm.Counter()
	if err != nil {
		t.Fatal(err)
	}
	if r := d.check(); r.Update != nil || r.Refusals != nil || r.Verdict != "affirmed" {
		t.Fatalf("Check = %+v, want nothing to do", r)
	}
	image := randomImage(t, 9<<20)
	d.publish("1.1.0", 3, image)
	d.stage()
	if got := string(bytes.TrimSpace(d.read("next"))); got != "b" || !bytes.Equal(d.read("b.img"), image) {
		t.Fatalf("staged %q, want slot b with the image", got)
	}
	if got, _ := d.tpm.Counter(); got != before {
		t.Errorf("counter before the proof = %d, want %d", got, before)
	}
	d.boot()
	r := d.check()
	if !r.Proven || r.Update != nil {
		t.Fatalf("Check after the boot = %+v, want a proven trial", r)
	}
	if c := d.server.lastClaims(t); c.Boot == nil || c.Boot.Result != "ok" || c.Boot.Version != "thermostat/1.1.0" || c.Components[0].Version != "1.1.0" {
		t.Errorf("claims = %+v, want the boot of 1.1.0", c)
	}
	if got := string(bytes.TrimSpace(d.read("active"))); got != "a" {
		t.Errorf("active before the commit = %q, want a", got)
	}
	if refused, err := d.client.Commit(t.Context()); err != nil || refused != nil {
		t.Fatalf("Commit = %v, %v", refused, err)
	}
	if got := string(bytes.TrimSpace(d.read("active"))); got != "b" {
		t.Errorf("active = %q, want b", got)
	}
	if got, _ := d.tpm.Counter(); got != before+3 {
		t.Errorf("counter = %d, want %d", got, before+3)
	}
	if r := d.check(); r.Update != nil || r.Refusals != nil || r.Proven {
		t.Errorf("Check after the commit = %+v, want nothing", r)
	}
	if c := d.server.lastClaims(t); c.Boot != nil || c.Counter.Value != 3 {
		t.Errorf("claims after the commit = %+v, want counter 3", c)
	}
}
