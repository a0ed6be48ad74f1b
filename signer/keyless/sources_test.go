package keyless_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/signer/keyless"
)

func env(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func at(moment time.Time) func() time.Time { return func() time.Time { return moment } }

func noWait(context.Context, time.Duration) error { return nil }

func writeToken(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// gitHub is a token service as GitHub Actions has it; answer changes what it says.
func gitHub(t *testing.T, answer http.HandlerFunc) map[string]string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer runner-secret" || r.URL.Query().Get("api-version") != "2.0" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return map[string]string{
		"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": s.URL + "/token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner-secret",
	}
}

func giveToken(w http.ResponseWriter, r *http.Request) {
	claims := fmt.Sprintf(`{"iss":"https://github.example","sub":"repo:acme/fw","aud":%q,"exp":%d}`, r.URL.Query().Get("audience"), now.Add(time.Minute).Unix())
	fmt.Fprintf(w, `{"count":1,"value":%q}`, jwt(claims))
}

func TestSourcesInTheirOrder(t *testing.T) {
	t.Parallel()
	file := writeToken(t, jwt(goodClaims(""))+"\n")
	both := gitHub(t, giveToken)
	both["SIGSTORE_ID_TOKEN"] = jwt(goodClaims(""))
	tests := map[string]struct {
		sources keyless.Sources
		want    string
	}{
		"a file":                       {keyless.Sources{File: file, Env: env(both)}, "from --identity-token-file"},
		"standard input":               {keyless.Sources{File: "-", Stdin: strings.NewReader(jwt(goodClaims(""))), Env: env(both)}, "from --identity-token-file"},
		"GitHub before a variable":     {keyless.Sources{Env: env(both)}, "from GitHub Actions"},
		"GitHub with another audience": {keyless.Sources{Env: env(both), Audience: "cordon"}, "from GitHub Actions"},
		"a variable":                   {keyless.Sources{Env: env(map[string]string{"GITLAB_CI": "true", "SIGSTORE_ID_TOKEN": jwt(goodClaims(""))})}, "from the variable SIGSTORE_ID_TOKEN"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.sources.Now = at(now)
			source, err := test.sources.Choose()
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // a release may be signed more than once
				token, err := source.Token(t.Context())
				if err != nil || !strings.Contains(token.String(), test.want) {
					t.Errorf("got %v, %v, want a token %s", token, err, test.want)
				}
			}
		})
	}
}

func TestNoTokenIsToldByWhereThePipelineRuns(t *testing.T) {
	t.Parallel()
	expired := jwt(fmt.Sprintf(`{"iss":"i","sub":"s","aud":"sigstore","exp":%d}`, now.Unix()-1))
	tests := map[string]struct {
		sources keyless.Sources
		want    error
	}{
		"nowhere":              {keyless.Sources{Env: env(nil)}, keyless.ErrNoToken},
		"GitHub":               {keyless.Sources{Env: env(map[string]string{"GITHUB_ACTIONS": "true"})}, keyless.ErrNoTokenGitHub},
		"half of GitHub":       {keyless.Sources{Env: env(map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": "https://x.example"})}, keyless.ErrNoTokenGitHub},
		"GitHub in the clear":  {keyless.Sources{Env: env(map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": "http://x.example", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "t"})}, keyless.ErrTokenEndpoint},
		"GitLab":               {keyless.Sources{Env: env(map[string]string{"GITLAB_CI": "true"})}, keyless.ErrNoTokenGitLab},
		"expired variable":     {keyless.Sources{Env: env(map[string]string{"SIGSTORE_ID_TOKEN": expired})}, keyless.ErrTokenExpired},
		"audience of another":  {keyless.Sources{Env: env(map[string]string{"SIGSTORE_ID_TOKEN": jwt(goodClaims(""))}), Audience: "cordon"}, keyless.ErrTokenAudience},
		"no file":              {keyless.Sources{File: "gone", Env: env(nil)}, os.ErrNotExist},
		"empty file":           {keyless.Sources{File: writeToken(t, "\n"), Env: env(nil)}, keyless.ErrNoToken},
		"a file of other text": {keyless.Sources{File: writeToken(t, "token: abc"), Env: env(nil)}, keyless.ErrToken},
		"an endless file":      {keyless.Sources{File: "-", Stdin: strings.NewReader(strings.Repeat("a.b", keyless.MaxTokenBytes)), Env: env(nil)}, keyless.ErrToken},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.sources.Now = at(now)
			if _, err := test.sources.Choose(); !errors.Is(err, test.want) {
				t.Errorf("error = %v, want %v", err, test.want)
			}
		})
	}
}

func TestGitHubsTokenServiceMayFail(t *testing.T) {
	t.Parallel()
	var busy, redirected atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { redirected.Add(1); giveToken(w, r) }))
	t.Cleanup(elsewhere.Close)
	tests := map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"busy twice": {func(w http.ResponseWriter, r *http.Request) {
			if busy.Add(1) < 3 {
				http.Error(w, "later", http.StatusServiceUnavailable)
				return
			}
			giveToken(w, r)
		}, nil},
		"always busy": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "later", http.StatusInternalServerError) }, keyless.ErrUnavailable},
		"a secret comes back": {func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "I do not know "+r.Header.Get("Authorization")+" nor "+jwt(goodClaims("")), http.StatusForbidden)
		}, keyless.ErrTokenEndpoint},
		"refused":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }, keyless.ErrTokenEndpoint},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, keyless.ErrTokenEndpoint},
		"no JSON":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, secret) }, keyless.ErrTokenEndpoint},
		"no value": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"count":0}`) }, keyless.ErrTokenEndpoint},
		"expired": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"value":%q}`, jwt(`{"iss":"i","sub":"s","aud":"sigstore","exp":1}`))
		}, keyless.ErrTokenExpired},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, err := keyless.Sources{Env: env(gitHub(t, test.answer)), Now: at(now), Config: keyless.Config{Wait: noWait}}.Choose()
			if err != nil {
				t.Fatal(err)
			}
			_, err = source.Token(t.Context())
			if !errors.Is(err, test.want) {
				t.Errorf("error = %v, want %v", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "runner-secret")) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if redirected.Load() > 0 {
			t.Error("the request, with the runner's secret, followed a redirect")
		}
	})
}

// A pipe can be read once, and a release may be signed twice.
func TestTokenFromAPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(path, []byte(jwt(goodClaims(""))), 0o600) }()
	source, err := keyless.Sources{File: path, Env: env(nil), Now: at(now)}.Choose()
	if err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := source.Token(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseGitHub(f *testing.F) {
	f.Add([]byte(`{"count":1,"value":"a.b.c"}`))
	f.Add([]byte(`{"message":"no"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := keyless.ParseGitHub(b)
		if err == nil && (token == "" || len(b) < len(token)) || err != nil && strings.Contains(err.Error(), "value") {
			t.Errorf("ParseGitHub(%q) = %q, %v", b, token, err)
		}
	})
}

func TestWaitingForATokenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	values := gitHub(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	source, err := keyless.Sources{Env: env(values), Now: at(now)}.Choose()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Token(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}
