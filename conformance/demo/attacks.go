package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
)

// recording is what somebody on a device could write down: a whole poll, and the evidence in it.
type recording struct {
	body     []byte
	evidence []byte
}

// remember records an accepted poll of A and the timestamp of that day, for the attacks to come.
func (w *world) remember(ctx context.Context) error {
	var err error
	if w.oldTimestamp, err = os.ReadFile(filepath.Join(w.a.stateDir(), "image", "timestamp.json")); err != nil {
		return err
	}
	if w.oldPoll, err = w.a.record(ctx); err != nil {
		return err
	}
	w.say("(Somebody writes down a poll of A that the server accepts, and the timestamp of the day.)")
	return nil
}

// record makes a poll that the server accepts and keeps it.
func (d *device) record(ctx context.Context) (*recording, error) {
	p, err := d.probe(ctx)
	if err != nil {
		return nil, err
	}
	defer p.close()
	challenge, err := d.challenge(ctx, p)
	if err != nil {
		return nil, err
	}
	r, err := d.quote(p, challenge)
	if err != nil {
		return nil, err
	}
	got, err := p.judged(ctx, r.body)
	if err != nil {
		return nil, err
	}
	if got.Verdict != "affirmed" {
		return nil, fmt.Errorf("the poll of %s to be recorded was not accepted: %+v", d.name, got)
	}
	return r, nil
}

// challenge asks for a challenge: a quote over an invented one is refused, and the answer brings a real one.
func (d *device) challenge(ctx context.Context, p *probe) ([]byte, error) {
	invented := make([]byte, 64)
	if _, err := rand.Read(invented); err != nil {
		return nil, err
	}
	r, err := d.quote(p, invented)
	if err != nil {
		return nil, err
	}
	got, err := p.judged(ctx, r.body)
	if err != nil {
		return nil, err
	}
	if len(got.Challenge) == 0 || !refusedFor(got.Refusal, reason.NonceUnknown) {
		return nil, fmt.Errorf("a quote over an invented challenge should be refused with %s, got %+v", reason.NonceUnknown, got)
	}
	return got.Challenge, nil
}

// quote makes a poll over a challenge, with everything in it right.
func (d *device) quote(p *probe, challenge []byte) (*recording, error) {
	log, err := os.ReadFile(d.machine.EventLog())
	if err != nil {
		return nil, err
	}
	claims, err := p.claims(challenge, log)
	if err != nil {
		return nil, err
	}
	evidence, err := p.evidence(d.id, challenge, log, claims)
	if err != nil {
		return nil, err
	}
	body, err := encodePoll(claims, evidence)
	return &recording{body: body, evidence: evidence}, err
}

// judged sends a poll and reads the answer.
func (p *probe) judged(ctx context.Context, body []byte) (wire.PollAnswer, error) {
	a, err := p.poll(ctx, body)
	if err != nil {
		return wire.PollAnswer{}, err
	}
	return a.poll()
}

func refusedFor(refusals []wire.Refusal, r reason.Reason) bool {
	for _, have := range refusals {
		if have.Reason == r {
			return true
		}
	}
	return false
}

func namesOf(refusals []wire.Refusal) string {
	var names []string
	for _, r := range refusals {
		names = append(names, string(r.Reason))
	}
	return strings.Join(names, ", ")
}

// replay plays the attacks that use what was seen before.
func (w *world) replay(ctx context.Context) (string, error) {
	for _, attack := range []func(context.Context) error{w.replayAsStranger, w.replayOldQuote, w.replayOldPoll, w.quoteOfOther, w.oldTimestampServed, w.foreignDirector} {
		if err := attack(ctx); err != nil {
			return "", err
		}
	}
	s, err := w.a.agent(ctx)
	if err != nil {
		return "", err
	}
	if len(s.Refusals) > 0 {
		return "", fmt.Errorf("device A should be as before, got %s", s)
	}
	if err := w.a.expectProven(ctx, product+"/1.1"); err != nil {
		return "", err
	}
	w.ok("A was not harmed: it polls, nothing is refused, and the server still counts 1.1 as proven")
	if err := w.reported(ctx, reason.MetadataForOtherDevice); err != nil {
		return "", err
	}
	w.ok("A told the true server what it was served; the audit log has it: client.event %s", reason.MetadataForOtherDevice)
	return "6 attacks, 6 refusals by name", nil
}

// reported checks that the audit log holds what A refused by itself.
func (w *world) reported(ctx context.Context, r reason.Reason) error {
	bob, err := w.as("bob")
	if err != nil {
		return err
	}
	why, err := bob.Why(ctx, w.a.id)
	if err != nil {
		return err
	}
	for _, e := range why.Events {
		if e.Type == "client.event" && strings.Contains(string(e.Data), string(r)) {
			return nil
		}
	}
	return fmt.Errorf("no client.event of device A names %s", r)
}

// replayAsStranger sends A's poll with a TLS key that nobody knows.
func (w *world) replayAsStranger(ctx context.Context) error {
	p, err := w.strangerProbe(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	a, err := p.poll(ctx, w.oldPoll.body)
	if err != nil {
		return err
	}
	if a.status < http.StatusBadRequest || a.problem().Reason != reason.DeviceUnknown {
		return fmt.Errorf("want the refusal %s, got %d: %s", reason.DeviceUnknown, a.status, a.body)
	}
	w.attack("A's poll from another machine, with another TLS key", "the server", string(reason.DeviceUnknown))
	return nil
}

// replayOldQuote puts the evidence of the day when A ran 1.0 into a new poll over a new challenge.
func (w *world) replayOldQuote(ctx context.Context) error {
	return w.expectVerdict(ctx, w.a, func(p *probe, challenge []byte) ([]byte, error) {
		r, err := w.a.quote(p, challenge)
		if err != nil {
			return nil, err
		}
		var req wire.PollRequest
		if err := json.Unmarshal(r.body, &req); err != nil {
			return nil, err
		}
		return encodePoll(req.Claims, w.oldPoll.evidence)
	}, reason.NonceUnknown, "A's old quote, of the boot of 1.0, in a new poll over a new challenge")
}

// replayOldPoll sends a whole poll again after A has made another one.
func (w *world) replayOldPoll(ctx context.Context) error {
	old, err := w.a.record(ctx)
	if err != nil {
		return err
	}
	if _, err := w.a.record(ctx); err != nil {
		return err
	}
	return w.expectVerdict(ctx, w.a, func(*probe, []byte) ([]byte, error) { return old.body, nil },
		reason.NonceUnknown, "an accepted poll of A once more, byte for byte, on another connection")
}

// quoteOfOther lets A answer for B: A's TPM quotes, B's TLS key sends.
func (w *world) quoteOfOther(ctx context.Context) error {
	return w.expectVerdict(ctx, w.b, func(p *probe, challenge []byte) ([]byte, error) {
		other, err := w.a.probe(ctx)
		if err != nil {
			return nil, err
		}
		defer other.close()
		log, err := os.ReadFile(w.a.machine.EventLog())
		if err != nil {
			return nil, err
		}
		claims, err := p.claims(challenge, log)
		if err != nil {
			return nil, err
		}
		other.exporter = p.exporter // everything is right but the TPM
		evidence, err := other.evidence(w.b.id, challenge, log, claims)
		if err != nil {
			return nil, err
		}
		return encodePoll(claims, evidence)
	}, reason.QuoteSignatureInvalid, "a fresh quote of A's TPM over B's challenge, sent as B")
}

// expectVerdict sends a made-up poll as device d and expects the server's refusal.
func (w *world) expectVerdict(ctx context.Context, d *device, make func(p *probe, challenge []byte) ([]byte, error), want reason.Reason, what string) error {
	p, err := d.probe(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	challenge, err := d.challenge(ctx, p)
	if err != nil {
		return err
	}
	body, err := make(p, challenge)
	if err != nil {
		return err
	}
	got, err := p.judged(ctx, body)
	if err != nil {
		return err
	}
	if got.Verdict == "affirmed" || !refusedFor(got.Refusal, want) {
		return fmt.Errorf("%s: want the refusal %s, got verdict %q, %s", what, want, got.Verdict, namesOf(got.Refusal))
	}
	w.attack(what, "the server", namesOf(got.Refusal))
	return nil
}

// stolenKey is the server's TLS key, as somebody has it who broke into its disk.
func (w *world) stolenKey() (tls.Certificate, error) {
	return tls.LoadX509KeyPair(w.path("cordon-data", "keys", "server.crt"), w.path("cordon-data", "keys", "server.pem"))
}

// impersonate lets a false server with the right TLS key answer A's polls, and expects A to refuse.
func (w *world) impersonate(ctx context.Context, lie wire.PollAnswer, want reason.Reason, what string) error {
	cert, err := w.stolenKey()
	if err != nil {
		return err
	}
	body, err := json.Marshal(lie)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathPoll, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(body) // the device hangs up when it likes
	})
	w.relay.impersonate(cert, mux)
	defer w.relay.give()
	s, err := w.a.agent(ctx)
	if err != nil {
		return err
	}
	if !s.refused(want, true) || s.Staged != "" {
		return fmt.Errorf("%s: device A should refuse it with %s, got %s", what, want, s)
	}
	w.attack(what, "the device", string(want))
	return nil
}

// oldTimestampServed freezes A on the metadata of the day before 1.1.
func (w *world) oldTimestampServed(ctx context.Context) error {
	return w.impersonate(ctx, wire.PollAnswer{Timestamp: w.oldTimestamp}, reason.MetadataExpired,
		"a false server with the stolen TLS key serves A the timestamp from before 1.1")
}

// foreignDirector serves A what the server signed for B.
func (w *world) foreignDirector(ctx context.Context) error {
	docs, err := w.b.director()
	if err != nil {
		return err
	}
	return w.impersonate(ctx, wire.PollAnswer{Director: &docs}, reason.MetadataForOtherDevice,
		"the same false server serves A the director metadata that was signed for B")
}

// swapImage changes bytes of 1.2 in the artifact store while A fetches it.
func (w *world) swapImage(ctx context.Context) (string, error) {
	if err := w.published(ctx, "1.2"); err != nil {
		return "", err
	}
	w.say("gateway/1.2 is published. Somebody with access to the artifact store changes one byte of its image.")
	file, err := w.stored(w.images["1.2"])
	if err != nil {
		return "", err
	}
	if err := flipByte(file); err != nil {
		return "", err
	}
	s, err := w.a.agent(ctx)
	if err != nil {
		return "", err
	}
	if !s.refused(reason.ArtifactMismatch, true) || s.Staged != "" || s.reboot {
		return "", fmt.Errorf("device A should refuse the image with %s, got %s", reason.ArtifactMismatch, s)
	}
	w.attack("another image under the name of 1.2", "the device", string(reason.ArtifactMismatch))
	if err := w.a.expectRunning(ctx, product+"/1.1"); err != nil {
		return "", err
	}
	w.ok("A keeps running 1.1 and does not restart")
	if err := flipByte(file); err != nil {
		return "", err
	}
	if err := w.a.update(ctx, product+"/1.2"); err != nil {
		return "", err
	}
	w.ok("the store is repaired: A fetches 1.2, installs it and proves it")
	return string(reason.ArtifactMismatch), nil
}

// expectRunning checks what the server counts as the device's boot.
func (d *device) expectRunning(ctx context.Context, release string) error {
	now, err := d.seen(ctx)
	if err != nil {
		return err
	}
	if now.Proven != release {
		return fmt.Errorf("%s should run %s, the server says %q", d.name, release, now.Proven)
	}
	return nil
}

// stored is the file in the artifact store that holds an image.
func (w *world) stored(image string) (string, error) {
	sum, err := fileDigest(image)
	if err != nil {
		return "", err
	}
	name, found := sum.String(), ""
	err = filepath.WalkDir(w.artifactFiles(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(path, name) {
			found = path
		}
		return err
	})
	if err == nil && found == "" {
		err = fmt.Errorf("image %s is not in the artifact store", name)
	}
	return found, err
}

// flipByte changes a byte in the middle of a file; doing it again changes it back.
func flipByte(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		return err
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, info.Size()/2); err != nil {
		return err
	}
	return f.Sync()
}

func fileDigest(path string) (digest.SHA256, error) {
	b, err := os.ReadFile(path)
	return digest.Of(b), err
}
