package enroll_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// between does something after an enrollment was decided and before it is committed.
type between struct {
	enroll.Store
	then func()
}

func (b *between) OpenQuarantine(ctx context.Context, device string) (fleet.Quarantine, error) {
	if then := b.then; then != nil {
		b.then = nil
		then()
	}
	return b.Store.OpenQuarantine(ctx, device)
}

// An enrollment that was decided while the key was registered does not bring it back when people had it forgotten meanwhile,
// and it does not put a successor of that key there either.
func TestEnrollmentUnderWayDoesNotOutliveTheKey(t *testing.T) {
	t.Parallel()
	for name, rotates := range map[string]bool{"of the same key": false, "of a successor": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			d, old := rotated(t, s, "b") // has a key to rotate to
			thief := *d
			if !rotates {
				thief.ak = old
			}
			gap := &between{Store: s.Store}
			key := sha256.Sum256([]byte("activation"))
			slow := server{s.World, enroll.New(gap, enroll.Admission{Policy: identity.EKPolicy{Roots: roots(t, manufacturer().Certificate)}, Bare: true},
				appraise.NewChallenges(bytes.Repeat([]byte{9}, 32), 5*time.Minute), key[:], standing.Rules{Terms: appraisetest.Settings.Terms}, 5*time.Minute, s.Now)}
			gap.then = func() { s.forget(t, d) }
			var change []func(*proofs)
			if rotates {
				change = append(change, by(&old))
			}
			_, err := slow.enroll(t, &thief, change...)
			wantProblem(t, "under way", err, reason.Conflict)
			if row := s.row(t, d); !row.KeyForgotten() {
				t.Error("the key is there again")
			}
			d.ak = evidencetest.NewAK(evidencetest.Seed("the honest one"))
			if _, err := s.enroll(t, d); err != nil {
				t.Errorf("the device itself: %v", err)
			}
		})
	}
}

// A backup of before the forgetting brings the lost key back, with the voices that were in it: they still end, and two people do
// it again.
func TestForgettingIsDoneAgainAfterARestore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := lockedOut(t, s, "r")
	backup := s.row(t, d)
	backup.ForgetKey = []fleet.KeyVoice{{Person: "ann", Why: "x", At: s.Now()}}
	s.forget(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Fatal(err)
	}
	s.commit(t, store.PutDevice{Device: backup})
	_, err := s.enroll(t, d)
	wantProblem(t, "after the restore", err, reason.AKNotBound)
	s.World.Advance(fleet.KeyVoiceLasts)
	s.forget(t, d)
	if _, err := s.enroll(t, d); err != nil {
		t.Errorf("after it was done again: %v", err)
	}
	if row := s.row(t, d); !bytes.Equal(row.AKPublic, d.ak.Public) || row.HighCounter != backup.HighCounter || row.Accepted == nil {
		t.Errorf("got %+v", row)
	}
}
