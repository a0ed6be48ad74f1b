package deviceapi_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// Where a poll comes from counts only once its key has said whose it is; what a header claims counts never.
func TestLearnsAddressesFromAuthenticatedPollsAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	peer := "192.0.2.7:4711"
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(s.Log)
	s.api.Places = segment.NewLearner(s.Store, standing.Rules{Terms: appraisetest.Settings.Terms}, s.Now, slog.New(slog.DiscardHandler), s.api.Enforcer.Wake)
	s.api.Register(e)
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = peer // the test itself connects over loopback, which is nobody's address
		e.ServeHTTP(w, r)
	}))
	h.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	h.StartTLS()
	t.Cleanup(h.Close)
	s.url = h.URL

	stranger := evidencetest.NewTLSKey(evidencetest.Seed("stranger"))
	connect(t, s, &stranger).do(t, s, http.MethodPost, wire.PathPoll, []byte(`{}`))
	if others, err := s.Store.DevicesAt(t.Context(), "192.0.2.7", "", 0); err != nil || len(others) != 0 {
		t.Errorf("a stranger's address was kept: %v, %v", others, err)
	}
	d, c := device(t, s)
	want := []store.Address{{Device: d.Row().ID, Source: store.SourcePoll, Kind: store.KindIP, Address: "192.0.2.7", At: s.Now()}}
	got, err := s.Store.Addresses(t.Context(), d.Row().ID)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("addresses (-want +got):\n%s%v", diff, err)
	}
	res := c.do(t, s, http.MethodPost, wire.PathPoll, d.Body(nil, false), "X-Forwarded-For", "192.0.2.99", "Forwarded", "for=192.0.2.99")
	_ = body(t, res)
	if got, err := s.Store.Addresses(t.Context(), d.Row().ID); err != nil || len(got) != 1 || got[0].Address != "192.0.2.7" {
		t.Errorf("after a poll with headers: got %+v, %v", got, err)
	}
}
