package suite

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

const (
	// perDevice is how many refused polls one device is good for: a server may answer a device that proves nothing for long
	// with "later".
	perDevice = 90
	// challengeLife is how long a challenge is used; servers let it live for minutes.
	challengeLife = 15 * time.Second
)

// plan is which cases are asked with polls.
type plan struct {
	authentic, state []evidencetest.Case // those of state may quarantine their device
	not              []NotAskable
}

// planned sorts the cases of evidencetest.
func planned() plan {
	var p plan
	for _, c := range evidencetest.Cases() {
		if c.Stage == evidencetest.StageDocument {
			p.authentic = append(p.authentic, c)
			continue
		}
		_, why := c.Send(evidencetest.NewScenario("suite", evidencetest.Current))
		switch {
		case why != "":
			p.not = append(p.not, NotAskable{Case: c.ID, Name: c.Name, Why: why})
		case c.Stage == evidencetest.StageState:
			p.state = append(p.state, c)
		default:
			p.authentic = append(p.authentic, c)
		}
	}
	asked := map[string]bool{}
	for _, e := range enrollments() {
		asked[e.id] = true
	}
	for _, id := range []string{"N42", "N43", "N44", "N45", "N46", "N51", "N62", "N64", "N65", "N140", "N143", "N145"} {
		asked[id] = true
	}
	for _, e := range vectors.Elsewhere() {
		if !asked[e.Case] {
			p.not = append(p.not, NotAskable{Case: e.Case, Name: e.About, Why: fmt.Sprintf("it needs the server's clock, people, store or releases; tests hold it: %v", e.Tests)})
		}
	}
	return p
}

// Tokens is how many enrollment tokens a whole run needs.
func Tokens() int {
	p := planned()
	return groups(p.authentic) + groups(p.state)
}

func groups(cases []evidencetest.Case) int { return (len(cases) + perDevice - 1) / perDevice }

// polls asks the cases of the plan, and those of polls that are no case of evidencetest. first is enrolled already.
func (r *run) polls(ctx context.Context, p plan, first *device) error {
	d := first
	for _, group := range []struct {
		cases []evidencetest.Case
		state bool
	}{{p.authentic, false}, {p.state, true}} {
		for rest := group.cases; len(rest) > 0; {
			some := rest[:min(len(rest), perDevice)]
			rest = rest[len(some):]
			if err := r.group(ctx, d, some, group.state); err != nil {
				return err
			}
			d = nil
		}
	}
	return nil
}

// group asks some cases with one device, which is enrolled unless it is given.
func (r *run) group(ctx context.Context, d *device, cases []evidencetest.Case, state bool) error {
	d, why, err := r.admitted(ctx, d, state)
	if err == nil && why == "" {
		why, err = r.ready(ctx, d)
	}
	if err != nil {
		return err
	}
	if why != "" {
		p := plan{state: cases}
		r.undecided(p, why)
		return nil
	}
	defer d.conn.close()
	r.tell("device %s asks about %d pieces of Evidence", d.id, len(cases))
	for _, c := range cases {
		if err := r.evidence(ctx, d, c); err != nil {
			return err
		}
	}
	if state {
		return r.afterQuarantine(ctx, d)
	}
	return r.afterNothing(ctx, d)
}

// admitted is an enrolled device.
func (r *run) admitted(ctx context.Context, d *device, state bool) (_ *device, why string, err error) {
	if d != nil {
		return d, "", nil
	}
	token, ok := r.token()
	if !ok {
		return nil, "there are too few enrollment tokens", nil
	}
	d = r.newDevice()
	if _, err := r.enroll(ctx, d, token); err != nil {
		if ctx.Err() != nil {
			return nil, "", err
		}
		return nil, err.Error(), nil
	}
	used := "what is not authentic or not fresh"
	if state {
		used = "wrong states: it may be in quarantine"
	}
	r.report.Devices = append(r.report.Devices, Device{ID: d.id, Used: used})
	return d, "", nil
}

// ready brings a device to where its good Evidence is affirmed; without that no refusal says anything.
func (r *run) ready(ctx context.Context, d *device) (why string, err error) {
	before, timestamp, err := r.first(ctx, d)
	if err != nil {
		return "", err
	}
	var image component
	if d.values = r.cfg.valuesOrNone(); r.cfg.Values == nil {
		d.values, image, err = r.release(ctx, d, timestamp)
		if errors.Is(err, errNoRelease) || errors.Is(err, ErrSetup) {
			return err.Error(), nil
		}
		if err != nil {
			return "", err
		}
		if err := r.artifact(ctx, d, image); err != nil {
			return "", err
		}
	}
	row := Row{Case: "P1", Name: "good Evidence", About: "a device with nothing wrong: without this no refusal says anything", Road: roadPoll, Outcome: vectors.Affirmed}
	a, err := d.ask(ctx, nil)
	if err != nil {
		return "", err
	}
	row = row.polled(a)
	r.add(row)
	if row.Judgement != vectors.Right {
		return fmt.Sprintf("the good device is not affirmed (status %d, before that %d): %v", a.status, before.status, row.Said), nil
	}
	if r.last != nil {
		if err := r.relayed(ctx, d, r.last); err != nil {
			return "", err
		}
	}
	r.last = d
	return "", nil
}

// first polls without Evidence and keeps the beacon.
func (r *run) first(ctx context.Context, d *device) (a answer, timestamp []byte, err error) {
	a, err = d.conn.exchange(ctx, http.MethodPost, wire.PathPoll, func(*connection) ([]byte, error) {
		claims, err := d.claims(nil, false)
		if err != nil {
			return nil, err
		}
		return encodePoll(claims, nil)
	})
	if err != nil {
		return answer{}, nil, err
	}
	var p wire.PollAnswer
	if a.status == http.StatusOK && json.Unmarshal(a.body, &p) == nil {
		d.keep(p)
	}
	return a, p.Timestamp, nil
}

// keep remembers what later polls need.
func (d *device) keep(p wire.PollAnswer) {
	if len(p.Challenge) > 0 {
		d.challenge, d.got = p.Challenge, time.Now()
	}
	if len(p.Timestamp) > 0 {
		d.beacon = digest.Of(p.Timestamp)
	}
}

// renew gets a challenge, which may be used more than once: what must grow is the TPM's clock. A server gives one to who
// quotes over something that it does not know.
func (d *device) renew(ctx context.Context) error {
	if len(d.challenge) > 0 && time.Since(d.got) < challengeLife {
		return nil
	}
	d.challenge = nil
	unknown := make([]byte, 32)
	if _, err := rand.Read(unknown); err != nil {
		return fmt.Errorf("cannot make a challenge: %w", err)
	}
	a, err := d.conn.exchange(ctx, http.MethodPost, wire.PathPoll, func(c *connection) ([]byte, error) {
		claims, err := d.claims(unknown, false)
		if err != nil {
			return nil, err
		}
		in := d.good(c, attestation.PurposePoll, unknown, claims).Input()
		return encodeEvidence(claims, in.Evidence)
	})
	if err != nil {
		return err
	}
	var p wire.PollAnswer
	if a.status == http.StatusOK && json.Unmarshal(a.body, &p) == nil {
		d.keep(p)
	}
	if len(d.challenge) == 0 {
		return fmt.Errorf("%w: it gives device %s no challenge: status %d %s", ErrSetup, d.id, a.status, a.problem().Reason)
	}
	return nil
}

// made is what a case makes of a good device: Evidence, whether it goes over the beacon, and other bytes instead.
type made func(c *connection, s *evidencetest.Scenario) (sent evidencetest.Sent, document []byte, err error)

// ask polls with what change makes of good Evidence; nil leaves it good.
func (d *device) ask(ctx context.Context, change made) (answer, error) {
	if err := d.renew(ctx); err != nil {
		return answer{}, err
	}
	a, err := d.conn.exchange(ctx, http.MethodPost, wire.PathPoll, func(c *connection) ([]byte, error) { return d.poll(c, change) })
	if err != nil {
		return answer{}, err
	}
	var p wire.PollAnswer
	if a.status == http.StatusOK && json.Unmarshal(a.body, &p) == nil {
		d.keep(p)
	}
	return a, nil
}

// poll makes the body. A case over the beacon is made a second time, with claims that name it.
func (d *device) poll(c *connection, change made) ([]byte, error) {
	if change == nil {
		change = func(_ *connection, s *evidencetest.Scenario) (evidencetest.Sent, []byte, error) {
			in := s.Input()
			in.Evidence.Log = in.Log
			return evidencetest.Sent{Evidence: in.Evidence}, nil, nil
		}
		d.tick()
	}
	for _, beacon := range []bool{false, true} {
		claims, err := d.claims(d.challenge, beacon)
		if err != nil {
			return nil, err
		}
		nonce := d.challenge
		if beacon {
			nonce = d.beacon[:]
		}
		sent, document, err := change(c, d.good(c, attestation.PurposePoll, nonce, claims))
		switch {
		case err != nil:
			return nil, err
		case document != nil:
			return bytes.Join([][]byte{{'{'}, claimsMember(claims), []byte(`,"evidence":`), document, {'}'}}, nil), nil
		case !sent.Beacon || beacon:
			return encodeEvidence(claims, sent.Evidence)
		}
	}
	return nil, fmt.Errorf("%w: a case goes over neither challenge nor beacon", ErrSetup)
}

func claimsMember(claims []byte) []byte {
	b, err := json.Marshal(wire.PollRequest{Claims: claims})
	if err != nil {
		return nil
	}
	return b[1 : len(b)-1]
}

func encodePoll(claims, evidence []byte) ([]byte, error) {
	b, err := json.Marshal(wire.PollRequest{Claims: claims, Evidence: evidence})
	if err != nil {
		return nil, fmt.Errorf("cannot encode poll: %w", err)
	}
	return b, nil
}

func encodeEvidence(claims []byte, e attestation.Evidence) ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("cannot encode evidence: %w", err)
	}
	return encodePoll(claims, b)
}

// evidence asks one case.
func (r *run) evidence(ctx context.Context, d *device, c evidencetest.Case) error {
	row := rowOf(c)
	if c.Stage == evidencetest.StageDocument {
		a, err := d.ask(ctx, func(*connection, *evidencetest.Scenario) (evidencetest.Sent, []byte, error) {
			return evidencetest.Sent{}, c.Bytes(), nil
		})
		if err != nil {
			return err
		}
		r.add(row.malformed(a))
		return nil
	}
	probe, why := c.Send(evidencetest.NewScenario("suite", evidencetest.Current))
	if why != "" {
		return fmt.Errorf("%w: %s %s: %s", ErrSetup, c.ID, c.Name, why)
	}
	if probe.After { // the same clock must have been accepted just before
		if a, err := d.ask(ctx, nil); err != nil {
			return err
		} else if good := (Row{Outcome: vectors.Affirmed}).polled(a); good.Judgement != vectors.Right {
			row.Got, row.Judgement, row.Note = "not asked", vectors.Undecided, "the good device is not affirmed any more"
			r.add(row)
			return nil
		}
	} else {
		d.tick()
	}
	var last attestation.Evidence
	a, err := d.ask(ctx, func(_ *connection, s *evidencetest.Scenario) (evidencetest.Sent, []byte, error) {
		sent, why := c.Send(s)
		if why != "" {
			return sent, nil, fmt.Errorf("%w: %s %s: %s", ErrSetup, c.ID, c.Name, why)
		}
		last = sent.Evidence
		return sent, nil, nil
	})
	if err != nil {
		return err
	}
	if row = row.polled(a); row.Got == vectors.Affirmed {
		d.follow(last)
	}
	if b, err := json.Marshal(last); err == nil {
		if _, err := attestation.DecodeEvidence(b); err != nil { // no Evidence at all: what cordon's verifier would say is not heard
			row = row.malformed(a)
		}
	}
	r.add(row)
	return nil
}

// follow takes the clock over that the server has accepted.
func (d *device) follow(e attestation.Evidence) {
	if q, err := quote.ParseQuote(e.Quote); err == nil && q.Clock.ResetCount >= d.clock.ResetCount {
		d.clock.ResetCount, d.clock.RestartCount = q.Clock.ResetCount, q.Clock.RestartCount
		d.clock.Clock = max(d.clock.Clock, q.Clock.Clock)
	}
}

// malformed judges bytes that are no Evidence: any refusal of the request will do.
func (row Row) malformed(a answer) Row {
	row.Reasons, row.Said, row.Note = nil, nil, ""
	return row.polled(a)
}
