package adminapi_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/adminapi"
)

// A client whose line broke asks how far it is while what arrived is still being made durable: the answer waits for that,
// for that blob alone, and not for ever.
func TestUploadIsAskedAboutOnlyWhenItHasSettled(t *testing.T) {
	t.Parallel()
	sum, other := digest.Of([]byte("image")), digest.Of([]byte("other"))
	synctest.Test(t, func(t *testing.T) {
		var u adminapi.Uploads
		first, second := u.Begin(sum), u.Begin(sum)
		answered := make(chan struct{})
		go func() {
			u.Settled(t.Context(), sum, time.Minute)
			close(answered)
		}()
		waits := func(when string) {
			t.Helper()
			synctest.Wait()
			select {
			case <-answered:
				t.Errorf("answered %s", when)
			default:
			}
		}
		u.Settled(t.Context(), other, time.Minute) // nobody uploads it
		waits("while two requests bring bytes")
		first()
		waits("while one request brings bytes")
		second()
		<-answered

		defer u.Begin(sum)()
		started := time.Now()
		u.Settled(t.Context(), sum, time.Minute)
		if got := time.Since(started); got != time.Minute {
			t.Errorf("waited %s for an upload that does not end, want a minute", got)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		u.Settled(gone, sum, time.Minute)
		if got := time.Since(started); got != time.Minute {
			t.Error("waited for a caller who has gone")
		}
	})
}
