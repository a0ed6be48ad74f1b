package retention_test

import (
	"context"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/retention"
)

// watched is an artifact store that lets something happen while it is listed.
type watched struct {
	retention.Artifacts
	meanwhile func()
}

func (w *watched) Walk(ctx context.Context, kind artifacts.Kind, after digest.SHA256, limit int) ([]artifacts.Found, error) {
	w.meanwhile()
	return w.Artifacts.Walk(ctx, kind, after, limit)
}

// Whoever may read releases may ask for a plan, and a plan reads everything: one at a time, and nobody queues up.
func TestPlansAndRoundsDoNotPileUp(t *testing.T) {
	t.Parallel()
	w := world(t)
	blobs := &watched{Artifacts: w.Blobs}
	s := serviceOver(w, blobs)
	asked := 0
	blobs.meanwhile = func() {
		asked++
		if _, err := s.Plan(t.Context()); !errors.Is(err, retention.ErrBusy) {
			t.Errorf("a second plan: got %v, want ErrBusy", err)
		}
	}
	if _, err := s.Plan(t.Context()); err != nil || asked == 0 {
		t.Errorf("a plan: %v after %d lists", err, asked)
	}
	blobs.meanwhile = func() {
		asked = -1
		if _, err := s.Collect(t.Context(), "alice"); !errors.Is(err, retention.ErrBusy) {
			t.Errorf("a second round: got %v, want ErrBusy", err)
		}
	}
	if _, err := s.Collect(t.Context(), "alice"); err != nil || asked != -1 {
		t.Errorf("a round: %v", err)
	}
	blobs.meanwhile = func() {}
	if _, err := s.Plan(t.Context()); err != nil {
		t.Errorf("a plan after the others: %v", err)
	}
}
