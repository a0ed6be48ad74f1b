//go:build linux

// Command harvest is what somebody runs on the machine under test who is root on it for an hour: it makes polls with the
// machine's own TPM, writes them down, and sends them later, from whatever boots then.
//
// It promises to be the best that such a person can do: the polls are genuine, of a genuine boot, over a challenge that
// has not expired, sent with the machine's own TLS key. It refuses nothing. Nobody trusts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
)

// Polls that are written down.
const (
	acceptedFile = "accepted.json" // sent, and affirmed
	unsentFile   = "unsent.json"   // made after it, over a challenge of its own, and never sent
)

func main() {
	o := options{}
	flag.StringVar(&o.trust, "trust", "/etc/cordon/trust.json", "trust bundle")
	flag.StringVar(&o.tpm, "tpm", "/dev/tpmrm0", "TPM")
	flag.StringVar(&o.dir, "dir", "/data/harvest", "folder of the polls")
	flag.StringVar(&o.log, "event-log", client.KernelEventLog, "event log of this boot")
	submit := flag.Bool("submit", false, "send what was written down")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	do := o.take
	if *submit {
		do = o.submit
	}
	err := do(ctx)
	cancel()
	if err != nil {
		fmt.Println("harvest: cannot do it:", err)
		os.Exit(3)
	}
}

type options struct {
	trust, tpm, dir, log string
}

// take makes two polls on one connection: one that the server accepts, and a later one that is kept.
func (o options) take(ctx context.Context) error {
	p, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{acceptedFile, unsentFile} {
		challenge, err := p.challenge(ctx)
		if err != nil {
			return err
		}
		body, err := p.poll(challenge)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.dir, name), body, 0o600); err != nil {
			return err
		}
		if name == unsentFile {
			break
		}
		answer, err := p.send(ctx, body)
		if err != nil {
			return err
		}
		if answer.Verdict != string(attestation.Affirmed) {
			return fmt.Errorf("the genuine poll is answered with %q %s", answer.Verdict, reasons(answer))
		}
	}
	fmt.Println("harvest: taken")
	return nil
}

// submit sends each poll on a connection of its own, and the Evidence of the unsent one in a poll of today.
func (o options) submit(ctx context.Context) error {
	for _, name := range []string{unsentFile, acceptedFile} {
		body, err := os.ReadFile(filepath.Join(o.dir, name))
		if err != nil {
			return err
		}
		if err := o.try(ctx, strings.TrimSuffix(name, ".json"), func(*probe) ([]byte, error) { return body, nil }); err != nil {
			return err
		}
	}
	return o.try(ctx, "transplanted", func(p *probe) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(o.dir, unsentFile))
		if err != nil {
			return nil, err
		}
		var old wire.PollRequest
		if err := json.Unmarshal(b, &old); err != nil {
			return nil, err
		}
		challenge, err := p.challenge(ctx)
		if err != nil {
			return nil, err
		}
		claims, err := p.claims(challenge, nil)
		if err != nil {
			return nil, err
		}
		return json.Marshal(wire.PollRequest{Claims: claims, Evidence: old.Evidence})
	})
}

// try sends one poll and tells what came of it.
func (o options) try(ctx context.Context, name string, body func(*probe) ([]byte, error)) error {
	p, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	b, err := body(p)
	if err != nil {
		return err
	}
	answer, err := p.send(ctx, b)
	if err != nil {
		return err
	}
	fmt.Printf("harvest: %s verdict=%q reasons=%q lease=%d\n", name, answer.Verdict, reasons(answer), answer.LeaseUntil)
	return nil
}

func reasons(a wire.PollAnswer) string {
	var out []string
	for _, r := range a.Refusal {
		out = append(out, string(r.Reason))
	}
	return strings.Join(out, " ")
}

// claims are what the agent would say.
func (p *probe) claims(challenge, log []byte) ([]byte, error) {
	c := wire.Claims{Version: wire.ClaimsVersion, Challenge: challenge, ImageRoot: 1, DirectorRoot: 1, LogDigest: digest.Of(log)}
	index, err := p.tpm.Counter()
	if err != nil {
		return nil, err
	}
	c.Counter = &wire.Counter{Index: index}
	return json.Marshal(c)
}

// poll quotes over a challenge, for this connection.
func (p *probe) poll(challenge []byte) ([]byte, error) {
	claims, err := p.claims(challenge, p.log)
	if err != nil {
		return nil, err
	}
	transcript := attestation.Transcript(attestation.Binding{
		Purpose: attestation.PurposePoll, Nonce: challenge, Device: p.device, Exporter: p.exporter,
		LogDigests: []digest.SHA256{digest.Of(p.log)}, Claims: digest.Of(claims),
	})
	q, err := p.tpm.Quote(transcript[:])
	if err != nil {
		return nil, err
	}
	evidence, err := attestation.EncodeEvidence(attestation.Evidence{
		Version: attestation.EvidenceVersion, Quote: q.Attest, Signature: q.Signature, PCRs: q.PCRs, LogDigest: digest.Of(p.log), Log: p.log,
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(wire.PollRequest{Claims: claims, Evidence: evidence})
}

// challenge asks for one: a poll over an invented one is refused, and the answer brings a real one.
func (p *probe) challenge(ctx context.Context) ([]byte, error) {
	body, err := p.poll(make([]byte, 64))
	if err != nil {
		return nil, err
	}
	answer, err := p.send(ctx, body)
	if err != nil {
		return nil, err
	}
	if len(answer.Challenge) == 0 {
		return nil, errors.New("the server gives no challenge: " + reasons(answer))
	}
	return answer.Challenge, nil
}
