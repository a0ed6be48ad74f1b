package suite

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// What is asked beside the cases of evidencetest: what others have, and what a device is worth after all that.

// extraCases is how many rows of polls are no case of evidencetest, in a run with three devices or more.
const extraCases = 12

// pollRow is a poll that must be refused, or the good one.
func pollRow(id, name, about, outcome string, why ...reason.Reason) Row {
	return Row{Case: id, Name: name, About: about, Road: roadPoll, Outcome: outcome, Reasons: why}
}

// afterNothing: whatever anybody sends in a device's name, it is not quarantined.
func (r *run) afterNothing(ctx context.Context, d *device) error {
	for _, c := range []struct {
		row    Row
		change made
		nonce  func([]byte) []byte
	}{
		{row: pollRow("N24", "another device's key", "the quote was signed by another attestation key", vectors.Refused), change: func(_ *connection, s *evidencetest.Scenario) (evidencetest.Sent, []byte, error) {
			in := s.Input()
			in.Evidence.Signature = evidencetest.NewAK(rand.Reader).Sign(in.Evidence.Quote)
			return evidencetest.Sent{Evidence: in.Evidence}, nil, nil
		}},
		{row: pollRow("N145", "another connection", "the quote was made on another TLS connection", vectors.Refused, reason.NonceUnknown), change: func(_ *connection, s *evidencetest.Scenario) (evidencetest.Sent, []byte, error) {
			s.Binding.Exporter = make([]byte, 32)
			in := s.Input()
			in.Evidence.Log = in.Log
			return evidencetest.Sent{Evidence: in.Evidence}, nil, nil
		}},
		{row: pollRow("N64", "challenge tampered with", "one bit of the challenge flipped", vectors.Refused), nonce: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{row: pollRow("N62", "own challenge", "a challenge that the device made itself", vectors.Refused), nonce: func(b []byte) []byte { return make([]byte, len(b)) }},
	} {
		if c.nonce != nil {
			if err := d.renew(ctx); err != nil {
				return err
			}
			d.challenge = c.nonce(bytes.Clone(d.challenge))
		}
		a, err := d.ask(ctx, c.change)
		if err != nil {
			return err
		}
		if c.nonce != nil && a.status == http.StatusOK {
			var p wire.PollAnswer
			if json.Unmarshal(a.body, &p) == nil && len(p.Challenge) == 0 {
				d.challenge = nil
			}
		}
		r.add(c.row.polled(a))
	}
	d.tick()
	a, err := d.ask(ctx, nil)
	if err != nil {
		return err
	}
	row := pollRow("P2", "good after all that", "after everything that is not authentic the same device is as good as before", vectors.Affirmed).polled(a)
	for _, said := range row.Said {
		if said == reason.DeviceQuarantined {
			row.Judgement, row.Note = vectors.WronglyRefused, "the device is in quarantine, and nobody has proven anything wrong about it"
		}
	}
	r.add(row)
	return nil
}

// afterQuarantine: a wrong state was proven; a good quote alone gives nothing back.
func (r *run) afterQuarantine(ctx context.Context, d *device) error {
	d.tick()
	a, err := d.ask(ctx, nil)
	if err != nil {
		return err
	}
	row := pollRow("N140", "failed, then passed", "a good quote after a wrong state was proven: there is no lease and no certificate before people have decided", vectors.Refused)
	if row = row.polled(a); row.Got == vectors.Affirmed && row.Note == quoteAlone && len(row.Said) > 0 {
		row.Got, row.Note = vectors.Refused, "the quote is good and called so; the device gets nothing for it"
	}
	r.add(row.judged())
	return nil
}

// relayed lets d answer with what belongs to another device.
func (r *run) relayed(ctx context.Context, d, other *device) error {
	if err := other.renew(ctx); err != nil {
		return err
	}
	own := d.challenge
	d.challenge, d.got = other.challenge, time.Now()
	a, err := d.ask(ctx, nil)
	if err != nil {
		return err
	}
	if bytes.Equal(d.challenge, other.challenge) {
		d.challenge = own
	}
	r.add(pollRow("N62", "challenge of another device", "the challenge was made for another device of the suite", vectors.Refused).polled(a))
	conn, err := r.connect(ctx, evidencetest.NewTLSKey(rand.Reader))
	if err != nil {
		return err
	}
	defer conn.close()
	stranger := *d
	stranger.conn = conn
	a, err = conn.exchange(ctx, http.MethodPost, wire.PathPoll, func(c *connection) ([]byte, error) { return stranger.poll(c, nil) })
	if err != nil {
		return err
	}
	r.add(pollRow("N51", "another TLS key", "a good quote on a connection of a key that nobody enrolled", vectors.Refused).polled(a))
	return nil
}

// artifact asks for firmware before anything was proven.
func (r *run) artifact(ctx context.Context, d *device, image component) error {
	if image.custom.Recovery || r.last != nil {
		return nil
	}
	a, err := d.conn.exchange(ctx, http.MethodGet, wire.PathArtifacts+"/"+image.image.String(), nil)
	if err != nil {
		return err
	}
	row := refusing("N143", "firmware without a proof", "a device that has proven nothing asks for firmware", "")
	row.Road = roadArtifact
	r.add(row.answered(a))
	return nil
}
