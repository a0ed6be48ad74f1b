package keyless

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxTokenBytes bounds an identity token.
const MaxTokenBytes = 32 << 10

// DefaultAudience is whom a token is for when nothing else is said: every Sigstore asks for it unless it was configured
// otherwise.
const DefaultAudience = "sigstore"

// Errors about identity tokens.
var (
	ErrNoToken       = errors.New("no identity token")
	ErrToken         = errors.New("identity token cannot be read")
	ErrTokenExpired  = errors.New("identity token has expired")
	ErrTokenEarly    = errors.New("identity token is not valid yet")
	ErrTokenAudience = errors.New("identity token is for another audience")
)

// Token is an identity token (OpenID Connect). The token itself stays inside: it is a password for as long as it lives,
// and no way of printing a Token shows it.
type Token struct {
	raw     string
	source  string
	issuer  string
	subject string
}

// String says whose token it is, and where it came from.
func (t Token) String() string {
	return fmt.Sprintf("%.200q of %.200q (token from %s)", t.subject, t.issuer, t.source)
}

// GoString implements fmt.GoStringer, so that %#v does not show the token either.
func (t Token) GoString() string { return "keyless.Token{" + t.String() + "}" }

// claims are the parts of a token that matter before it is sent anywhere.
type claims struct {
	Issuer    string         `json:"iss"`
	Subject   string         `json:"sub"`
	Audience  jsontext.Value `json:"aud"`
	Expires   int64          `json:"exp"`
	NotBefore int64          `json:"nbf"`
}

// clockSkew is how far a runner's clock may be behind the issuer's.
const clockSkew = time.Minute

// ParseToken reads a token (RFC 7519 in the compact form of RFC 7515) and refuses what the CA would refuse anyway, with
// ErrToken, ErrTokenExpired, ErrTokenEarly or ErrTokenAudience. It does not verify the signature: that is the CA's work,
// and nothing here depends on it.
func ParseToken(raw, source, audience string, now time.Time) (Token, error) {
	fail := func(format string, args ...any) (Token, error) {
		return Token{}, fmt.Errorf("%w: token from %s: %s", ErrToken, source, fmt.Sprintf(format, args...))
	}
	if len(raw) > MaxTokenBytes {
		return fail("it has %d bytes, at most %d are allowed", len(raw), MaxTokenBytes)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return fail("it is no JWT: three parts with dots between are needed")
	}
	for _, p := range parts {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return fail("it is no JWT: a part is not base64url")
		}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return fail("it is no JWT")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return fail("its claims are no JSON object with iss, sub, aud and exp") // err could repeat claims
	}
	if c.Issuer == "" || c.Subject == "" || c.Expires <= 0 {
		return fail("a claim of iss, sub and exp is missing")
	}
	if err := c.valid(audience, now); err != nil {
		return Token{}, fmt.Errorf("%w (token from %s)", err, source)
	}
	return Token{raw: raw, source: source, issuer: c.Issuer, subject: c.Subject}, nil
}

func (c claims) valid(audience string, now time.Time) error {
	if expires := time.Unix(c.Expires, 0); !now.Before(expires) {
		return fmt.Errorf("%w: at %s, now it is %s", ErrTokenExpired, moment(expires), moment(now))
	}
	if early := time.Unix(c.NotBefore, 0); c.NotBefore > 0 && now.Add(clockSkew).Before(early) {
		return fmt.Errorf("%w: from %s on, now it is %s", ErrTokenEarly, moment(early), moment(now))
	}
	seen, err := c.audiences()
	if err != nil {
		return err
	}
	if !slices.Contains(seen, audience) {
		return fmt.Errorf("%w: it says %.200q, wanted is %q", ErrTokenAudience, seen, audience)
	}
	return nil
}

// audiences reads the claim aud, which is one string or an array of them (RFC 7519 section 4.1.3).
func (c claims) audiences() ([]string, error) {
	var one string
	var many []string
	if len(c.Audience) == 0 {
		return nil, nil
	}
	if json.Unmarshal(c.Audience, &one) == nil {
		return []string{one}, nil
	}
	if json.Unmarshal(c.Audience, &many) != nil {
		return nil, fmt.Errorf("%w: its claim aud is neither a string nor an array of strings", ErrToken)
	}
	return many, nil
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
