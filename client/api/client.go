package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Limits of what a client reads, in bytes.
const (
	MaxAnswerBytes  = 64 << 20
	MaxReportBytes  = 1 << 30
	maxProblemBytes = 64 << 10
)

// Defaults of Config.
const (
	DefaultTimeout  = 30 * time.Second
	DefaultAttempts = 5
	transferTimeout = 10 * time.Minute // one chunk, one report
	maxBackoff      = 5 * time.Second
	maxRetryAfter   = time.Minute
)

// Config says which server a Client talks to and why it believes that it is the one. Exactly one of CA and CASHA256
// must be set: the system's roots are never asked.
type Config struct {
	URL      string // https URL of the admin listener, without a path
	CA       *x509.CertPool
	CASHA256 digest.SHA256 // SHA-256 of the DER of the server's CA certificate, as cordond prints it
	Token    string        // Optional: routes that are open to everyone need none
	Timeout  time.Duration // Optional: of one attempt; default DefaultTimeout. Blobs and reports have their own.
	Attempts int           // Optional: how often an idempotent request is tried; default DefaultAttempts

	// Wait is Optional: how to wait between two attempts; the default is a timer that ends with the context.
	Wait func(context.Context, time.Duration) error
}

// Client speaks the admin API. All methods may be called at once.
//
// Requests that change nothing when they are repeated are tried again, with backoff, when the server is busy (503, 429) or
// the connection is lost; Retry-After is honoured. Errors to test for: *Error (the server answered with a problem
// document), ErrUnreachable, ErrCA, ErrAnswer.
type Client struct {
	base     string
	token    string
	timeout  time.Duration
	attempts int
	wait     func(context.Context, time.Duration) error
	http     *http.Client
}

// New makes a Client. It does not connect.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %q is not an https URL without a path", c.URL)
	}
	if (c.CA == nil) == c.CASHA256.IsZero() {
		return nil, errors.New("exactly one of the server's CA certificate and its SHA-256 must be given")
	}
	if strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("token holds characters that no token has")
	}
	client := &Client{base: "https://" + u.Host, token: c.Token, timeout: c.Timeout, attempts: c.Attempts, wait: c.Wait}
	if client.timeout <= 0 {
		client.timeout = DefaultTimeout
	}
	if client.attempts <= 0 {
		client.attempts = DefaultAttempts
	}
	if client.wait == nil {
		client.wait = sleep
	}
	client.http = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:        tlsConfig(c, u.Hostname()),
			TLSHandshakeTimeout:    10 * time.Second,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token goes to one host
	}
	return client, nil
}

// tlsConfig trusts the given CA or, with a pin, the one certificate of the presented chain that has this SHA-256.
func tlsConfig(c Config, host string) *tls.Config {
	if c.CA != nil {
		return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.CA}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard check wants the CA beforehand; verifyPinned does the same check with the CA that the pin names.
		InsecureSkipVerify: true,
		VerifyConnection:   func(s tls.ConnectionState) error { return verifyPinned(s.PeerCertificates, c.CASHA256, host) },
	}
}

// verifyPinned accepts a chain that holds the CA with this SHA-256 and whose leaf that CA issued for host.
func verifyPinned(chain []*x509.Certificate, pin digest.SHA256, host string) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: it sent no certificate", ErrCA)
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if c.IsCA && digest.Of(c.Raw) == pin {
			roots.AddCert(c)
			found = true
			continue
		}
		others.AddCert(c)
	}
	if !found {
		return fmt.Errorf("%w: no CA certificate with SHA-256 %s in its chain; the last one has %s", ErrCA, pin, digest.Of(chain[len(chain)-1].Raw))
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCA, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// call is one request of the API. Body and answer are JSON.
type call struct {
	method     string
	path       string // escaped
	query      url.Values
	body       any   // nil: none
	answer     any   // nil: none; *[]byte: the raw bytes
	limit      int64 // of the answer; 0: MaxAnswerBytes
	timeout    time.Duration
	idempotent bool
}

// do sends a call and retries it where that is safe.
func (c *Client) do(ctx context.Context, q call) error {
	var body []byte
	if q.body != nil {
		var err error
		if body, err = json.Marshal(q.body, json.Deterministic(true)); err != nil {
			return fmt.Errorf("cannot encode request: %w", err)
		}
	}
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, q, body)
		if err == nil || !q.idempotent || attempt >= c.attempts || ctx.Err() != nil {
			return err
		}
		pause, again := pauseAfter(err, attempt)
		if !again {
			return err
		}
		if waitErr := c.wait(ctx, pause); waitErr != nil {
			return fmt.Errorf("%w (gave up: %w)", err, waitErr)
		}
	}
}

// pauseAfter says whether an attempt that ended in err may be repeated, and after how long.
func pauseAfter(err error, attempt int) (time.Duration, bool) {
	pause := min(maxBackoff, 200*time.Millisecond<<min(attempt-1, 10))
	pause += rand.N(pause / 2)
	var problem *Error
	switch {
	case errors.Is(err, ErrCA):
		return 0, false
	case errors.As(err, &problem):
		busy := problem.Status == http.StatusServiceUnavailable || problem.Status == http.StatusTooManyRequests
		return max(pause, min(problem.RetryAfter, maxRetryAfter)), busy
	case errors.Is(err, ErrUnreachable):
		return pause, true
	}
	return 0, false
}

func (c *Client) once(ctx context.Context, q call, body []byte) error {
	timeout := max(q.timeout, c.timeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := c.request(ctx, q.method, q.path, q.query, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if q.answer == nil {
		return nil
	}
	limit := q.limit
	if limit == 0 {
		limit = MaxAnswerBytes
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return fmt.Errorf("%w: connection lost while reading the answer: %w", ErrUnreachable, err)
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("%w: larger than %d bytes", ErrAnswer, limit)
	}
	if raw, ok := q.answer.(*[]byte); ok {
		*raw = b
		return nil
	}
	if err := json.Unmarshal(b, q.answer); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// send returns the response of a success; its caller closes the body. Everything else is an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, connectionError(c.base, err)
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, problemOf(res)
}

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return min(time.Duration(min(s, 3600))*time.Second, maxRetryAfter)
}
