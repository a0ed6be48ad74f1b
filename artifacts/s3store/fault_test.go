package s3store_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// fault is what happens to one request on its way to the real server.
type fault string

const (
	lostRequest   fault = "LostRequest"   // cut before the server sees anything
	tornRequest   fault = "TornRequest"   // the server sees half of the body
	lostAnswer    fault = "LostAnswer"    // carried out, but nobody hears of it
	tornAnswer    fault = "TornAnswer"    // the answer's body is cut in the middle
	busy          fault = "Busy"          // 503 SlowDown, nothing carried out
	internalError fault = "InternalError" // carried out, but answered with 500
	forgotten     fault = "Forgotten"     // the first CompleteMultipartUpload: carried out, but answered with NoSuchUpload
)

var allFaults = []fault{lostRequest, tornRequest, lostAnswer, tornAnswer, busy, internalError}

// proxy stands between store and server, with a TLS certificate of its own.
type proxy struct {
	*httptest.Server
	target *url.URL
	client *http.Transport

	mu   sync.Mutex // guards the rest
	kind fault
	at   int // index of the request that the fault hits; none when it is negative
	seen int
	hit  bool
}

func startProxy(t testing.TB, cfg s3store.Config) *proxy {
	t.Helper()
	target, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, at: -1, client: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cfg.Roots}, DisableCompression: true}}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.StartTLS()
	t.Cleanup(p.Close)
	t.Cleanup(p.client.CloseIdleConnections)
	return p
}

// through is cfg with the way over the proxy.
func (p *proxy) through(cfg s3store.Config) s3store.Config {
	cfg.Endpoint = p.URL
	cfg.Roots = x509.NewCertPool()
	cfg.Roots.AddCert(p.Certificate())
	return cfg
}

// arm lets the fault hit the request with this index, counted from now.
func (p *proxy) arm(kind fault, at int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kind, p.at, p.seen, p.hit = kind, at, 0, false
}

// disarm reports whether the fault hit.
func (p *proxy) disarm() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = -1
	return p.hit
}

func (p *proxy) next(r *http.Request) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kind == forgotten {
		if p.at < 0 || r.Method != http.MethodPost || !r.URL.Query().Has("uploadId") {
			return ""
		}
		p.at, p.hit = -1, true
		return forgotten
	}
	p.seen++
	if p.at != p.seen-1 {
		return ""
	}
	p.hit = true
	return p.kind
}

func cut() { panic(http.ErrAbortHandler) }

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := p.next(r)
	body, err := io.ReadAll(r.Body)
	if err != nil || kind == lostRequest {
		cut()
	}
	if kind == busy {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>`)
		return
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host // the Host header stays: it is signed
	out.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	if kind == tornRequest {
		out.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), tornReader{}))
		if len(body) == 0 {
			cut()
		}
	}
	answer, err := p.client.RoundTrip(out)
	if err != nil || kind == tornRequest {
		cut()
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil || kind == lostAnswer {
		cut()
	}
	if kind == forgotten {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>NoSuchUpload</Code><Message>The upload does not exist.</Message></Error>`)
		return
	}
	if kind == internalError {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	for k, v := range answer.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.StatusCode)
	if kind == tornAnswer {
		_, _ = w.Write(content[:len(content)/2])
		_ = http.NewResponseController(w).Flush()
		cut()
	}
	_, _ = w.Write(content)
}

type tornReader struct{}

func (tornReader) Read([]byte) (int, error) { return 0, errors.New("cut") }

// faultBlob has two parts. Every run removes it in the end.
var faultBlob = sync.OnceValue(func() []byte { return storetest.Bytes(40, s3store.PartBytes+70_000) })

// everyFault runs scenario once per fault and index of a request after arm, until no request is left to hit.
func everyFault(t *testing.T, kinds []fault, scenario func(t *testing.T, p *proxy, cfg s3store.Config, arm func(), run uint64)) {
	_, direct := newStore(t)
	for i, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, direct)
			cfg := p.through(direct)
			cfg.Prefix = "fault/" + string(kind)
			for at := 0; ; at++ {
				scenario(t, p, cfg, func() { p.arm(kind, at) }, uint64(i*1000+at))
				if !p.disarm() {
					if at < 2 {
						t.Errorf("only %d requests were hit", at)
					}
					return
				}
			}
		})
	}
}

// With one attempt, every fault is seen; the next clean attempt ends well, and nothing torn can be read in between.
func TestEveryFaultInAnUploadIsHealedByTheNextAttempt(t *testing.T) {
	t.Parallel()
	everyFault(t, []fault{tornRequest, lostAnswer, tornAnswer}, func(t *testing.T, p *proxy, cfg s3store.Config, arm func(), _ uint64) {
		s := open(t, cfg)
		s.SetAttempts(1)
		arm()
		b := faultBlob()
		d, size := digest.Of(b), int64(len(b))
		// Two calls: the first one ends with a part and a tail.
		at, err := s.Write(t.Context(), d, size, 0, bytes.NewReader(b[:s3store.PartBytes+50_000]))
		if err == nil {
			at, err = s.Write(t.Context(), d, size, at, bytes.NewReader(b[at:]))
		}
		if err != nil && !errors.Is(err, artifacts.ErrUnavailable) && !errors.Is(err, artifacts.ErrOffset) {
			t.Errorf("Write: got %v, want ErrUnavailable or ErrOffset", err)
		}
		p.disarmKeepingHit()
		if stands, err := s.Uploaded(t.Context(), d, size); err != nil || stands < at {
			t.Errorf("Uploaded: got %d, %v, want at least the %d that Write returned", stands, err, at)
		}
		wantNotTorn(t, s, b)
		finish(t, s, b)
		wantBlob(t, s, b)
		if err := s.Remove(t.Context(), d); err != nil {
			t.Errorf("Remove: %v", err)
		}
	})
}

// disarmKeepingHit lets the rest pass.
func (p *proxy) disarmKeepingHit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = -1
}

// With its own attempts, the store heals each of them within the call.
func TestOneFaultIsNotSeen(t *testing.T) {
	t.Parallel()
	everyFault(t, []fault{tornRequest, lostAnswer, busy}, func(t *testing.T, _ *proxy, cfg s3store.Config, arm func(), _ uint64) {
		s := open(t, cfg)
		arm()
		b := faultBlob()
		d, size := digest.Of(b), int64(len(b))
		at, err := s.Write(t.Context(), d, size, 0, bytes.NewReader(b[:s3store.PartBytes+50_000]))
		if err != nil || at != s3store.PartBytes+50_000 {
			t.Errorf("Write: got %d, %v", at, err)
		}
		at, err = s.Write(t.Context(), d, size, at, bytes.NewReader(b[at:]))
		if err != nil || at != size {
			t.Errorf("Write: got %d, %v", at, err)
		}
		wantBlob(t, s, b)
		if left := keys(t, cfg, cfg.Prefix+"/uploads/"); len(left) != 0 {
			t.Errorf("the upload left %q", left)
		}
		if err := s.Remove(t.Context(), d); err != nil {
			t.Errorf("Remove: %v", err)
		}
	})
}

// Many servers forget an upload when it is complete, so an attempt after a lost answer hears NoSuchUpload.
func TestForgottenUploadIsComplete(t *testing.T) {
	t.Parallel()
	_, direct := newStore(t)
	p := startProxy(t, direct)
	s := open(t, p.through(direct))
	b := faultBlob()
	write(t, s, b, 0, s3store.PartBytes+100)
	p.arm(forgotten, 0)
	write(t, s, b, s3store.PartBytes+100, len(b))
	if !p.disarm() {
		t.Error("no upload was completed")
	}
	wantBlob(t, s, b)
	wantKeys(t, direct, 1)
}

// A Swap whose answer is lost has still been made once: it is neither reported as lost nor made twice.
func TestOneFaultInNamesIsNotSeen(t *testing.T) {
	t.Parallel()
	everyFault(t, allFaults, func(t *testing.T, _ *proxy, cfg s3store.Config, arm func(), run uint64) {
		arm() // before the store is opened
		s := open(t, cfg)
		name := "run" + string(rune('a'+run%1000%26)) + string(rune('a'+run%1000/26))
		if err := s.Create(t.Context(), name+"/doc", []byte("immutable")); err != nil {
			t.Errorf("Create: %v", err)
		}
		revision := ""
		for _, text := range []string{"one", "two", "three"} {
			next, err := s.Swap(t.Context(), name+"/pointer", revision, []byte(text))
			if err != nil {
				t.Fatalf("Swap to %s: %v", text, err)
			}
			got, loaded, err := s.Load(t.Context(), name+"/pointer")
			if err != nil || string(got) != text || loaded != next {
				t.Errorf("Load: got %q, revision %q, %v, want %q, %q", got, loaded, err, text, next)
			}
			revision = next
		}
		if names, err := s.List(t.Context(), name+"/", "", 10); err != nil || len(names) != 2 {
			t.Errorf("List: got %q, %v, want two names", names, err)
		}
	})
}

// With one attempt a Swap fails; the pointer is then the old or the new one, and a caller that loads goes on.
func TestFaultyNamesAreOldOrNew(t *testing.T) {
	t.Parallel()
	everyFault(t, allFaults, func(t *testing.T, p *proxy, cfg s3store.Config, arm func(), run uint64) {
		s := open(t, cfg)
		s.SetAttempts(1)
		arm()
		name := "one" + string(rune('a'+run%1000%26)) + string(rune('a'+run%1000/26))
		revision, err := s.Swap(t.Context(), name, "", []byte("old"))
		if err == nil {
			_, err = s.Swap(t.Context(), name, revision, []byte("new"))
		}
		p.disarmKeepingHit()
		if err != nil {
			wantErr(t, "Swap", err, artifacts.ErrUnavailable)
		}
		got, revision, err := s.Load(t.Context(), name)
		if errors.Is(err, artifacts.ErrNotFound) {
			got, revision, err = nil, "", nil
		}
		if text := string(got); err != nil || (text != "" && text != "old" && text != "new") {
			t.Errorf("Load: got %q, %v", got, err)
		}
		if _, err := s.Swap(t.Context(), name, revision, []byte("after")); err != nil {
			t.Errorf("Swap after the fault: %v", err)
		}
	})
}

// A download that breaks goes on at the same byte.
func TestBrokenDownloadGoesOn(t *testing.T) {
	t.Parallel()
	direct, cfg := newStore(t)
	b := storetest.Bytes(77, 3<<20+5)
	finish(t, direct, b)
	p := startProxy(t, cfg)
	s := open(t, p.through(cfg))
	for _, kind := range allFaults {
		for at := range 2 {
			p.arm(kind, at)
			r, err := s.Open(t.Context(), digest.Of(b), 1000, 2<<20)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b[1000:1000+2<<20]) {
				t.Errorf("%s: got %d bytes, %v", kind, len(got), err)
			}
			if hit := p.disarm(); at == 0 && !hit {
				t.Errorf("%s hit nothing", kind)
			}
		}
	}
}

// The blob is replaced by other bytes while it is read: the reader fails instead of mixing the two.
func TestDownloadNeverMixesTwoObjects(t *testing.T) {
	t.Parallel()
	direct, cfg := newStore(t)
	b := storetest.Bytes(78, 3<<20)
	finish(t, direct, b)
	p := startProxy(t, cfg)
	s := open(t, p.through(cfg))
	p.arm(tornAnswer, 0)
	r, err := s.Open(t.Context(), digest.Of(b), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	damageKeys(t, cfg, digest.Of(b).String(), true)
	if _, err := io.ReadAll(r); !errors.Is(err, artifacts.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// A server that accepts and then says nothing ends as unavailable, not as a call that never returns.
func TestSilentServerIsUnavailable(t *testing.T) {
	t.Parallel()
	_, cfg := newStore(t)
	gone := make(chan struct{})
	silent := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gone }))
	silent.Config.ErrorLog = log.New(io.Discard, "", 0)
	silent.StartTLS()
	defer silent.Close()
	defer close(gone)
	cfg.Endpoint, cfg.IdleTimeout = silent.URL, 100_000_000 // 100 ms
	cfg.Roots = x509.NewCertPool()
	cfg.Roots.AddCert(silent.Certificate())
	_, err := s3store.Open(t.Context(), cfg)
	wantErr(t, "Open", err, artifacts.ErrUnavailable)
}
