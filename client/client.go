// Package client is the device library: it proves what the device booted, finds out what it may install, verifies all
// of it, and installs it.
//
// It promises that nothing is downloaded before it is verified in full: both TUF repositories (an Uptane primary), the
// publisher's signature against the offline policy, the statement against the metadata, hardware, and the release
// counter in the TPM. It promises that a power cut at any moment leaves a device that boots and continues. It refuses
// to trust its state directory: every start verifies what lies there from the trust bundle, and what does not verify is
// forgotten. A refusal is a value; an error means that nothing could be decided.
//
// Trusted: an attacker who controls this code decides what the device installs, and the device's next quote shows it.
package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// Errors that callers test for with errors.Is.
var (
	// ErrNotEnrolled means that the server does not know the device's keys: call Enroll.
	ErrNotEnrolled = errors.New("the device is not enrolled")
	// ErrConfig is returned by New for a Config that cannot work.
	ErrConfig = errors.New("client configuration is not valid")
	// ErrState means that the state directory cannot be written.
	ErrState = errors.New("the state directory cannot be used")
	// ErrServer means that the server answered with something outside its API, or could not answer now.
	ErrServer = errors.New("the server gave no usable answer")
	// ErrStalled means that a download was slower than Config.MinSpeed.
	ErrStalled = errors.New("the download is too slow")
	// ErrNothingProven is returned by Commit when no trial of this boot was proven.
	ErrNothingProven = errors.New("no trial was proven in this boot")
)

// Config is what a client works with. Trust, TPM and StateDir are needed, the rest has defaults.
type Config struct {
	Trust    wire.Trust // from the device's measured image
	TPM      *tpm.TPM   // stays the caller's
	StateDir string     // made when missing; nothing in it is trusted

	// EventLog reads the TCG event log of this boot. Optional: without it the log counts as empty, and a server that
	// holds a policy refuses the device.
	EventLog func() ([]byte, error)
	// Installers for the kinds that releases name. Optional: without one nothing is installed.
	Installers []installer.Installer
	// HardwareID is what releases must be made for. Optional: the server tells it at enrollment; set it in the measured
	// image so that not even the server can lie about it.
	HardwareID string
	// Product is what releases must be of. Optional: without it the server chooses the product; set it in the measured
	// image so that a server that lies cannot have the publishers of another product fill this device.
	Product string
	// Token is a one-time enrollment token. Optional.
	Token string
	// Reboot restarts the system after an update was staged. It may return before the restart, or never; until it returns,
	// the client does nothing else. An error is told to the server, and the restart is asked for again in the next round.
	// Optional: without it the caller restarts.
	Reboot func(context.Context) error

	Dial         func(ctx context.Context, network, address string) (net.Conn, error) // Optional
	Now          func() time.Time                                                     // Optional: the system clock
	Sleep        func(context.Context, time.Duration) error                           // Optional; waits in Run
	Logger       *slog.Logger                                                         // Optional: nothing is logged
	Timeout      time.Duration                                                        // of one exchange; default 60 s
	StallTimeout time.Duration                                                        // default 30 s; see MinSpeed
	MinSpeed     int64                                                                // bytes/s over StallTimeout; default 512
	MinPoll      time.Duration                                                        // Run never polls faster; default 5 s
	MaxPoll      time.Duration                                                        // nor slower; default 24 h
}

// Client is a device. Its methods may be called from several goroutines; they take turns.
type Client struct {
	cfg    Config
	log    *slog.Logger
	url    *url.URL
	pool   *x509.CertPool
	id     identity.DeviceID
	dialer *dialer
	store  store

	mu      sync.Mutex // guards all below
	state   state
	trust   *trust      // verified metadata
	fresh   challenge   // the last challenge that the server gave, for the next poll
	anchor  *uint64     // base of the release counter as the TPM remembers it; nil before the first enrollment
	proven  *staged     // the trial that was proven in this boot, until it is committed
	running []bootState // what runs, read once per boot, of the installers that can tell
	unsure  bool        // one of them could not
	leaving bool        // the trial that runs was rolled back and ends with the restart

	trouble string   // what kept the last installation or restart from being done, as the server was told
	ready   *journal // staged by this process: nothing but the restart is missing

	unrotated string // why the last rotation of the attestation key could not be finished, as was logged
}

// Refusal is one reason why something was refused, by the server or by the device itself.
type Refusal struct {
	Reason reason.Reason `json:"reason"`
	Detail string        `json:"detail,omitempty"` // one sentence; empty when the server refused
	Remedy string        `json:"remedy,omitempty"`
	Local  bool          `json:"local,omitempty"` // the device refused
}

// New checks cfg, reads the state directory and verifies what is in it. It opens no connection.
func New(cfg Config) (*Client, error) {
	if cfg.TPM == nil || cfg.StateDir == "" {
		return nil, fmt.Errorf("%w: TPM and StateDir must be set", ErrConfig)
	}
	if cfg.HardwareID != "" {
		if err := artifacts.ValidName(cfg.HardwareID); err != nil {
			return nil, fmt.Errorf("%w: hardware id: %w", ErrConfig, err)
		}
	}
	if cfg.Product != "" {
		if err := artifacts.ValidName(cfg.Product); err != nil {
			return nil, fmt.Errorf("%w: product: %w", ErrConfig, err)
		}
	}
	u, err := url.Parse(cfg.Trust.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%w: server %q is not an https URL", ErrConfig, cfg.Trust.Server)
	}
	pool, err := cfg.Trust.Pool()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	id, err := cfg.TPM.DeviceID()
	if err != nil {
		return nil, fmt.Errorf("cannot identify the device: %w", err)
	}
	c := &Client{cfg: withDefaults(cfg), url: u, pool: pool, id: id}
	c.log = c.cfg.Logger
	if c.store, err = openStore(cfg.StateDir); err != nil {
		return nil, err
	}
	c.state = c.store.loadState(id)
	if err := cfg.TPM.UseGeneration(c.state.AKGeneration); err != nil {
		return nil, err
	}
	if c.trust, err = loadTrust(c.store, cfg.Trust, id, c.now()); err != nil {
		return nil, err
	}
	if c.dialer, err = newDialer(c); err != nil {
		return nil, err
	}
	base, ok, err := cfg.TPM.CounterBase()
	if err != nil {
		return nil, err
	}
	if ok {
		c.anchor = &base
	}
	return c, nil
}

func withDefaults(cfg Config) Config {
	if cfg.EventLog == nil {
		cfg.EventLog = func() ([]byte, error) { return nil, nil }
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = sleep
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.Timeout, time.Minute)
	setDefault(&cfg.StallTimeout, 30*time.Second)
	setDefault(&cfg.MinSpeed, 512)
	setDefault(&cfg.MinPoll, 5*time.Second)
	setDefault(&cfg.MaxPoll, 24*time.Hour)
	return cfg
}

func setDefault[T ~int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// DeviceID returns the id that follows from the TPM's endorsement key.
func (c *Client) DeviceID() identity.DeviceID { return c.id }

// refuse makes a local refusal, which the next poll reports, unless it stands since the poll before: events are kept for good,
// and a device may wait for weeks with the same one. Run logs it when it is new.
func (c *Client) refuse(r reason.Reason, format string, args ...any) Refusal {
	out := Refusal{Reason: r, Detail: cutText(fmt.Sprintf(format, args...)), Remedy: remedy(r), Local: true}
	if !slices.Contains(c.state.Refusals, out) {
		c.event(r, out.Detail)
	}
	c.log.Debug("refused", "reason", string(r), "detail", out.Detail)
	return out
}

func remedy(r reason.Reason) string {
	row, _ := reason.Lookup(r)
	return row.Remedy
}

// Limits of what a poll reports.
const (
	maxEvents = 64
	maxDetail = 1024
)

// cutText bounds a text, which may be the server's, and keeps it valid UTF-8: half a character would be one that neither
// claims nor the state can be written with.
func cutText(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail]
	}
	return strings.ToValidUTF8(s, "?")
}

// event queues something for the next poll. The oldest go first when there are too many.
func (c *Client) event(r reason.Reason, detail string) {
	e := wire.Event{Reason: r, Detail: cutText(detail), Time: c.now().Unix()}
	if n := len(c.state.Events); n > 0 && c.state.Events[n-1].Reason == e.Reason && c.state.Events[n-1].Detail == e.Detail {
		return
	}
	c.state.Events = append(c.state.Events, e)
	if extra := len(c.state.Events) - maxEvents; extra > 0 {
		c.state.Events = c.state.Events[extra:]
	}
}
