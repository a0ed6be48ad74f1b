package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-tpm/legacy/tpm2"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
)

// TestRunComesBackWhenTheServerSaysAndNeverHammers records the pauses of Run.
func TestRunComesBackWhenTheServerSaysAndNeverHammers(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	ctx, cancel := context.WithCancel(t.Context())
	var pauses []time.Duration
	d.cfg = func(c *client.Config) {
		c.Sleep = func(ctx context.Context, pause time.Duration) error {
			switch pauses = append(pauses, pause); len(pauses) {
			case 1: // from now on the server only fails
				d.server.set(func() {
					d.server.onPoll = func(w http.ResponseWriter, r *http.Request) bool {
						d.server.refuse(w, http.StatusServiceUnavailable, reason.ServerBusy)
						return true
					}
				})
			case 9: // it wants to be asked all the time
				d.server.set(func() {
					d.server.onPoll = func(w http.ResponseWriter, r *http.Request) bool {
						w.Header().Set(wire.HeaderNextPoll, "1")
						w.WriteHeader(http.StatusNoContent)
						return true
					}
				})
			case 11:
				cancel()
			}
			return ctx.Err()
		}
	}
	d.restart()
	if err := d.client.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v", err)
	}
	if pauses[0] != 900*time.Second {
		t.Errorf("first pause = %v, want the server's 15 minutes", pauses[0])
	}
	if pauses[7] < 4*pauses[1] || pauses[7] > 20*time.Minute {
		t.Errorf("pauses after failures = %v, want them to grow up to a limit", pauses[1:9])
	}
	if pauses[10] != 5*time.Second {
		t.Errorf("pause for an impatient server = %v, want the least one", pauses[10])
	}
}

// TestRunLogsARefusalOnce counts what Run logs while the server refuses, stops, and refuses again.
func TestRunLogsARefusalOnce(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	ctx, cancel := context.WithCancel(t.Context())
	var log strings.Builder
	refuse := func(on bool) {
		d.server.set(func() {
			d.server.onPoll = func(w http.ResponseWriter, r *http.Request) bool {
				if on {
					d.server.refuse(w, http.StatusForbidden, reason.DeviceRetired)
				}
				return on
			}
		})
	}
	rounds := 0
	d.cfg = func(c *client.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Sleep = func(ctx context.Context, _ time.Duration) error {
			switch rounds++; rounds {
			case 4:
				refuse(false)
			case 5:
				refuse(true)
			case 8:
				cancel()
			}
			return ctx.Err()
		}
	}
	refuse(true)
	d.restart()
	if err := d.client.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v", err)
	}
	for text, want := range map[string]int{"reason=device_retired": 2, "by=server": 2, "nothing is refused any more": 1, "a retired device gets nothing": 2} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("%q is logged %d times, want %d:\n%s", text, got, want, log.String())
		}
	}
}

func TestEnrollmentIsRepeatable(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.enroll()
	before, err := d.tpm.Counter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.tpm.RaiseCounter(before + 2); err != nil {
		t.Fatal(err)
	}
	// This server sets the base to the counter at each enrollment. While the counter is still there, that would make
	// older releases installable again.
	if e, err := d.client.Enroll(t.Context()); err == nil {
		t.Errorf("Enroll with a raised base = %+v, want an error", e)
	}
}

func TestRefusesAServerThatNamesAnotherDevice(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.server.Config.Handler = rename{d.server.Config.Handler}
	if e, err := d.client.Enroll(t.Context()); !errors.Is(err, client.ErrServer) || len(d.server.spki) != 0 {
		t.Errorf("Enroll = %+v, %v, want ErrServer before the second round", e, err)
	}
}

// rename answers the first round of enrollment for another device.
type rename struct{ http.Handler }

func (h rename) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != wire.PathEnroll {
		h.Handler.ServeHTTP(w, r)
		return
	}
	b, err := json.Marshal(wire.EnrollChallenge{Device: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Challenge: []byte{1}})
	if err == nil {
		_, _ = w.Write(b)
	}
}

func TestRefusalAtEnrollmentIsAValue(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.server.refuse(w, http.StatusForbidden, reason.EKUntrusted)
	})
	e, err := d.client.Enroll(t.Context())
	if err != nil || e.Lifecycle != "" || len(e.Refusals) != 1 || e.Refusals[0].Reason != reason.EKUntrusted || e.Refusals[0].Remedy == "" {
		t.Errorf("Enroll = %+v, %v, want %s", e, err, reason.EKUntrusted)
	}
	r, err := d.client.Check(t.Context())
	if err != nil || len(r.Refusals) != 1 || r.Refusals[0].Local {
		t.Errorf("Check = %+v, %v, want the server's refusal", r, err)
	}
}

func TestQuotesEachNewBeaconOnceAndEachBootOverAChallenge(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.check()
	quoted := func() bool {
		d.server.mu.Lock()
		defer d.server.mu.Unlock()
		return d.server.polls[len(d.server.polls)-1].Evidence != nil
	}
	d.check()
	if quoted() {
		t.Error("the beacon was affirmed already in this boot and is proven again")
	}
	for range 3 {
		d.server.sign()
		d.check() // brings the new beacon; what it proved, if anything, was the old one
		d.check()
		if !quoted() {
			t.Error("a new beacon was not proven")
		}
		if c := d.server.lastClaims(t); c.Challenge != nil {
			t.Error("the lease was renewed over a challenge that nobody asked for")
		}
	}
	if err := d.parts.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.restart()
	if r := d.check(); r.Verdict != "affirmed" {
		t.Errorf("Check after a reboot = %+v, want a proof over a challenge", r)
	}
	if c := d.server.lastClaims(t); c.Challenge == nil {
		t.Error("the proof after a reboot is not over a challenge")
	}
}

func TestClockNeverGoesBackBehindVerifiedMetadata(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.check()
	d.now = start.Add(23 * time.Hour)
	d.server.expires = start.Add(48 * time.Hour)
	d.server.sign()
	d.check()
	d.now = time.Unix(0, 0) // the battery is empty
	d.restart()
	if r := d.check(); r.Refusals != nil {
		t.Errorf("Check without a clock = %+v", r)
	}
	d.server.expires = start.Add(22 * time.Hour) // withheld until now
	d.server.sign()
	d.wantRefused(reason.MetadataExpired)
}

// A clock that is ahead cannot be told from certificates that have ended, so nothing is believed, and the device says it.
func TestDeviceSaysThatItsClockMayBeAhead(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.check()
	d.now = start.Add(40 * 365 * 24 * time.Hour)
	_, err := d.client.Step(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is the device's clock right?") {
		t.Errorf("Step 40 years ahead: %v, want a doubt about the clock", err)
	}
	d.now = start.Add(time.Hour)
	if r := d.check(); r.Refusals != nil {
		t.Errorf("with the right clock Check = %+v", r)
	}
}

// TestClearedTPMLeadsToReactivation clears the TPM: TLS key and counter are gone, and the device comes back by itself
// with a new base.
func TestClearedTPMLeadsToReactivation(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.install("1.1.0", 3, randomImage(t, 1000))
	rw, err := d.parts.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if err := tpm2.Clear(rw, tpm2.HandleLockout, tpm2.AuthCommand{Session: tpm2.HandlePasswordSession, Attributes: tpm2.AttrContinueSession}); err != nil {
		t.Fatalf("TPM2_Clear: %v", err)
	}
	d.restart()
	r, err := d.client.Step(t.Context())
	if err != nil || r.Verdict != "affirmed" || r.Refusals != nil {
		t.Fatalf("Step after TPM2_Clear = %+v, %v, want a device that is proven again", r, err)
	}
	d.wantReported(reason.CounterMissing)
	d.install("1.2.0", 4, randomImage(t, 1000))
}
