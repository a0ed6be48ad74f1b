package client_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
)

// forget is what two people do at the server.
func (d *device) forget() {
	d.server.set(func() { d.server.ak = identity.Public{} })
}

func (d *device) enrollments() (n int) {
	d.server.set(func() { n = d.server.enrolled })
	return n
}

// The server that knows no attestation key of the device any more is answered with an enrollment, at once and by itself,
// with the key that is in use: no key is made, given up or replaced.
func TestEnrollsAgainWhenTheServerForgotTheKey(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.rotate()
	before := d.registered()
	d.wantAffirmed("before")
	enrolled := d.enrollments()
	d.forget()
	d.wantAffirmed("forgotten")
	if got := d.registered(); !bytes.Equal(got, before) {
		t.Error("another key than the one in use was registered")
	}
	if n := d.enrollments() - enrolled; n != 1 {
		t.Errorf("%d enrollments, want one", n)
	}
	d.restart()
	d.wantAK("after a restart", nil)
	d.wantAffirmed("after a restart")
}

// Whatever is cut short, also in the middle of a rotation, the device keeps its key until the server has one of its keys.
func TestForgottenKeySurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	for name, committed := range map[string]bool{"before the commit": false, "after the commit": true} {
		for what, rotates := range map[string]bool{"enrollment": false, "rotation": true} {
			t.Run(what+" cut "+name, func(t *testing.T) {
				t.Parallel()
				d := newDevice(t)
				d.enroll()
				before := d.registered()
				d.server.set(func() { d.server.onAK = func(at bool) bool { return at == committed } })
				if rotates {
					if e, err := d.client.RotateAK(t.Context()); err == nil {
						t.Fatalf("RotateAK = %+v", e)
					}
				}
				d.forget()
				for range 2 {
					if r, err := d.client.Step(t.Context()); err == nil && r.Verdict == "affirmed" && !committed {
						t.Fatalf("Step = %+v", r)
					}
					if got, err := d.tpm.AKPublic(); err != nil || !rotates && !bytes.Equal(got, before) {
						t.Fatalf("the key in use is another one, %v", err)
					}
				}
				d.server.set(func() { d.server.onAK = nil })
				d.restart() // killed: what was in memory is gone
				d.wantAffirmed("after the crash")
				d.wantAK("after the crash", nil)
			})
		}
	}
}

// A server that forgets the key again and again is asked later and later, and costs two enrollments each time at most.
func TestServerThatKnowsNoKeyForEverIsNotHammered(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	enrolled := d.enrollments()
	ctx, cancel := context.WithCancel(t.Context())
	var pauses []time.Duration
	d.server.set(func() {
		d.server.onPoll = func(w http.ResponseWriter, _ *http.Request) bool {
			d.server.refuse(w, http.StatusForbidden, reason.AKUnknown)
			return true
		}
	})
	d.cfg = func(c *client.Config) {
		c.Sleep = func(ctx context.Context, pause time.Duration) error {
			if pauses = append(pauses, pause); len(pauses) == 8 {
				cancel()
			}
			return ctx.Err()
		}
	}
	d.restart()
	if err := d.client.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v", err)
	}
	if pauses[7] < 4*pauses[1] || slices.Max(pauses) > 20*time.Minute {
		t.Errorf("pauses = %v, want them to grow up to a limit", pauses)
	}
	if n := d.enrollments() - enrolled; n > 2*len(pauses) {
		t.Errorf("%d enrollments in %d rounds", n, len(pauses))
	}
}

// Only the server of the trust bundle can say that it knows no key. Somebody in between, who has no certificate of its CA,
// is not even asked, and leaves no trace.
func TestNobodyInBetweenMakesADeviceEnroll(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.wantAffirmed("before")
	enrolled, path := d.enrollments(), filepath.Join(d.state, "state.json")
	impostor := newServer(t, d.parts)
	asked := make(chan string, 64)
	impostor.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		impostor.refuse(w, http.StatusForbidden, reason.AKUnknown)
	})
	d.cfg = func(c *client.Config) {
		c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, impostor.Listener.Addr().String())
		}
	}
	d.restart()
	if r, err := d.client.Step(t.Context()); err == nil {
		t.Errorf("Step = %+v", r)
	}
	if _, err := d.client.RotateAK(t.Context()); err == nil { // it stays an intention, and needs the old key's word
		t.Error("RotateAK passed")
	}
	if len(asked) > 0 {
		t.Errorf("the impostor was asked %s", <-asked)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Contains(b, []byte(`"enrolled":true`)) {
		t.Errorf("the device believes that it is not enrolled: %s, %v", b, err)
	}
	if n := d.enrollments() - enrolled; n != 0 {
		t.Errorf("%d enrollments", n)
	}
	d.cfg = nil
	d.restart()
	d.wantAffirmed("at the true server")
}
