package deviceapi_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/deviceapi"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

// slow reads half of an artifact and then waits for the end of its context.
type slow struct {
	artifacts.Blobs
	on bool
}

func (s *slow) Open(ctx context.Context, d digest.SHA256, offset, length int64) (io.ReadCloser, error) {
	r, err := s.Blobs.Open(ctx, d, offset, length)
	if err != nil || !s.on {
		return r, err
	}
	return &halting{ReadCloser: r, ctx: ctx, left: length / 2}, nil
}

type halting struct {
	io.ReadCloser
	ctx  context.Context
	left int64
}

func (h *halting) Read(b []byte) (int, error) {
	if h.left <= 0 {
		<-h.ctx.Done()
		return 0, context.Cause(h.ctx)
	}
	n, err := h.ReadCloser.Read(b[:min(int64(len(b)), h.left)])
	h.left -= int64(n)
	return n, err
}

type server struct {
	*appraisetest.World
	api   *deviceapi.Server
	blobs *slow
	url   string
}

func newServer(t *testing.T) server {
	t.Helper()
	w := appraisetest.New(t)
	dir, err := dirstore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.Publish("1", 1)
	w.Publish("2", 2)
	w.Publish("rescue", 3, appraisetest.Recovery)
	for _, name := range []string{"lamp/1", "lamp/2", "lamp/rescue"} {
		b := appraisetest.Bytes(name)
		if _, err := dir.Write(t.Context(), digest.Of(b), int64(len(b)), 0, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	s := server{World: w, blobs: &slow{Blobs: dir}}
	key := sha256.Sum256([]byte("activation"))
	door := segment.NewDoor()
	s.api = &deviceapi.Server{
		Polls: w.Service, Store: w.Store, Blobs: s.blobs, Files: repository.NewFiles(nil), Door: door,
		Enroll:   enroll.New(w.Store, enroll.Admission{}, w.Challenges, key[:], standing.Rules{Terms: appraisetest.Settings.Terms}, 5*time.Minute, w.Now),
		Enforcer: segment.NewEnforcer(w.Store, door, w.Catalog, time.Hour, w.Now, w.Log), Catalog: w.Catalog, Now: w.Now, Log: w.Log,
	}
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(w.Log)
	s.api.Register(e)
	h := httptest.NewUnstartedServer(e)
	h.Config.ErrorLog = nil
	h.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	h.StartTLS()
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

// client is one TLS connection that is kept, with its keying material.
type client struct {
	*http.Client
	exporter []byte
}

// connect authenticates with the key; nil for none.
func connect(t *testing.T, s server, key *evidencetest.Key) *client {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} // the server's side is not what is tested
	if key != nil {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1, 0)} // expired: only the key counts
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Private.Public(), key.Private)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key.Private}}
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	state := conn.(*tls.Conn).ConnectionState()
	exporter, err := state.ExportKeyingMaterial(attestation.ExporterLabel, nil, 32)
	if err != nil {
		t.Fatal(err)
	}
	used := false
	transport := &http.Transport{MaxIdleConns: 1, DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if used { // a busy machine: net/http keeps no connection whose request took 50 ms to be noted as written
			return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
		}
		used = true
		return conn, nil
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{Client: &http.Client{Transport: transport}, exporter: exporter}
}

func (c *client) do(t *testing.T, s server, method, path string, body []byte, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func body(t *testing.T, res *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantProblem(t *testing.T, what string, res *http.Response, status int, why reason.Reason) {
	t.Helper()
	var doc wire.Problem
	b := body(t, res)
	if err := json.Unmarshal(b, &doc); err != nil || res.StatusCode != status || doc.Reason != why || res.Header.Get("Content-Type") != problem.ContentType {
		t.Errorf("%s: got %d %s, want %d %s", what, res.StatusCode, b, status, why)
	}
}

// device has proven lamp/1 over the wire and is offered lamp/2.
func device(t *testing.T, s server) (*appraisetest.Device, *client) {
	t.Helper()
	d := s.Enrolled(t, "a", "lamp/1")
	c := connect(t, s, &d.TLS)
	d.Exporter = c.exporter
	p := poll(t, s, d, c, nil)
	for p.EvidenceWanted != "" {
		p = poll(t, s, d, c, p.Challenge)
	}
	if p.Verdict != "affirmed" || p.Director == nil || d.Row().Offered != "lamp/2" {
		t.Fatalf("got %+v", p)
	}
	return d, c
}

func poll(t *testing.T, s server, d *appraisetest.Device, c *client, nonce []byte) wire.PollAnswer {
	t.Helper()
	res := c.do(t, s, http.MethodPost, wire.PathPoll, d.Body(nonce, nonce != nil))
	b := body(t, res)
	if res.StatusCode != http.StatusOK || res.Header.Get(wire.HeaderNextPoll) == "" || res.Header.Get(wire.HeaderTime) != s.Now().Format(time.RFC3339) {
		t.Fatalf("got %d %s, %v", res.StatusCode, b, res.Header)
	}
	var p wire.PollAnswer
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	if p.Timestamp != nil {
		d.Claims.Timestamp = digest.Of(p.Timestamp)
	}
	return p
}

func path(name string) string { return wire.PathArtifacts + "/" + appraisetest.Image(name).String() }

func TestQuoteIsBoundToItsConnection(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := device(t, s)
	c := connect(t, s, &d.TLS)
	nonce := s.Challenges.Mint(attestation.PurposePoll, d.ID, s.Now())
	if p := poll(t, s, d, c, nonce); p.Verdict != "refused" || !slices.ContainsFunc(p.Refusal, func(r wire.Refusal) bool { return r.Reason == reason.NonceUnknown }) {
		t.Errorf("a quote over the old connection: got %+v", p)
	}
	d.Exporter = c.exporter
	if p := poll(t, s, d, c, nonce); p.Verdict != "affirmed" {
		t.Errorf("over this one: got %+v", p)
	}
	d.Claims.DirectorVersion = 1
	if res := c.do(t, s, http.MethodPost, wire.PathPoll, d.Body(nil, false)); res.StatusCode != http.StatusNoContent || len(body(t, res)) != 0 || res.Header.Get(wire.HeaderNextPoll) == "" {
		t.Errorf("idle: got %d, %v", res.StatusCode, res.Header)
	}
}

func TestRefusesWithoutAKnownKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	stranger := evidencetest.NewTLSKey(evidencetest.Seed("stranger"))
	for _, route := range [][2]string{{http.MethodPost, wire.PathEnroll}, {http.MethodPost, wire.PathActivate}, {http.MethodPost, wire.PathPoll}, {http.MethodGet, path("lamp/1")}} {
		wantProblem(t, route[1], connect(t, s, nil).do(t, s, route[0], route[1], []byte("{}")), http.StatusUnauthorized, reason.Unauthenticated)
	}
	wantProblem(t, "poll", connect(t, s, &stranger).do(t, s, http.MethodPost, wire.PathPoll, []byte(`{}`)), http.StatusUnauthorized, reason.DeviceUnknown)
	wantProblem(t, "artifact", connect(t, s, &stranger).do(t, s, http.MethodGet, path("lamp/rescue"), nil), http.StatusUnauthorized, reason.DeviceUnknown)
	wantProblem(t, "enroll", connect(t, s, &stranger).do(t, s, http.MethodPost, wire.PathEnroll, []byte(`{}`)), http.StatusBadRequest, reason.AKNotBound)
	wantProblem(t, "route", connect(t, s, &stranger).do(t, s, http.MethodGet, "/device/v1/other", nil), http.StatusNotFound, reason.NotFound)
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := device(t, s)
	for route, limit := range map[string]int{wire.PathEnroll: wire.MaxEnrollBytes, wire.PathActivate: wire.MaxEnrollBytes, wire.PathPoll: wire.MaxPollBytes} {
		large := bytes.Repeat([]byte(" "), limit+1)
		wantProblem(t, route, connect(t, s, &d.TLS).do(t, s, http.MethodPost, route, large), http.StatusRequestEntityTooLarge, reason.RequestTooLarge)
		c := connect(t, s, &d.TLS)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+route, io.MultiReader(bytes.NewReader(large))) // no Content-Length
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantProblem(t, route+" in chunks", res, http.StatusRequestEntityTooLarge, reason.RequestTooLarge)
		wantProblem(t, route+" malformed", connect(t, s, &d.TLS).do(t, s, http.MethodPost, route, []byte("{")), http.StatusBadRequest, reason.RequestMalformed)
	}
}

func TestArtifactRanges(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, c := device(t, s)
	all := appraisetest.Bytes("lamp/2")
	size := len(all)
	tests := map[string]struct {
		header   string
		from, to int
	}{
		"all": {"", 0, size}, "from the start": {"bytes=0-", 0, size}, "resumed": {"bytes=1000-", 1000, size}, "a piece": {"bytes=5-9", 5, 10},
		"past the end": {fmt.Sprintf("bytes=%d-%d", size-3, size+100), size - 3, size}, "last byte": {fmt.Sprintf("bytes=%d-", size-1), size - 1, size},
	}
	for name, test := range tests {
		var header []string
		want := http.StatusOK
		if test.header != "" {
			header, want = []string{"Range", test.header}, http.StatusPartialContent
		}
		res := c.do(t, s, http.MethodGet, path("lamp/2"), nil, header...)
		if got := body(t, res); res.StatusCode != want || !bytes.Equal(got, all[test.from:test.to]) || res.ContentLength != int64(test.to-test.from) {
			t.Errorf("%s: got %d, %d bytes, length %d", name, res.StatusCode, len(got), res.ContentLength)
		}
		if r := res.Header.Get("Content-Range"); want == http.StatusPartialContent && r != fmt.Sprintf("bytes %d-%d/%d", test.from, test.to-1, size) {
			t.Errorf("%s: range %q", name, r)
		}
	}
	for _, bad := range []string{"bytes=-5", "bytes=+1-", "bytes=1-+2", "bytes=9-5", "bytes=0-1,3-4", "items=0-", "bytes=", "bytes=x-", fmt.Sprintf("bytes=%d-", size), "bytes=99999999999999999999-"} {
		res := c.do(t, s, http.MethodGet, path("lamp/2"), nil, "Range", bad)
		if res.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
			t.Errorf("%s: range %q", bad, res.Header.Get("Content-Range"))
		}
		wantProblem(t, bad, res, http.StatusRequestedRangeNotSatisfiable, reason.RequestMalformed)
	}
	wantProblem(t, "no digest", c.do(t, s, http.MethodGet, wire.PathArtifacts+"/xyz", nil), http.StatusBadRequest, reason.RequestMalformed)
}

func TestArtifactRefusalsByReason(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	get := func(what, name string, why reason.Reason) {
		t.Helper()
		wantProblem(t, what, c.do(t, s, http.MethodGet, path(name), nil), http.StatusForbidden, why)
	}
	get("unknown", "lamp/9", reason.ReleaseUnknown)
	s.Hold("lamp/2", true)
	get("held", "lamp/2", reason.ReleaseOnHold)
	s.Hold("lamp/2", false)
	put := func(row fleet.Device, q *fleet.Quarantine) {
		t.Helper()
		writes := []store.Write{store.PutDevice{Device: row}}
		if q != nil {
			writes = append(writes, store.PutQuarantine{Quarantine: *q})
		}
		if err := s.Store.Commit(t.Context(), store.Change{Writes: writes}); err != nil {
			t.Fatal(err)
		}
	}
	put(fleet.Withdraw(d.Row()).Device, nil)
	get("not offered", "lamp/2", reason.ReleaseNotOffered)
	s.Advance(appraisetest.Settings.Terms.Lease + time.Second)
	get("lease ended", "lamp/1", reason.DeviceUnproven)
	step := fleet.Isolate(d.Row(), nil, "ann", "", s.Now())
	put(step.Device, step.Quarantine)
	get("quarantined", "lamp/1", reason.DeviceQuarantined)
	if res := c.do(t, s, http.MethodGet, path("lamp/rescue"), nil); !bytes.Equal(body(t, res), appraisetest.Bytes("lamp/rescue")) || res.StatusCode != http.StatusOK {
		t.Errorf("recovery: got %d", res.StatusCode)
	}
	put(fleet.Retire(d.Row(), "ann").Device, nil)
	get("retired", "lamp/rescue", reason.DeviceRetired)
	got := s.Events(d.ID)
	if n := len(slices.DeleteFunc(slices.Clone(got), func(k string) bool { return k != "artifact.refused" })); n != 6 || !slices.Contains(got, "artifact.served") {
		t.Errorf("%d refusals in %v", n, got)
	}
}

// A stream that is cut must not look complete, whatever its headers promised.
func TestCutStreamIsShort(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	s.blobs.on = true
	res := c.do(t, s, http.MethodGet, path("lamp/2"), nil)
	if _, err := io.ReadFull(res.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	step := fleet.Isolate(d.Row(), nil, "ann", "", s.Now())
	before, q, change := d.Row(), (*fleet.Quarantine)(nil), store.Change{}
	standing.Take(&change, &before, &q, step, "ann", s.Now())
	standing.Rules{Terms: appraisetest.Settings.Terms}.Close(&change, &before, q, "ann", s.Now())
	if len(change.Orders) != 1 {
		t.Fatal("no order")
	}
	if err := s.Store.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if err := s.api.Enforcer.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(res.Body)
	if err == nil || int64(1000+len(rest)) >= res.ContentLength {
		t.Errorf("got %d of %d bytes, %v", 1000+len(rest), res.ContentLength, err)
	}
	if slices.Contains(s.Events(d.ID), "artifact.served") || s.Order(d.ID).Verified.IsZero() {
		t.Errorf("events %v, order %+v", s.Events(d.ID), s.Order(d.ID))
	}
}

// turning isolates a device between the door's decision and its stream.
type turning struct {
	artifacts.Blobs
	then func()
}

func (b turning) Stat(ctx context.Context, d digest.SHA256) (int64, error) {
	b.then()
	return b.Blobs.Stat(ctx, d)
}

func TestChangeBetweenDecisionAndStreamIsSeen(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, c := device(t, s)
	s.api.Blobs = turning{s.blobs, func() {
		step := fleet.Isolate(d.Row(), nil, "ann", "", s.Now())
		if err := s.Store.Commit(context.Background(), store.Change{Writes: []store.Write{store.PutDevice{Device: step.Device}, store.PutQuarantine{Quarantine: *step.Quarantine}}}); err != nil {
			t.Error(err)
		}
	}}
	wantProblem(t, "isolated in between", c.do(t, s, http.MethodGet, path("lamp/2"), nil), http.StatusForbidden, reason.DeviceQuarantined)
	if n := len(s.api.Door.Streams()); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func TestMissingArtifactIsBusy(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, c := device(t, s)
	if err := s.blobs.Remove(t.Context(), appraisetest.Image("lamp/2")); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "removed", c.do(t, s, http.MethodGet, path("lamp/2"), nil), http.StatusServiceUnavailable, reason.ServerBusy)
}
