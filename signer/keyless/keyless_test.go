package keyless_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
	"github.com/cordon-ota/cordon/signer/keyless"
)

func statement(t *testing.T) []byte {
	t.Helper()
	s, err := artifacts.NewStatement(artifacts.Release{Product: "gateway", Version: "1.0", Counter: 1, Components: []artifacts.Component{
		{Name: "app", HardwareIDs: []string{"board-a"}, SHA256: digest.Of([]byte("image")), Length: 5, Installer: "rauc"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func policyFor(id parts.Identity) artifacts.Policy {
	return artifacts.Policy{Version: artifacts.PolicyVersion, Product: "gateway", Threshold: 1, Publishers: []artifacts.Publisher{
		{Name: "ci", Issuer: id.Issuer, Subject: id.Subject, SourceRepository: id.SourceRepository, Refs: []string{id.Ref}},
	}}
}

func readTest(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// config signs as a job of GitHub's with a Sigstore; document is its signing config.
func config(t *testing.T, s *parts.Sigstore, job parts.Job, document string) keyless.Config {
	t.Helper()
	instance, err := keyless.ParseInstance([]byte(document), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return keyless.Config{
		Instance: instance, Wait: noWait,
		Expect: keyless.Expectations{Policy: policyFor(s.OIDC.GitHub.Identity(parts.Job{})), TrustedRoot: readTest(t, s.TrustedRoot())},
		Token: func(context.Context) (keyless.Token, error) {
			raw, err := s.OIDC.GitHub.Token(job)
			if err != nil {
				return keyless.Token{}, err
			}
			return keyless.ParseToken(raw, "the test", "sigstore", time.Now())
		},
	}
}

func own(s *parts.Sigstore) string {
	return signingConfig(s.FulcioURL(), s.RekorURL(), s.TimestampURL())
}

func TestSignsWithARealSigstore(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	cfg := config(t, s, parts.Job{}, string(readTest(t, s.SigningConfig())))
	var steps []string
	cfg.Step = func(text string) { steps = append(steps, text) }
	bundle, err := keyless.New(cfg).Sign(t.Context(), statement(t), artifacts.PayloadType)
	if err != nil {
		t.Fatal(err)
	}
	res, err := provenance.Verify(bundle, cfg.Expect.Policy, provenance.Options{TrustedRootJSON: cfg.Expect.TrustedRoot})
	if err != nil || len(res.Refusals) != 0 || len(res.Signers) != 1 || res.Signers[0] != "ci" {
		t.Errorf("got %q, %v, %v", res.Signers, res.Refusals, err)
	}
	for _, words := range []string{"signing as", "asking the CA", "is of publisher \"ci\"", "asking the timestamp authority", "asking the log", "verifies"} {
		if !strings.Contains(strings.Join(steps, "\n"), words) {
			t.Errorf("the steps %q do not say %q", steps, words)
		}
	}
	if strings.Contains(strings.Join(steps, "\n"), "eyJ") {
		t.Errorf("the steps show a token: %q", steps)
	}
}

// counting passes requests on to a service and counts them; before may answer instead.
func counting(t *testing.T, target string, before func(n int32, w http.ResponseWriter, r *http.Request) (done bool)) (string, *atomic.Int32) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	n := new(atomic.Int32)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if count := n.Add(1); before != nil && before(count, w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL + u.Path, n
}

// A log entry is for everybody and for good, so a pipeline that the policy does not name leaves none.
func TestNothingIsLoggedForAStranger(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	elsewhere := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: s.OIDC})
	log, entries := counting(t, s.RekorURL(), nil)
	tsa, stamps := counting(t, s.TimestampURL(), nil)
	tests := map[string]struct {
		job   parts.Job
		ca    string
		words string
	}{
		"workflow":   {parts.Job{Workflow: ".github/workflows/test.yml"}, s.FulcioURL(), "wrong subject"},
		"repository": {parts.Job{Repository: "mallory/gateway"}, s.FulcioURL(), "wrong repository"},
		"ref":        {parts.Job{Ref: "refs/pull/7/merge"}, s.FulcioURL(), "wrong ref"},
		"instance":   {parts.Job{}, elsewhere.FulcioURL(), "untrusted instance"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, s, test.job, signingConfig(test.ca, log, tsa))
			_, err := keyless.New(cfg).Sign(t.Context(), statement(t), artifacts.PayloadType)
			if !errors.Is(err, keyless.ErrIdentity) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error = %v, want ErrIdentity with %q", err, test.words)
			}
		})
	}
	if entries.Load() != 0 || stamps.Load() != 0 {
		t.Errorf("%d log entries and %d timestamps were asked for", entries.Load(), stamps.Load())
	}
}

// What the policy cannot see in a certificate is found before the bundle goes anywhere.
func TestRefusesItsOwnBundle(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	elsewhere := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: s.OIDC})
	faulty := func(fault parts.CertificateFault) string {
		ca, err := s.StartFaultyCA(fault)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ca.Stop)
		return ca.URL()
	}
	tests := map[string]struct{ document, words string }{
		"certificate that expired before": {signingConfig(faulty(parts.CertificateFault{Shift: -time.Hour}), s.RekorURL(), s.TimestampURL()), "expired certificate"},
		"no SCT":                          {signingConfig(faulty(parts.CertificateFault{WithoutSCT: true}), s.RekorURL(), s.TimestampURL()), "missing SCT"},
		"log of another instance":         {signingConfig(s.FulcioURL(), elsewhere.RekorURL(), s.TimestampURL()), "untrusted instance: the log entry"},
		"timestamp of another instance":   {signingConfig(s.FulcioURL(), s.RekorURL(), elsewhere.TimestampURL()), "untrusted instance: the timestamp"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := keyless.New(config(t, s, parts.Job{}, test.document)).Sign(t.Context(), statement(t), artifacts.PayloadType)
			if !errors.Is(err, keyless.ErrRefused) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error = %v, want ErrRefused with %q", err, test.words)
			}
		})
	}
}

// A trusted root that the pipeline brings counts beside the server's.
func TestOwnTrustedRootCountsToo(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	elsewhere := parts.TestSigstoreWith(t, parts.SigstoreConfig{OIDC: s.OIDC})
	cfg := config(t, s, parts.Job{}, own(s))
	for root, want := range map[string]error{s.TrustedRoot(): nil, elsewhere.TrustedRoot(): keyless.ErrIdentity} {
		with, err := cfg.Expect.WithOwn(readTest(t, root))
		if err != nil {
			t.Fatal(err)
		}
		both := cfg
		both.Expect = with
		if _, err := keyless.New(both).Sign(t.Context(), statement(t), artifacts.PayloadType); !errors.Is(err, want) {
			t.Errorf("error = %v, want %v", err, want)
		}
	}
	mine, err := keyless.Expectations{Policy: cfg.Expect.Policy, TrustedRoot: readTest(t, elsewhere.TrustedRoot())}.WithOwn(cfg.Expect.TrustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Expect = mine // it never stands in for the server's
	if _, err := keyless.New(cfg).Sign(t.Context(), statement(t), artifacts.PayloadType); !errors.Is(err, keyless.ErrIdentity) {
		t.Errorf("with the root of another server: error = %v, want ErrIdentity", err)
	}
	if _, err := cfg.Expect.WithOwn([]byte("{}")); err != nil && !errors.Is(err, keyless.ErrOwnRoot) {
		t.Errorf("error = %v, want ErrOwnRoot", err)
	}
	if _, err := cfg.Expect.WithOwn([]byte("no JSON")); !errors.Is(err, keyless.ErrOwnRoot) {
		t.Errorf("error = %v, want ErrOwnRoot", err)
	}
}

func TestServicesMayBeBusy(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	failing := func(times int32, status int) func(int32, http.ResponseWriter, *http.Request) bool {
		return func(n int32, w http.ResponseWriter, r *http.Request) bool {
			if n > times {
				return false
			}
			io.Copy(io.Discard, r.Body)
			http.Error(w, "later", status)
			return true
		}
	}
	hangUp := func(n int32, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	tests := map[string]struct {
		before func(int32, http.ResponseWriter, *http.Request) bool
		want   error
		asked  int32
	}{
		"busy twice":          {failing(2, http.StatusServiceUnavailable), nil, 3},
		"asked to slow down":  {failing(1, http.StatusTooManyRequests), nil, 2},
		"hangs up once":       {hangUp, nil, 2},
		"busy for ever":       {failing(100, http.StatusBadGateway), keyless.ErrUnavailable, keyless.DefaultAttempts},
		"refuses: no retries": {failing(100, http.StatusNotFound), keyless.ErrService, 1},
	}
	for name, test := range tests {
		for service, target := range map[string]string{"CA": s.FulcioURL(), "log": s.RekorURL(), "timestamps": s.TimestampURL()} {
			t.Run(name+"/"+service, func(t *testing.T) {
				t.Parallel()
				front, n := counting(t, target, test.before)
				urls := map[string]string{"CA": s.FulcioURL(), "log": s.RekorURL(), "timestamps": s.TimestampURL()}
				urls[service] = front
				cfg := config(t, s, parts.Job{}, signingConfig(urls["CA"], urls["log"], urls["timestamps"]))
				_, err := keyless.New(cfg).Sign(t.Context(), statement(t), artifacts.PayloadType)
				if !errors.Is(err, test.want) || n.Load() != test.asked {
					t.Errorf("error = %v after %d requests, want %v after %d", err, n.Load(), test.want, test.asked)
				}
				if err != nil && strings.Contains(err.Error(), "eyJ") {
					t.Errorf("the error shows a token: %v", err)
				}
			})
		}
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, document := range []string{
		signingConfig(gone.URL, s.RekorURL(), s.TimestampURL()), signingConfig(s.FulcioURL(), gone.URL, s.TimestampURL()), signingConfig(s.FulcioURL(), s.RekorURL(), gone.URL),
	} {
		_, err := keyless.New(config(t, s, parts.Job{}, document)).Sign(t.Context(), statement(t), artifacts.PayloadType)
		if !errors.Is(err, keyless.ErrUnavailable) || !strings.Contains(err.Error(), gone.URL) {
			t.Errorf("error = %v, want ErrUnavailable that names %s", err, gone.URL)
		}
	}
}

// The log says 409 for an entry that it has: the next signature is another one.
func TestConflictInTheLogSignsAgain(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	for times, want := range map[int32]string{1: "", 100: "409"} {
		log, _ := counting(t, s.RekorURL(), func(n int32, w http.ResponseWriter, _ *http.Request) bool {
			if n <= times {
				http.Error(w, "an equivalent entry already exists", http.StatusConflict)
			}
			return n <= times
		})
		_, err := keyless.New(config(t, s, parts.Job{}, signingConfig(s.FulcioURL(), log, s.TimestampURL()))).Sign(t.Context(), statement(t), artifacts.PayloadType)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d conflicts: error = %v, want %q", times, err, want)
		}
	}
}

func TestSigningEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	for service := range 3 {
		t.Run(fmt.Sprint(service), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			hang := func(_ int32, _ http.ResponseWriter, r *http.Request) bool {
				io.Copy(io.Discard, r.Body)
				cancel()
				<-r.Context().Done()
				return true
			}
			urls := []string{s.FulcioURL(), s.RekorURL(), s.TimestampURL()}
			urls[service], _ = counting(t, urls[service], hang)
			cfg := config(t, s, parts.Job{}, signingConfig(urls[0], urls[1], urls[2]))
			cfg.Timeout = time.Hour // nothing else ends it
			_, err := keyless.New(cfg).Sign(ctx, statement(t), artifacts.PayloadType)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error = %v, want context.Canceled", err)
			}
		})
	}
}

// The token is for one host.
func TestTokenFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	elsewhere, asked := counting(t, s.FulcioURL(), nil)
	ca, _ := counting(t, s.FulcioURL(), func(_ int32, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	_, err := keyless.New(config(t, s, parts.Job{}, signingConfig(ca, s.RekorURL(), s.TimestampURL()))).Sign(t.Context(), statement(t), artifacts.PayloadType)
	if !errors.Is(err, keyless.ErrService) || asked.Load() != 0 {
		t.Errorf("error = %v, %d requests elsewhere, want ErrService and none", err, asked.Load())
	}
}

// A service that repeats what it was sent does not bring the token into the pipeline's log.
func TestTokenDoesNotComeBackInAnError(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	ca, _ := counting(t, s.FulcioURL(), func(_ int32, w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "bad token: "+r.Header.Get("Authorization"), http.StatusBadRequest)
		return true
	})
	_, err := keyless.New(config(t, s, parts.Job{}, signingConfig(ca, s.RekorURL(), s.TimestampURL()))).Sign(t.Context(), statement(t), artifacts.PayloadType)
	if !errors.Is(err, keyless.ErrTokenRefused) || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("error = %v, want ErrTokenRefused without the token", err)
	}
}

func TestCARefusesTheToken(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	stranger, err := parts.StartOIDC()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stranger.Stop)
	cfg := config(t, s, parts.Job{}, own(s))
	cfg.Token = func(context.Context) (keyless.Token, error) {
		raw, err := stranger.GitHub.Token(parts.Job{})
		if err != nil {
			return keyless.Token{}, err
		}
		return keyless.ParseToken(raw, "the test", "sigstore", time.Now())
	}
	if _, err := keyless.New(cfg).Sign(t.Context(), statement(t), artifacts.PayloadType); !errors.Is(err, keyless.ErrTokenRefused) || !strings.Contains(err.Error(), "400") {
		t.Errorf("error = %v, want ErrTokenRefused with Fulcio's 400", err)
	}
}
