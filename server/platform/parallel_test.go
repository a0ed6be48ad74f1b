package platform_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/platform"
	"github.com/cordon-ota/cordon/server/problem"
)

// waiting lets what is learned stand still in the middle.
type waiting struct {
	platform.Store
	entered, leave chan struct{}
}

func (w waiting) DenialsInForce(ctx context.Context) ([]fleet.Denial, error) {
	w.entered <- struct{}{}
	<-w.leave
	return w.Store.DenialsInForce(ctx)
}

// What is learned reads and replays hundreds of event logs. One token that asks for many at once must not take the time that
// devices need.
func TestOneBaselineIsLearnedAtATime(t *testing.T) {
	t.Parallel()
	w := learning(t)
	shows(t, w, "a")
	s := waiting{Store: w.Store, entered: make(chan struct{}, 8), leave: make(chan struct{})}
	service := platform.New(s, releases{w})
	learn := func() chan error {
		done := make(chan error, 1)
		go func() {
			_, err := service.Learn(t.Context(), query(1))
			done <- err
		}()
		return done
	}
	first := learn()
	<-s.entered
	select {
	case err := <-learn():
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Status != http.StatusTooManyRequests || p.Reason != reason.RateLimited || p.RetryAfter == 0 {
			t.Errorf("a second one at the same time: got %v", err)
		}
	case <-s.entered:
		t.Error("a second one at the same time is learned")
	}
	close(s.leave)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got, err := service.Learn(t.Context(), query(1)); err != nil || got.Statement == nil {
		t.Errorf("after it: %+v, %v", got, err)
	}
}
