package report_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/store"
)

// waiting lets a report stand still in the middle.
type waiting struct {
	report.Store
	entered, leave chan struct{}
}

func (w waiting) ListReleases(ctx context.Context, product string) ([]store.Release, error) {
	w.entered <- struct{}{}
	<-w.leave
	return w.Store.ListReleases(ctx, product)
}

// A report holds hundreds of megabytes while it is made. One token that asks for many at once must not take the memory
// that devices need.
func TestReportsAreMadeOneAtATime(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	cfg := s.cfg
	w := waiting{Store: cfg.Store, entered: make(chan struct{}, 8), leave: make(chan struct{})}
	cfg.Store = w
	service, err := report.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	from, to := verifytest.Noon.Add(-time.Hour), verifytest.Noon.Add(24*time.Hour)
	first := make(chan error, 1)
	go func() {
		_, err := service.Make(t.Context(), "ann", from, to, "")
		first <- err
	}()
	<-w.entered
	_, err = service.Make(t.Context(), "ann", from, to, "")
	if p, ok := errors.AsType[*problem.Error](err); !ok || p.Status != http.StatusTooManyRequests || p.Reason != reason.RateLimited || p.RetryAfter == 0 {
		t.Errorf("a second one at the same time: got %v", err)
	}
	close(w.leave)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if _, err := service.Make(t.Context(), "ann", from, to, ""); err != nil {
		t.Errorf("after it: %v", err)
	}
}
