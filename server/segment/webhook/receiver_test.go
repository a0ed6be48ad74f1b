package webhook_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment/webhook"
)

// receiver follows the five documented rules and nothing else: what it refuses, every receiver can refuse.
type receiver struct {
	name string
	key  ed25519.PublicKey
	now  func() time.Time

	mu     sync.Mutex
	seen   map[string]time.Time // ids
	rules  map[string]webhook.Answer
	last   captured // the last request that was taken
	answer func(http.ResponseWriter, *http.Request) bool
}

// captured is a request as somebody on the way could have kept it.
type captured struct {
	header http.Header
	body   []byte
}

var (
	errSignature = errors.New("signature")
	errTime      = errors.New("timestamp")
	errReplay    = errors.New("id seen before")
	errPoint     = errors.New("meant for another point")
)

func newReceiver(name, key string, now func() time.Time) (*receiver, error) {
	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, webhook.KeyPrefix))
	if err != nil {
		return nil, err
	}
	return &receiver{name: name, key: public, now: now, seen: map[string]time.Time{}, rules: map[string]webhook.Answer{}}, nil
}

// take is the whole receiver.
func (r *receiver) take(h http.Header, body []byte) (webhook.Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, stamp := h.Get(webhook.HeaderID), h.Get(webhook.HeaderTimestamp)
	text, ok := strings.CutPrefix(h.Get(webhook.HeaderSignature), "v1a,")
	signature, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || !ed25519.Verify(r.key, []byte(id+"."+stamp+"."+string(body)), signature) {
		return webhook.Answer{}, errSignature
	}
	unix, err := strconv.ParseInt(stamp, 10, 64)
	if age := r.now().Sub(time.Unix(unix, 0)); err != nil || age > 5*time.Minute || age < -5*time.Minute {
		return webhook.Answer{}, errTime
	}
	if _, seen := r.seen[id]; seen {
		return webhook.Answer{}, errReplay
	}
	r.seen[id] = r.now()
	var m webhook.Message
	if err := json.Unmarshal(body, &m); err != nil {
		return webhook.Answer{}, err
	}
	if m.Data.Point != r.name {
		return webhook.Answer{}, errPoint
	}
	r.last = captured{h.Clone(), body}
	device := m.Data.Device
	inForce, known := r.rules[device]
	if m.Type == webhook.TypeOrder && (m.Data.Epoch > inForce.Epoch || m.Data.Epoch == inForce.Epoch && m.Data.Segment == inForce.Segment) {
		inForce = webhook.Answer{Device: device, Segment: m.Data.Segment, Epoch: m.Data.Epoch, Detail: "set"}
		r.rules[device] = inForce
	}
	if !known && m.Type == webhook.TypeObserve {
		inForce = webhook.Answer{Device: device, Segment: fleet.Production}
	}
	return inForce, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.answer != nil && r.answer(w, req) {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64<<10))
	if err != nil || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a, err := r.take(req.Header, body)
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	b, err := json.Marshal(a)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(b)
}

// site is a receiver over TLS and a point that talks to it.
type site struct {
	*receiver
	key    ed25519.PrivateKey
	roots  *x509.CertPool
	server *httptest.Server
	point  *webhook.Point
}

func open(t *testing.T) *site {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newReceiver("fabric", webhook.PublicKey(key), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{receiver: r, key: key, server: httptest.NewTLSServer(r), roots: x509.NewCertPool()}
	t.Cleanup(s.server.Close)
	s.roots.AddCert(s.server.Certificate())
	s.point = s.connect(t, webhook.Config{})
	return s
}

// connect makes a point with what the configuration leaves open filled in.
func (s *site) connect(t *testing.T, cfg webhook.Config) *webhook.Point {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "fabric"
	}
	if cfg.URL == "" {
		cfg.URL = s.server.URL + "/segments?secret=of-the-receiver"
	}
	if cfg.Key == nil {
		cfg.Key = s.key
	}
	if cfg.Roots == nil {
		cfg.Roots = s.roots
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p, err := webhook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}
