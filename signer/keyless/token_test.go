package keyless_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/signer/keyless"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// secret stands in every token of these tests where nobody may see it.
const secret = "c2VjcmV0LXNpZ25hdHVyZQ"

func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"ES256"}`)) + "." + encode([]byte(claims)) + "." + secret
}

func goodClaims(change string) string {
	return fmt.Sprintf(`{"iss":"https://ci.example","sub":"repo:acme/fw","aud":"sigstore","exp":%d%s}`, now.Add(5*time.Minute).Unix(), change)
}

func TestParseToken(t *testing.T) {
	t.Parallel()
	minute := now.Add(time.Minute).Unix()
	tests := map[string]struct {
		token string
		want  error
	}{
		"good":                 {jwt(goodClaims("")), nil},
		"claims of others":     {jwt(goodClaims(`,"email":"a@b.example","job":{"id":1}`)), nil},
		"one of two audiences": {jwt(fmt.Sprintf(`{"iss":"i","sub":"s","aud":["other","sigstore"],"exp":%d}`, minute)), nil},
		"just not yet":         {jwt(goodClaims(fmt.Sprintf(`,"nbf":%d`, now.Add(30*time.Second).Unix()))), nil},
		"expired":              {jwt(fmt.Sprintf(`{"iss":"i","sub":"s","aud":"sigstore","exp":%d}`, now.Unix())), keyless.ErrTokenExpired},
		"too early":            {jwt(goodClaims(fmt.Sprintf(`,"nbf":%d`, now.Add(time.Hour).Unix()))), keyless.ErrTokenEarly},
		"other audience":       {jwt(fmt.Sprintf(`{"iss":"i","sub":"s","aud":"https://github.com/acme","exp":%d}`, minute)), keyless.ErrTokenAudience},
		"audience prefix":      {jwt(fmt.Sprintf(`{"iss":"i","sub":"s","aud":"sigstore2","exp":%d}`, minute)), keyless.ErrTokenAudience},
		"no audience":          {jwt(fmt.Sprintf(`{"iss":"i","sub":"s","exp":%d}`, minute)), keyless.ErrTokenAudience},
		"audience is a number": {jwt(fmt.Sprintf(`{"iss":"i","sub":"s","aud":7,"exp":%d}`, minute)), keyless.ErrToken},
		"no expiry":            {jwt(`{"iss":"i","sub":"s","aud":"sigstore"}`), keyless.ErrToken},
		"no issuer":            {jwt(fmt.Sprintf(`{"sub":"s","aud":"sigstore","exp":%d}`, minute)), keyless.ErrToken},
		"issuer twice":         {jwt(goodClaims(`,"iss":"https://other.example"`)), keyless.ErrToken},
		"no JSON":              {jwt("claims"), keyless.ErrToken},
		"two parts":            {"a.b", keyless.ErrToken},
		"five parts":           {"a.b.c.d.e", keyless.ErrToken},
		"no base64url":         {"a.b.c+", keyless.ErrToken},
		"unsigned":             {strings.TrimSuffix(jwt(goodClaims("")), secret), keyless.ErrToken},
		"empty":                {"", keyless.ErrToken},
		"endless":              {strings.Repeat("a", keyless.MaxTokenBytes+1), keyless.ErrToken},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := keyless.ParseToken(test.token, "a file", "sigstore", now)
			if !errors.Is(err, test.want) {
				t.Fatalf("error = %v, want %v", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the token: %v", err)
			}
			if err == nil && !strings.Contains(got.String(), "a file") {
				t.Errorf("String() = %q", got)
			}
		})
	}
}

// A token is a password: no way of printing a Token shows it.
func TestTokenIsNeverPrinted(t *testing.T) {
	t.Parallel()
	token, err := keyless.ParseToken(jwt(goodClaims("")), "a file", "sigstore", now)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token), fmt.Sprintf("%v", []keyless.Token{token})} {
		if strings.Contains(text, secret) || !strings.Contains(text, "repo:acme/fw") {
			t.Errorf("printed %q", text)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(jwt(goodClaims("")))
	f.Add(jwt(`{"iss":"i","sub":"s","aud":["a","sigstore"],"exp":99999999999}`))
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.c2ln")
	f.Fuzz(func(t *testing.T, raw string) {
		token, err := keyless.ParseToken(raw, "fuzz", "sigstore", now)
		if err == nil && (strings.Count(raw, ".") != 2 || token.String() == "") {
			t.Errorf("ParseToken(%q) = %v", raw, token)
		}
	})
}
