package keyless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// The environment in which CI systems hand tokens over.
const (
	envGitHubURL   = "ACTIONS_ID_TOKEN_REQUEST_URL"
	envGitHubToken = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
	envSigstore    = "SIGSTORE_ID_TOKEN" // GitLab's id_tokens, and whatever else exports it
)

// Errors that say why there is no token, by where the pipeline runs. Each is ErrNoToken too.
var (
	ErrNoTokenGitHub = fmt.Errorf("%w: GitHub Actions gave this job no "+envGitHubURL, ErrNoToken)
	ErrNoTokenGitLab = fmt.Errorf("%w: GitLab gave this job no "+envSigstore, ErrNoToken)
	ErrTokenEndpoint = errors.New("the CI's token service gave no identity token")
)

// Sources are the places where an identity token may come from, in this order: a file, GitHub Actions, the variable
// SIGSTORE_ID_TOKEN. No token is ever taken from the command line, where every process of the machine could read it.
type Sources struct {
	File     string              // Optional: a file; "-" is Stdin
	Stdin    io.Reader           // what "-" means
	Env      func(string) string // like os.Getenv
	Audience string              // Optional: default DefaultAudience
	Now      func() time.Time    // Optional: default time.Now
	Config   Config              // Timeout, Attempts, Wait and Step of requests to GitHub's token service
}

// Source is the one place that was chosen.
type Source struct {
	name     string
	audience string
	now      func() time.Time
	read     func(ctx context.Context) (string, error)
}

// Choose finds the place. It reads what is there already, so that a token that has expired is told before an hour of
// hashing; it asks nobody. Errors to test for: ErrNoToken and its kinds, and those of ParseToken.
func (s Sources) Choose() (*Source, error) {
	out := &Source{audience: s.Audience, now: s.Now}
	if out.audience == "" {
		out.audience = DefaultAudience
	}
	if out.now == nil {
		out.now = time.Now
	}
	switch {
	case s.File != "":
		return out.stored("--identity-token-file", s.readFile, !isRegular(s.File))
	case s.Env(envGitHubURL) != "":
		return out, s.gitHub(out)
	case s.Env(envSigstore) != "":
		return out.stored("the variable "+envSigstore, func() (string, error) { return s.Env(envSigstore), nil }, false)
	case s.Env("GITHUB_ACTIONS") == "true":
		return nil, ErrNoTokenGitHub
	case s.Env("GITLAB_CI") == "true":
		return nil, ErrNoTokenGitLab
	}
	return nil, fmt.Errorf("%w: there is neither --identity-token-file, nor GitHub's %s, nor %s", ErrNoToken, envGitHubURL, envSigstore)
}

// isRegular tells a file from a pipe, which can be read once.
func isRegular(path string) bool {
	info, err := os.Stat(path)
	return path != "-" && err == nil && info.Mode().IsRegular()
}

// stored is a source that has its token now. A file is read again when it is used, since a runner may renew it.
func (s *Source) stored(name string, read func() (string, error), once bool) (*Source, error) {
	s.name = name
	raw, err := read()
	if err != nil {
		return nil, err
	}
	if _, err := ParseToken(strings.TrimSpace(raw), s.name, s.audience, s.now()); err != nil {
		return nil, err
	}
	s.read = func(context.Context) (string, error) {
		if once {
			return raw, nil
		}
		return read()
	}
	return s, nil
}

func (s Sources) readFile() (string, error) {
	in := s.Stdin
	if s.File != "-" {
		f, err := os.Open(s.File)
		if err != nil {
			return "", fmt.Errorf("cannot read identity token: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, MaxTokenBytes+1))
	if err != nil {
		return "", fmt.Errorf("cannot read identity token: %w", err)
	}
	if strings.TrimSpace(string(b)) == "" {
		return "", fmt.Errorf("%w: the file of --identity-token-file is empty", ErrNoToken)
	}
	return string(b), nil
}

// gitHub asks the token service of GitHub Actions each time, because its tokens live for minutes.
func (s Sources) gitHub(out *Source) error {
	out.name = "GitHub Actions"
	bearer := s.Env(envGitHubToken)
	if bearer == "" {
		return fmt.Errorf("%w: %s is there, %s is not", ErrNoTokenGitHub, envGitHubURL, envGitHubToken)
	}
	address, err := safeURL(s.Env(envGitHubURL))
	if err != nil {
		return fmt.Errorf("%w: %s is no https URL", ErrTokenEndpoint, envGitHubURL) // its query is a secret of the job
	}
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%w: %s is no URL", ErrTokenEndpoint, envGitHubURL)
	}
	query := u.Query()
	query.Set("audience", out.audience)
	u.RawQuery = query.Encode()
	cfg := New(s.Config).cfg // with defaults
	out.read = func(ctx context.Context) (string, error) {
		var token string
		err := cfg.attempt(ctx, "token service", u.Host, func(ctx context.Context) (err error) {
			token, err = askGitHub(ctx, u.String(), u.Host, bearer)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrTokenEndpoint, err)
		}
		return token, nil
	}
	return nil
}

func askGitHub(ctx context.Context, address, host, bearer string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", errors.New("the request cannot be made")
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Accept", "application/json")
	res, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 2*MaxTokenBytes))
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", &serviceError{service: "token service", url: host, status: res.StatusCode, text: printable(b, bearer)}
	}
	return parseGitHub(b)
}

// parseGitHub reads {"value": "JWT", ...}.
func parseGitHub(b []byte) (string, error) {
	var answer struct {
		Value string `json:"value"`
	}
	if json.Unmarshal(b, &answer) != nil || answer.Value == "" { // no text of the error: it could repeat the token
		return "", errors.New("its answer holds no token")
	}
	return answer.Value, nil
}

// Token reads a token that is valid now.
func (s *Source) Token(ctx context.Context) (Token, error) {
	raw, err := s.read(ctx)
	if err != nil {
		return Token{}, err
	}
	return ParseToken(strings.TrimSpace(raw), s.name, s.audience, s.now())
}
