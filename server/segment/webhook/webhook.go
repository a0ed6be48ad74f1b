// Package webhook is a network enforcement point that somebody else runs: a firewall manager, a NAC, an SDN controller, or
// fifty lines of script in front of one. cordond posts signed messages to it by the rules of Standard Webhooks
// (standardwebhooks.com, asymmetric signatures "v1a"), and takes the answer as a receipt or as what the network shows.
//
// It promises that every message is signed over its id, its time and all of its body, that the body names the point, the
// device, the segment and the epoch, and that nothing but a well-formed answer over TLS for this very device counts. It
// refuses redirects, plain HTTP, proxies from the environment and answers that do not end.
//
// What a receiver has to do, in this order, before it acts (conformance/docs/network.md says it for its authors):
//  1. check webhook-signature over "<webhook-id>.<webhook-timestamp>.<body>" with the key of 'cordonctl segment points';
//  2. refuse a webhook-timestamp more than five minutes away from its own clock;
//  3. refuse a webhook-id that it has seen within those five minutes;
//  4. refuse a body whose "point" is not the name that it was given;
//  5. for an order: keep the epoch beside the device's rule; an epoch below the one in force, and the same epoch with another
//     segment, changes nothing; answer with what is in force.
//
// The receiver is trusted for the network segment alone: one that lies keeps a device in production, or out of it.
package webhook

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
)

// Headers of Standard Webhooks.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// Types of messages.
const (
	TypeOrder   = "segment.order"   // make it so
	TypeObserve = "segment.observe" // say how it is
)

// KeyPrefix stands before the base64 of the public key, as the specification writes keys.
const KeyPrefix = "whpk_"

const (
	maxAnswer   = 64 << 10
	maxHeader   = 16 << 10
	dialTimeout = 5 * time.Second
	idleTime    = 90 * time.Second
)

// Message is the body of every request.
type Message struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      Data      `json:"data"`
}

// Data says which device, and for an order where it belongs.
type Data struct {
	Point       string        `json:"point"`
	Device      string        `json:"device"`
	Addresses   []netip.Addr  `json:"addresses,omitempty"`
	MACs        []string      `json:"macs,omitempty"`
	Segment     fleet.Segment `json:"segment,omitempty"` // "production" or "restricted"
	Epoch       int64         `json:"epoch,omitzero"`
	RequestedAt *time.Time    `json:"requested_at,omitempty"`
}

// Answer is what a receiver says is in force for the device. An empty Segment in an answer to segment.observe means that it
// cannot say. Further members are ignored.
type Answer struct {
	Device  string        `json:"device"`
	Segment fleet.Segment `json:"segment"`
	Epoch   int64         `json:"epoch"`
	Detail  string        `json:"detail"`
}

// Config is one receiver.
type Config struct {
	Name     string
	URL      string
	Selector segment.Selector   // what the receiver cannot do without; segment.ByDevice if empty
	Roots    *x509.CertPool     // of its TLS certificate; nil: the system's
	Key      ed25519.PrivateKey // signs the messages
	Now      func() time.Time
}

// Point is a receiver. It is safe for concurrent use and keeps nothing between calls.
type Point struct {
	cfg    Config
	client *http.Client
}

var _ segment.Point = (*Point)(nil)

// New checks the configuration. Nothing is sent.
func New(cfg Config) (*Point, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("webhook %s: %q is not an https URL without user and fragment", cfg.Name, cfg.URL)
	}
	if len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("webhook %s has no key", cfg.Name)
	}
	if cfg.Selector == "" {
		cfg.Selector = segment.ByDevice
	}
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
		ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader, IdleConnTimeout: idleTime, TLSHandshakeTimeout: dialTimeout,
	}
	return &Point{cfg: cfg, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Name returns the configured name.
func (p *Point) Name() string { return p.cfg.Name }

// Selector returns what the receiver cannot do without.
func (p *Point) Selector() segment.Selector { return p.cfg.Selector }

// PublicKey is the key that receivers check with, as Standard Webhooks writes it.
func (p *Point) PublicKey() string { return PublicKey(p.cfg.Key) }

// PublicKey writes the public half of the key as Standard Webhooks does.
func PublicKey(key ed25519.PrivateKey) string {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return ""
	}
	return KeyPrefix + base64.StdEncoding.EncodeToString(public)
}

// Close drops idle connections.
func (p *Point) Close() error {
	p.client.CloseIdleConnections()
	return nil
}

// Apply implements segment.Point. A target without what the selector names is posted all the same, with no addresses, so
// that the receiver frees what it holds.
func (p *Point) Apply(ctx context.Context, o segment.Order) (segment.Receipt, error) {
	requested := o.At.UTC()
	a, err := p.post(ctx, TypeOrder, Data{Device: o.Target.Device, Addresses: o.Target.Addresses, MACs: o.Target.MACs,
		Segment: o.Segment, Epoch: o.Epoch, RequestedAt: &requested})
	if err != nil {
		return segment.Receipt{}, err
	}
	if a.Segment == "" {
		return segment.Receipt{}, fmt.Errorf("%w: its answer does not say what is in force", segment.ErrRefused)
	}
	if !o.Target.Has(p.cfg.Selector) {
		return segment.Receipt{}, segment.ErrNoAddress
	}
	return segment.Receipt{Acknowledged: p.cfg.Now(), Segment: a.Segment, Epoch: a.Epoch, Detail: a.Detail}, nil
}

// Observe implements segment.Point.
func (p *Point) Observe(ctx context.Context, t segment.Target) (segment.Observation, error) {
	if !t.Has(p.cfg.Selector) {
		return segment.Observation{}, segment.ErrNoAddress
	}
	a, err := p.post(ctx, TypeObserve, Data{Device: t.Device, Addresses: t.Addresses, MACs: t.MACs})
	if err != nil {
		return segment.Observation{}, err
	}
	if a.Segment == "" {
		return segment.Observation{Detail: a.Detail}, nil
	}
	return segment.Observation{Segment: a.Segment, Epoch: a.Epoch, At: p.cfg.Now(), Known: true, Detail: a.Detail}, nil
}

// post sends one message and reads its answer.
func (p *Point) post(ctx context.Context, kind string, data Data) (Answer, error) {
	now := p.cfg.Now()
	data.Point = p.cfg.Name
	body, err := json.Marshal(Message{Type: kind, Timestamp: now.UTC(), Data: data}, json.Deterministic(true))
	if err != nil {
		return Answer{}, fmt.Errorf("cannot encode the message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("cannot make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	sign(req.Header, p.cfg.Key, newID(), now, body)
	res, err := p.client.Do(req)
	if err != nil {
		return Answer{}, unreachable(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return Answer{}, unreachable(err)
	}
	return read(res.StatusCode, b, data.Device)
}

// unreachable leaves the URL out of the text: it may hold a secret of the receiver.
func unreachable(err error) error {
	if known, ok := errors.AsType[*url.Error](err); ok {
		err = known.Err
	}
	return fmt.Errorf("%w: %w", segment.ErrUnreachable, err)
}

// newID never repeats: epochs make an order idempotent, ids only tell a replay from a second try.
func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return "msg_" + hex.EncodeToString(b)
}

// sign sets the headers of Standard Webhooks.
func sign(h http.Header, key ed25519.PrivateKey, id string, at time.Time, body []byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	signature := ed25519.Sign(key, bytes.Join([][]byte{[]byte(id), []byte(stamp), body}, []byte(".")))
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, stamp)
	h.Set(HeaderSignature, "v1a,"+base64.StdEncoding.EncodeToString(signature))
}

// read takes an answer apart.
func read(status int, body []byte, device string) (Answer, error) {
	switch {
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return Answer{}, fmt.Errorf("%w: it answers with status %d", segment.ErrUnreachable, status)
	case status != http.StatusOK:
		return Answer{}, fmt.Errorf("%w: it answers with status %d", segment.ErrRefused, status)
	case len(body) > maxAnswer:
		return Answer{}, fmt.Errorf("%w: its answer is longer than %d bytes", segment.ErrRefused, maxAnswer)
	}
	var a Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return Answer{}, fmt.Errorf("%w: its answer is not valid JSON: %w", segment.ErrRefused, err)
	}
	switch {
	case a.Device != device:
		return Answer{}, fmt.Errorf("%w: its answer is about another device", segment.ErrRefused)
	case a.Segment != "" && a.Segment != fleet.Production && a.Segment != fleet.Restricted:
		return Answer{}, fmt.Errorf("%w: its answer names no segment of ours", segment.ErrRefused)
	case a.Epoch < 0:
		return Answer{}, fmt.Errorf("%w: its answer names a negative epoch", segment.ErrRefused)
	}
	return a, nil
}
