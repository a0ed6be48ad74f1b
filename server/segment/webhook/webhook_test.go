package webhook_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/segmenttest"
	"github.com/cordon-ota/cordon/server/segment/webhook"
)

func TestContract(t *testing.T) {
	t.Parallel()
	segmenttest.Run(t, func(t *testing.T) segmenttest.Setup {
		s := open(t)
		return segmenttest.Setup{Point: s.point, Restart: func() segment.Point { return s.connect(t, webhook.Config{}) }}
	})
}

func TestContractByAddress(t *testing.T) {
	t.Parallel()
	segmenttest.Run(t, func(t *testing.T) segmenttest.Setup {
		s := open(t)
		connect := func() segment.Point { return s.connect(t, webhook.Config{Selector: segment.ByAddress}) }
		return segmenttest.Setup{Point: connect(), Restart: connect}
	})
}

func order(epoch int64) segment.Order {
	return segment.Order{
		Target:  segment.Target{Device: "d", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, MACs: []string{"02:00:00:00:00:01"}},
		Segment: fleet.Restricted, Epoch: epoch, At: time.Now(),
	}
}

// A question names no segment and no order: its author would take a zero for an epoch.
func TestAQuestionNamesNoOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.point.Observe(t.Context(), order(5).Target); err != nil {
		t.Fatal(err)
	}
	for _, member := range []string{"epoch", "segment\"", "requested_at"} {
		if bytes.Contains(s.last.body, []byte(member)) {
			t.Errorf("the question has %s: %s", member, s.last.body)
		}
	}
}

// The receiver knows only the documented rules; what somebody on the way keeps, changes or makes up does not get through.
func TestForgeriesAndReplaysAreRefusedByTheRules(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.point.Apply(t.Context(), order(5)); err != nil {
		t.Fatal(err)
	}
	kept := s.last
	s.seen = map[string]time.Time{} // what follows is refused for its own reason
	later := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
	_, stranger, _ := ed25519.GenerateKey(nil)
	forged := open(t)
	foreign := forged.connect(t, webhook.Config{Key: stranger})
	if _, err := foreign.Apply(t.Context(), order(6)); !errors.Is(err, segment.ErrRefused) {
		t.Errorf("signed by a stranger: got %v, want %v", err, segment.ErrRefused)
	}
	with := func(header, value string) http.Header { h := kept.header.Clone(); h.Set(header, value); return h }
	tests := map[string]struct {
		header http.Header
		body   []byte
		name   string
		now    func() time.Time
		want   error
	}{
		"another body":         {kept.header, bytes.Replace(kept.body, []byte("restricted"), []byte("production"), 1), "fabric", time.Now, errSignature},
		"another epoch":        {kept.header, bytes.Replace(kept.body, []byte(`"epoch":5`), []byte(`"epoch":9`), 1), "fabric", time.Now, errSignature},
		"another id":           {with(webhook.HeaderID, "msg_0"), kept.body, "fabric", time.Now, errSignature},
		"another time":         {with(webhook.HeaderTimestamp, "4102444800"), kept.body, "fabric", time.Now, errSignature},
		"no signature":         {with(webhook.HeaderSignature, ""), kept.body, "fabric", time.Now, errSignature},
		"symmetric signature":  {with(webhook.HeaderSignature, "v1,"+strings.TrimPrefix(kept.header.Get(webhook.HeaderSignature), "v1a,")), kept.body, "fabric", time.Now, errSignature},
		"kept for six minutes": {kept.header, kept.body, "fabric", later(6 * time.Minute), errTime},
		"from the future":      {kept.header, kept.body, "fabric", later(-6 * time.Minute), errTime},
		"at another receiver":  {kept.header, kept.body, "other", time.Now, errPoint},
	}
	for name, test := range tests {
		r, err := newReceiver(test.name, webhook.PublicKey(s.key), test.now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.take(test.header, test.body); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		if len(r.rules) != 0 {
			t.Errorf("%s: it has set a rule", name)
		}
	}
	r, err := newReceiver("fabric", webhook.PublicKey(s.key), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.take(kept.header, kept.body); err != nil {
		t.Fatalf("the message itself: %v", err)
	}
	if _, err := r.take(kept.header, kept.body); !errors.Is(err, errReplay) {
		t.Errorf("sent again: got %v, want %v", err, errReplay)
	}
	// Whatever a receiver forgets about ids, an older order changes nothing.
	r.seen = map[string]time.Time{}
	r.rules["d"] = webhook.Answer{Device: "d", Segment: fleet.Production, Epoch: 6}
	if a, err := r.take(kept.header, kept.body); err != nil || a.Segment != fleet.Production || a.Epoch != 6 {
		t.Errorf("an older order: got %+v, %v", a, err)
	}
}

func TestEveryMessageHasItsOwnID(t *testing.T) {
	t.Parallel()
	s := open(t)
	for range 3 {
		if _, err := s.point.Apply(t.Context(), order(5)); err != nil { // the receiver refuses an id that it has seen
			t.Fatal(err)
		}
	}
	if len(s.seen) != 3 {
		t.Errorf("got %d ids, want 3", len(s.seen))
	}
}

func TestPublicKeyIsAsTheSpecificationWritesIt(t *testing.T) {
	t.Parallel()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	public, _ := key.Public().(ed25519.PublicKey)
	if got, want := webhook.PublicKey(key), "whpk_"+base64.StdEncoding.EncodeToString(public); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAnswersThatDoNotCount(t *testing.T) {
	t.Parallel()
	good := `{"device":"d","segment":"restricted","epoch":5,"detail":"vlan 13","later":1}`
	tests := map[string]struct {
		status int
		body   string
		want   error
	}{
		"good":            {200, good, nil},
		"cannot say":      {200, `{"device":"d"}`, nil},
		"other device":    {200, `{"device":"e","segment":"restricted","epoch":5}`, segment.ErrRefused},
		"no device":       {200, `{"segment":"restricted","epoch":5}`, segment.ErrRefused},
		"unknown segment": {200, `{"device":"d","segment":"Restricted"}`, segment.ErrRefused},
		"negative epoch":  {200, `{"device":"d","segment":"restricted","epoch":-1}`, segment.ErrRefused},
		"duplicates":      {200, `{"device":"d","segment":"production","segment":"restricted"}`, segment.ErrRefused},
		"trailing":        {200, good + good, segment.ErrRefused},
		"empty":           {200, ``, segment.ErrRefused},
		"too long":        {200, `{"device":"d","detail":"` + strings.Repeat("x", webhook.MaxAnswer) + `"}`, segment.ErrRefused},
		"accepted only":   {202, good, segment.ErrRefused},
		"no content":      {204, ``, segment.ErrRefused},
		"redirect":        {307, good, segment.ErrRefused},
		"forbidden":       {403, good, segment.ErrRefused},
		"busy":            {429, good, segment.ErrUnreachable},
		"broken":          {500, good, segment.ErrUnreachable},
		"down":            {503, good, segment.ErrUnreachable},
	}
	for name, test := range tests {
		if _, err := webhook.Read(test.status, []byte(test.body), "d"); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(200, []byte(`{"device":"d","segment":"restricted","epoch":5,"detail":"vlan 13"}`))
	f.Add(503, []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		a, err := webhook.Read(status, body, "d")
		if err != nil {
			if !errors.Is(err, segment.ErrRefused) && !errors.Is(err, segment.ErrUnreachable) {
				t.Errorf("got %v, an error of no kind", err)
			}
			return
		}
		if status != 200 || a.Device != "d" || a.Epoch < 0 || a.Segment != "" && a.Segment != fleet.Production && a.Segment != fleet.Restricted {
			t.Errorf("took status %d, %+v", status, a)
		}
	})
}

// A redirect would carry the signed order somewhere else.
func TestFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := open(t)
	var there atomic.Bool
	elsewhere.answer = func(http.ResponseWriter, *http.Request) bool { there.Store(true); return false }
	s := open(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.server.URL, http.StatusTemporaryRedirect)
		return true
	}
	p := s.connect(t, webhook.Config{Roots: pool(s, elsewhere)})
	if _, err := p.Apply(t.Context(), order(1)); !errors.Is(err, segment.ErrRefused) {
		t.Errorf("got %v, want %v", err, segment.ErrRefused)
	}
	if there.Load() {
		t.Error("the order went elsewhere")
	}
}

func pool(sites ...*site) *x509.CertPool {
	out := x509.NewCertPool()
	for _, s := range sites {
		out.AddCert(s.server.Certificate())
	}
	return out
}

func TestTrustsOnlyItsCA(t *testing.T) {
	t.Parallel()
	s := open(t)
	p := s.connect(t, webhook.Config{Roots: x509.NewCertPool()})
	_, err := p.Apply(t.Context(), order(1))
	if !errors.Is(err, segment.ErrUnreachable) || s.last.body != nil {
		t.Errorf("unknown CA: got %v, want %v and nothing sent", err, segment.ErrUnreachable)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the receiver's URL: %v", err)
	}
}

func TestAnswerThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusOK)
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 32<<10)); err != nil {
				break
			}
		}
		return true
	}
	if _, err := s.point.Apply(t.Context(), order(1)); !errors.Is(err, segment.ErrRefused) {
		t.Errorf("endless answer: got %v, want %v", err, segment.ErrRefused)
	}
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client is gone
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.point.Apply(ctx, order(1)); !errors.Is(err, segment.ErrUnreachable) {
		t.Errorf("no answer: got %v, want %v", err, segment.ErrUnreachable)
	}
}

func TestRefusesConfiguration(t *testing.T) {
	t.Parallel()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	for _, url := range []string{"", "http://fabric.example", "https://", "https://ann:secret@fabric.example", "https://fabric.example/#x", "ftp://fabric.example", ":"} {
		if _, err := webhook.New(webhook.Config{Name: "fabric", URL: url, Key: key, Now: time.Now}); err == nil {
			t.Errorf("%q: accepted", url)
		}
	}
	if _, err := webhook.New(webhook.Config{Name: "fabric", URL: "https://fabric.example", Now: time.Now}); err == nil {
		t.Error("accepted without a key")
	}
}
