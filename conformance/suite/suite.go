// Package suite asks a running server about negative evidence, over the device API alone.
//
// It plays devices with software keys. Their endorsement certificates come from a root that the server has to be told to
// trust, and every device is a new one of its own: it never speaks in the name of a device that exists. Each case is
// one question with one right answer; what a server must see from inside is listed as not askable, with the reason.
//
// It promises that a refusal counts only beside a good answer of the same device: where the good device is not affirmed,
// nothing was decided. It refuses to run without a CA for the server's certificate.
//
// Nobody trusts it. A server that trusts its root admits whoever holds the file beside that root, so the root belongs in
// a server for tests and nowhere else.
package suite

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// Format of the report.
const Format = 1

// Sentinel errors of Run.
var (
	// ErrWrong: the server accepted what it must refuse, or refused what is good.
	ErrWrong = errors.New("the server is wrong")
	// ErrUndecided: a case could not be asked, or its answer decides nothing.
	ErrUndecided = errors.New("not everything was decided")
	// ErrSetup: the run could not begin.
	ErrSetup = errors.New("cannot ask the server")
)

// Config says whom to ask, and how.
type Config struct {
	Server  string            // https URL of the device listener
	CA      []byte            // PEM of the server's CA
	Root    evidencetest.CA   // whose endorsement certificates the server believes
	Tokens  []string          // one-time enrollment tokens, one for each device that polls
	Product string            // of the tokens; Reference Values are fetched from its published releases
	Values  *reference.Values // Optional: what the devices boot, instead of a published release
	Timeout time.Duration     // of one request; 0: 30 s
	Out     io.Writer         // progress, for people
}

// Row is one case and what the server said.
type Row struct {
	Case      string            `json:"case"`
	Name      string            `json:"name"`
	About     string            `json:"about"`
	Road      string            `json:"road"` // "enroll", "poll" or "artifact"
	Outcome   string            `json:"expected"`
	Reasons   []reason.Reason   `json:"expected_reasons,omitzero"` // cordon's; another verifier may have others
	Got       string            `json:"got"`
	Said      []reason.Reason   `json:"got_reasons,omitzero"`
	Status    int               `json:"status,omitzero"` // of HTTP
	Judgement vectors.Judgement `json:"judgement"`
	Note      string            `json:"note,omitzero"`
}

// NotAskable is a case that no device can ask, and why.
type NotAskable struct {
	Case string `json:"case"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Device is one of the suite's own.
type Device struct {
	ID   string `json:"device"`
	Used string `json:"used"` // what for
}

// Report is everything that a run came to.
type Report struct {
	Format     int                       `json:"format"`
	Server     string                    `json:"server"`
	Devices    []Device                  `json:"devices"` // to be retired by an operator
	Rows       []Row                     `json:"rows"`
	NotAskable []NotAskable              `json:"not_askable"`
	Count      map[vectors.Judgement]int `json:"count"`
}

// Run asks everything that can be asked. The report is complete as far as the run came, also beside an error: ErrWrong,
// ErrUndecided, ErrSetup, or that of ctx.
func Run(ctx context.Context, c Config) (Report, error) {
	r, err := newRun(c)
	if err != nil {
		return Report{}, err
	}
	err = r.all(ctx)
	r.report.Count = map[vectors.Judgement]int{}
	for _, row := range r.report.Rows {
		r.report.Count[row.Judgement]++
	}
	if err != nil {
		return r.report, err
	}
	return r.report, r.report.verdict()
}

func (r Report) verdict() error {
	n := r.Count
	switch {
	case n[vectors.WronglyAccepted]+n[vectors.WronglyRefused] > 0:
		return fmt.Errorf("%w: %d wrongly accepted, %d wrongly refused", ErrWrong, n[vectors.WronglyAccepted], n[vectors.WronglyRefused])
	case n[vectors.Undecided] > 0:
		return fmt.Errorf("%w: %d cases", ErrUndecided, n[vectors.Undecided])
	}
	return nil
}

// run is a Run under way. Only its own goroutine touches it.
type run struct {
	cfg    Config
	host   string // host:port
	name   string // in the server's certificate
	pool   *x509.CertPool
	tokens []string
	report Report
	last   *device // that polled before
}

func newRun(c Config) (*run, error) {
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%w: %q is no https URL", ErrSetup, c.Server)
	}
	r := &run{cfg: c, host: u.Host, name: u.Hostname(), pool: x509.NewCertPool(), tokens: c.Tokens}
	if u.Port() == "" {
		r.host += ":443"
	}
	if !r.pool.AppendCertsFromPEM(c.CA) {
		return nil, fmt.Errorf("%w: the server's CA is no PEM certificate", ErrSetup)
	}
	if c.Root.Certificate == nil {
		return nil, fmt.Errorf("%w: no endorsement root", ErrSetup)
	}
	if r.cfg.Timeout == 0 {
		r.cfg.Timeout = 30 * time.Second
	}
	if r.cfg.Out == nil {
		r.cfg.Out = io.Discard
	}
	r.report = Report{Format: Format, Server: c.Server, Devices: []Device{}, Rows: []Row{}}
	return r, nil
}

// all asks in an order that lets each device be good for as long as it can be.
func (r *run) all(ctx context.Context) error {
	plan := planned()
	r.report.NotAskable = plan.not
	r.tell("%d cases are asked over the device API, %d cannot be", len(plan.authentic)+len(plan.state)+len(enrollments())+extraCases, len(plan.not))
	victim, err := r.enrollments(ctx)
	if err != nil {
		return err
	}
	if len(r.tokens) == 0 && victim == nil {
		r.undecided(plan, "there is no enrollment token")
		return nil
	}
	return r.polls(ctx, plan, victim)
}

func (r *run) tell(format string, args ...any) { fmt.Fprintf(r.cfg.Out, format+"\n", args...) }

func (r *run) add(row Row) {
	r.report.Rows = append(r.report.Rows, row)
	if row.Judgement != vectors.Right {
		r.tell("%s: %s %s: %s %v, want %s %v %s", row.Judgement, row.Case, row.Name, row.Got, row.Said, row.Outcome, row.Reasons, row.Note)
	}
}

// undecided lists the cases of a plan that were not asked.
func (r *run) undecided(p plan, why string) {
	for _, c := range append(p.authentic, p.state...) {
		row := rowOf(c)
		row.Got, row.Note = "not asked", why
		row.Judgement = vectors.Undecided
		r.add(row)
	}
}

// token takes the next enrollment token; there may be none.
func (r *run) token() (string, bool) {
	if len(r.tokens) == 0 {
		return "", false
	}
	t := r.tokens[0]
	r.tokens = r.tokens[1:]
	return t, true
}
