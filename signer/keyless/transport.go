package keyless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekor "github.com/sigstore/rekor-tiles/v2/pkg/client"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	"github.com/sigstore/sigstore-go/pkg/sign"
)

// Limits on what is read from, and waited for, a service.
const (
	maxAnswerBytes = 1 << 20
	maxBackoff     = 10 * time.Second
)

// errConflict is Rekor's answer that it has an equal entry: its proof cannot be had, so the bundle is signed again.
var errConflict = errors.New("the log has an equal entry")

// serviceError is the answer of a service that did not do what it was asked.
type serviceError struct {
	service, url string
	status       int
	text         string
}

// Error implements error.
func (e *serviceError) Error() string {
	return fmt.Sprintf("%s %s answered %d: %s", e.service, e.url, e.status, e.text)
}

// Unwrap says which kind of error it is.
func (e *serviceError) Unwrap() error {
	if transient(e.status) {
		return ErrUnavailable
	}
	return ErrService
}

// aboutToken reports whether the CA did not like who asks: it says 400 or 401 then.
func (e *serviceError) aboutToken() bool {
	return e.status == http.StatusBadRequest || e.status == http.StatusUnauthorized || e.status == http.StatusForbidden
}

func transient(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// transport carries the requests of one bundle to one service: each ends with the bundle's context, is tried again when
// the service is busy or not there, and is never sent on to another address.
type transport struct {
	ctx          context.Context
	cfg          Config
	service, url string
}

// RoundTrip implements http.RoundTripper. sigstore-go does not give its requests a context, so this one does.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(io.LimitReader(req.Body, maxAnswerBytes))
		if err = errors.Join(err, req.Body.Close()); err != nil {
			return nil, err
		}
	}
	t.cfg.Step(fmt.Sprintf("asking the %s %s", t.service, t.url))
	var answer *http.Response
	err := t.cfg.attempt(t.ctx, t.service, t.url, func(ctx context.Context) (err error) {
		answer, err = t.once(ctx, req, body)
		return err
	})
	return answer, err
}

func (t *transport) once(ctx context.Context, req *http.Request, body []byte) (*http.Response, error) {
	r := req.Clone(ctx)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return nil, err
	}
	if res.StatusCode < 200 || res.StatusCode > 299 { // a redirect too: the token is for one host
		return nil, &serviceError{service: t.service, url: t.url, status: res.StatusCode, text: printable(b, bearer(req))}
	}
	res.Body = io.NopCloser(bytes.NewReader(b))
	return res, nil
}

// attempt tries f until it succeeds, until a service refuses, or until there were enough attempts.
func (c Config) attempt(ctx context.Context, service, url string, f func(context.Context) error) error {
	for n := 1; ; n++ {
		err := c.limited(ctx, f)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s %s: %w", service, url, errors.Join(ctx.Err(), err))
		}
		var refused *serviceError
		if errors.As(err, &refused) && !transient(refused.status) {
			return err
		}
		if n >= c.Attempts {
			return fmt.Errorf("%w: %s %s, tried %d times: %w", ErrUnavailable, service, url, n, err)
		}
		c.Step(fmt.Sprintf("the %s does not answer; trying again", service))
		if err := c.Wait(ctx, backoff(n)); err != nil {
			return err
		}
	}
}

func (c Config) limited(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return f(ctx)
}

// backoff grows from half a second, with jitter, so that many pipelines do not come back together.
func backoff(attempt int) time.Duration {
	d := min(500*time.Millisecond<<min(attempt-1, 10), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

// bearer is the secret that a request carries, "" without one.
func bearer(req *http.Request) string {
	_, secret, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return secret
}

// likeToken is what could be a token of somebody: a service may repeat what it was sent.
var likeToken = regexp.MustCompile(`[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+`)

// printable is the beginning of what a service said, fit for a terminal and a log, without the secret that it was sent.
func printable(b []byte, secret string) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(b))
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "(secret)")
	}
	text = strings.Join(strings.Fields(likeToken.ReplaceAllString(text, "(token)")), " ")
	return fmt.Sprintf("%.300s", text)
}

// log is a transparency log as sigstore-go asks it.
func (s *Signer) log(l logService) sign.Transparency {
	options := &sign.RekorOptions{BaseURL: l.url, Version: l.version, Timeout: s.cfg.Timeout, Retries: uint(s.cfg.Attempts - 1)}
	if l.version >= 2 {
		options.ClientV2 = &patientLog{cfg: s.cfg, url: l.url}
	}
	return sign.NewRekor(options)
}

// patientLog adds to a Rekor v2 log with the attempts of Config.
type patientLog struct {
	cfg Config
	url string
}

// Add implements sign.RekorV2Client.
func (p *patientLog) Add(ctx context.Context, entry any) (*protorekor.TransparencyLogEntry, error) {
	p.cfg.Step("asking the log " + p.url)
	client, err := write.NewWriter(p.url, rekor.WithUserAgent("cordon-sign"), rekor.WithTimeout(p.cfg.Timeout))
	if err != nil {
		return nil, fmt.Errorf("%w: log: %w", ErrSigningConfig, err)
	}
	var out *protorekor.TransparencyLogEntry
	err = p.cfg.attempt(ctx, "log", p.url, func(ctx context.Context) (err error) {
		out, err = client.Add(ctx, entry)
		return p.typed(err)
	})
	if refused := new(serviceError); errors.As(err, &refused) && refused.status == http.StatusConflict {
		return nil, fmt.Errorf("%w: %w", errConflict, err)
	}
	return out, err
}

// rekorStatus is how the client of rekor-tiles v2.3.0 tells a status code: in the text only.
var rekorStatus = regexp.MustCompile(`^unexpected response: ([0-9]{3}) `)

func (p *patientLog) typed(err error) error {
	if err == nil {
		return nil
	}
	found := rekorStatus.FindStringSubmatch(err.Error())
	if found == nil {
		return err
	}
	status, _ := strconv.Atoi(found[1]) // three digits
	return &serviceError{service: "log", url: p.url, status: status, text: printable([]byte(err.Error()[len(found[0]):]), "")}
}
