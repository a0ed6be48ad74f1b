package parts_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/parts"
)

func startOIDC(t *testing.T) *parts.OIDC {
	t.Helper()
	o, err := parts.StartOIDC()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Stop)
	return o
}

// ask sends what a job of GitHub sends for its identity token.
func ask(t *testing.T, url, requestToken string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "bearer "+requestToken)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body
}

func claimsOf(t *testing.T, token string) (claims struct {
	jwt.Claims
	Repository string `json:"repository"`
}) {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestTokenServiceAnswersTheJobThatItKnows(t *testing.T) {
	t.Parallel()
	o := startOIDC(t)
	env := map[string]string{}
	for _, line := range o.ActionsEnvironment(parts.Job{Repository: "acme/boiler"}) {
		name, value, _ := strings.Cut(line, "=")
		env[name] = value
	}
	url, token := env["ACTIONS_ID_TOKEN_REQUEST_URL"], env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
	if status, _ := ask(t, url+"&audience=sigstore", token+"x"); status != http.StatusUnauthorized {
		t.Errorf("another request token: got %d, want 401", status)
	}
	for audience, want := range map[string]string{"&audience=sigstore": "sigstore", "&audience=other": "other", "": "https://github.com/acme"} {
		status, body := ask(t, url+audience, token)
		var answer struct {
			Value string `json:"value"`
		}
		if err := json.Unmarshal(body, &answer); status != http.StatusOK || err != nil {
			t.Fatalf("got %d, %s, %v", status, body, err)
		}
		if c := claimsOf(t, answer.Value); !c.Audience.Contains(want) || c.Repository != "acme/boiler" || c.Issuer != o.GitHub.URL() {
			t.Errorf("got %+v, want audience %q", c, want)
		}
	}
}

// Fulcio takes no token that is old, for somebody else, changed, or of an issuer that it does not know.
func TestFulcioRefusesTokens(t *testing.T) {
	t.Parallel()
	s := parts.TestSigstore(t)
	good := token(t, s.OIDC.GitHub, parts.Job{})
	signature := strings.LastIndex(good, ".") + 10
	for name, token := range map[string]string{
		"expired":        token(t, s.OIDC.GitHub, parts.Job{Age: time.Hour}),
		"other audience": token(t, s.OIDC.GitHub, parts.Job{Audience: "npm"}),
		"other issuer":   token(t, startOIDC(t).GitHub, parts.Job{}),
		"claim missing":  token(t, s.OIDC.GitHub, parts.Job{Claims: map[string]any{"job_workflow_ref": nil}}),
		"changed":        good[:signature] + string(rune('A'+(good[signature]-'A'+1)%26)) + good[signature+1:],
	} {
		if _, err := parts.SignUnchecked(t.Context(), s.SigningConfig(), token, []byte("{}"), "text/plain"); err == nil || !strings.Contains(err.Error(), "Fulcio returned 4") {
			t.Errorf("%s: got %v, want that Fulcio refuses", name, err)
		}
	}
}
