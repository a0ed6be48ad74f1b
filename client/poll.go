package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// maxRounds bounds the polls of one Check.
const maxRounds = 4

// Result is what a Check came to: an Update, Refusals, or neither, which means that there is nothing to do.
type Result struct {
	Update   *Update       // verified in full; install it
	Refusals []Refusal     // of the server or of the device
	Verdict  string        // "affirmed" or "refused" when the boot state was judged, else empty
	Proven   bool          // a trial of this boot is proven: call Commit
	Reenroll bool          // the server asks the device to enroll again
	Next     time.Duration // when the server wants the next poll; 0 if it did not say
}

// Check polls the server, proves the boot state as often as it is asked for, and verifies what it is offered. It
// returns ErrNotEnrolled when the server does not know the device.
func (c *Client) Check(ctx context.Context) (Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.save()
	c.trust.setTime(c.now())
	if err := c.afterBoot(ctx); err != nil {
		return Result{}, err
	}
	c.noteLockout()
	ch, err := c.dialer.open(ctx)
	if err != nil {
		return Result{}, err
	}
	talk := &conversation{client: c, ch: ch}
	defer func() { talk.ch.close() }()
	err = talk.run(ctx)
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		return talk.result, err
	}
	if err != nil {
		c.state.Enrolled = false
		return talk.result, err
	}
	c.state.Refusals = talk.result.Refusals
	c.state.LastPoll = c.now().Unix()
	return talk.result, nil
}

// conversation is one Check: polls on one connection.
type conversation struct {
	client *Client
	ch     *channel
	result Result
	sent   int           // events in the poll that is under way
	beacon digest.SHA256 // that it names
	ok     bool          // it proves a trial boot over a challenge
	locked bool          // the TPM does not quote now
}

func (t *conversation) run(ctx context.Context) error {
	settled, err := t.resend(ctx)
	if err != nil {
		return err
	}
	if !settled {
		if err := t.polls(ctx); err != nil {
			return err
		}
	}
	return t.conclude(ctx)
}

// resend sends a poll whose answer was lost once more, byte for byte: the server recognises it and gives the stored
// answer. settled means that nothing more is to be asked.
func (t *conversation) resend(ctx context.Context) (settled bool, err error) {
	c := t.client
	body := c.store.read(filePoll, maxPoll)
	if body == nil {
		return false, nil
	}
	var req wire.PollRequest
	var claims wire.Claims
	if json.Unmarshal(body, &req) != nil || json.Unmarshal(req.Claims, &claims) != nil {
		return false, c.store.remove(filePoll)
	}
	t.sent, t.beacon = t.reported(claims.Events), claims.Timestamp
	a, err := t.ch.send(ctx, http.MethodPost, wire.PathPoll, body, wire.MaxAnswerBytes)
	if err != nil {
		return false, err
	}
	if err := c.store.remove(filePoll); err != nil {
		return false, err
	}
	if a.status != http.StatusOK && a.status != http.StatusNoContent {
		return false, nil // the new poll that follows gets an answer of its own
	}
	again, err := t.answer(ctx, a)
	if err != nil || again != "" {
		return false, err
	}
	return len(t.result.Refusals) == 0, nil
}

// reported counts how many of the queued events a stored poll carried. The state is a hint, so only a poll that
// carried exactly the head of the queue counts.
func (t *conversation) reported(events []wire.Event) int {
	queue := t.client.state.Events
	if len(events) > len(queue) || !slices.Equal(events, queue[:len(events)]) {
		return 0
	}
	return len(events)
}

func (t *conversation) polls(ctx context.Context) error {
	t.result.Refusals = nil
	want := ""
	for range maxRounds {
		again, err := t.poll(ctx, want)
		if err != nil || again == "" {
			return err
		}
		want = again
	}
	t.refuse(reason.DeviceUnproven, "the server asked for proof %d times in a row", maxRounds)
	return nil
}

// poll sends one poll. want is what the answer before asked for; again is what this answer asks for.
func (t *conversation) poll(ctx context.Context, want string) (again string, err error) {
	c := t.client
	nonce, quoted, err := t.freshness(want)
	if err != nil {
		return "", err
	}
	body, err := c.pollBody(ctx, t.ch, nonce, quoted, want == wire.WantLog)
	if errors.Is(err, tpm.ErrLockedOut) { // the poll goes out all the same: a device that says why it is silent is not lost
		t.locked = true
		t.refuse(reason.TPMLockedOut, "%v", err)
		nonce = nil
		body, err = c.pollBody(ctx, t.ch, nil, false, false)
	}
	if err != nil {
		return "", err
	}
	t.sent, t.beacon = len(c.state.Events), c.trust.image.State().Beacon
	t.ok = nonce != nil && c.state.Boot != nil && c.state.Boot.Result == bootOK
	if err := c.store.write(filePoll, body); err != nil {
		return "", err
	}
	crash.Here(crash.AgentPollStored)
	a, err := t.ch.send(ctx, http.MethodPost, wire.PathPoll, body, wire.MaxAnswerBytes)
	if err != nil {
		return "", err
	}
	crash.Here(crash.AgentPollAnswered)
	if err := c.store.remove(filePoll); err != nil {
		return "", err
	}
	crash.Here(crash.AgentPollForgotten)
	return t.answer(ctx, a)
}

// freshness chooses what the quote of the next poll is over: a challenge if there is one; else the beacon, unless that
// was affirmed already in this boot; nothing without either.
func (t *conversation) freshness(want string) (nonce []byte, quoted bool, err error) {
	c := t.client
	fresh := c.fresh
	c.fresh = challenge{}
	if fresh.usable(c.now()) {
		return fresh.bytes, true, nil
	}
	if want != "" {
		return nil, false, fmt.Errorf("%w: it wants a quote and gives no challenge", ErrServer)
	}
	beacon := c.trust.image.State().Beacon
	if beacon.IsZero() {
		return nil, false, nil
	}
	clock, err := c.cfg.TPM.Clock()
	if err != nil {
		return nil, false, err
	}
	return nil, c.state.Proven != beacon || c.state.ProvenBoot != clock.ResetCount || c.state.Boot != nil, nil
}

// answer takes one complete answer.
func (t *conversation) answer(ctx context.Context, a answer) (again string, err error) {
	c := t.client
	t.result.Next = nextPoll(a)
	if a.status != http.StatusOK && a.status != http.StatusNoContent {
		return "", t.problem(a)
	}
	c.state.Enrolled = true
	c.state.Events = slices.Delete(c.state.Events, 0, min(t.sent, len(c.state.Events)))
	t.sent = 0
	if a.status == http.StatusNoContent {
		return "", nil
	}
	var p wire.PollAnswer
	if err := json.Unmarshal(a.body, &p); err != nil {
		return "", fmt.Errorf("%w: poll: %v", ErrServer, err)
	}
	return t.accept(ctx, p)
}

func nextPoll(a answer) time.Duration {
	for _, name := range []string{wire.HeaderNextPoll, "Retry-After"} {
		if s, err := strconv.ParseInt(a.header.Get(name), 10, 32); err == nil && s > 0 {
			return time.Duration(s) * time.Second
		}
	}
	return 0
}

func (t *conversation) problem(a answer) error {
	refused, err := refusalOf(wire.PathPoll, a)
	if err != nil {
		return err
	}
	t.result.Refusals = append(t.result.Refusals, refused...)
	switch refused[0].Reason {
	case reason.DeviceUnknown, reason.AKUnknown, reason.Unauthenticated:
		return fmt.Errorf("%w: %s", ErrNotEnrolled, refused[0].Reason)
	}
	return nil
}

// accept takes a 200: metadata first, since what follows may be judged by it.
func (t *conversation) accept(ctx context.Context, p wire.PollAnswer) (again string, err error) {
	c := t.client
	if err := t.metadata(ctx, p); err != nil {
		return "", err
	}
	if err := t.verdict(p); err != nil {
		return "", err
	}
	for _, a := range p.Actions {
		if a.Kind == "reenroll" {
			t.result.Reenroll = true
		}
	}
	if len(p.Certificate) > 0 {
		c.state.Chain = p.Certificate
	}
	if len(p.Challenge) > 0 {
		c.fresh = challenge{bytes: p.Challenge, at: c.now()}
	}
	if wanted := p.EvidenceWanted; !t.locked && (wanted == wire.WantQuote || wanted == wire.WantLog) {
		return wanted, nil
	}
	t.result.Refusals = append(t.result.Refusals, fromServer(p.Refusal)...)
	return "", nil
}

// verdict notes how the boot state was judged. What was proven is the beacon that the poll named, not the one that its
// answer brought.
func (t *conversation) verdict(p wire.PollAnswer) error {
	c := t.client
	if p.LeaseUntil != 0 {
		c.state.LeaseUntil = p.LeaseUntil
	}
	if p.Verdict == "" {
		return nil
	}
	t.result.Verdict, c.state.Verdict = p.Verdict, p.Verdict
	if p.Verdict != string(attestation.Affirmed) {
		c.state.Proven = digest.SHA256{}
		return nil
	}
	clock, err := c.cfg.TPM.Clock()
	if err != nil {
		return err
	}
	c.state.Proven, c.state.ProvenBoot = t.beacon, clock.ResetCount
	if t.ok {
		t.result.Proven = c.trialProven(p.Release)
	}
	return nil
}

// metadata verifies roots, timestamp, the documents behind it, and the director's. What does not verify is refused and
// leaves what was verified before in force.
func (t *conversation) metadata(ctx context.Context, p wire.PollAnswer) error {
	c := t.client
	if err := c.trust.addRoots(p); errors.Is(err, ErrState) {
		return err
	} else if err != nil {
		t.refuseMetadata(err)
		return nil
	}
	if p.Timestamp != nil {
		if err := c.trust.image.Timestamp(p.Timestamp); err != nil {
			t.refuseMetadata(fmt.Errorf("image timestamp: %w", err))
			return nil
		}
		c.recordTime()
	}
	if ok, err := t.fetch(ctx, ""); err != nil || !ok {
		return err
	}
	if err := c.trust.checkOffline(); err != nil {
		t.refuseMetadata(err)
		return nil
	}
	if err := c.trust.keepImage(); err != nil {
		return err
	}
	crash.Here(crash.AgentImageKept)
	if p.Director == nil {
		return nil
	}
	docs := tufrepo.DirectorDocs{Timestamp: p.Director.Timestamp, Snapshot: p.Director.Snapshot, Targets: p.Director.Targets}
	if err := c.trust.director.Update(docs); err != nil {
		t.refuseMetadata(err)
		return nil
	}
	if err := c.checkDirectorBase(); err != nil {
		t.refuse(reason.DowngradeRefused, "%v", err)
		return nil
	}
	if err := c.trust.keepDirector(); err != nil {
		return err
	}
	crash.Here(crash.AgentDirectorKept)
	return nil
}

// checkDirectorBase holds the base that the director signed against the one that was agreed on. Where the state was
// lost there is none, and the director's is taken.
func (c *Client) checkDirectorBase() error {
	base, ok := c.trust.director.CounterBase()
	if !ok {
		return nil
	}
	agreed := c.agreedBase()
	if agreed == nil {
		c.state.Base, agreed = &base, &base
	}
	if base > *agreed {
		return errBase
	}
	return nil
}

// refuseMetadata makes a refusal of what a verifier said.
func (t *conversation) refuseMetadata(err error) {
	t.refuse(tufrepo.ReasonOf(err), "%v", err)
}

func (t *conversation) refuse(r reason.Reason, format string, args ...any) {
	t.result.Refusals = append(t.result.Refusals, t.client.refuse(r, format, args...))
}

// fetch brings the documents that the verified timestamp leads to; product "" stands for the offline targets alone. ok
// is false when something was refused.
func (t *conversation) fetch(ctx context.Context, product string) (ok bool, err error) {
	c := t.client
	if c.trust.image.State().Timestamp == 0 {
		return true, nil
	}
	for range maxDocuments {
		want, err := c.trust.image.Next(product)
		if err != nil {
			t.refuseMetadata(err)
			return false, nil
		}
		if want == nil {
			return true, nil
		}
		if want.Length > maxDoc {
			t.refuseMetadata(fmt.Errorf("%w: %s of %d bytes", tufrepo.ErrTooLarge, want.Name, want.Length))
			return false, nil
		}
		doc, refused, err := t.get(ctx, want.Name, want.Length)
		if err != nil {
			return false, err
		}
		if refused != nil {
			t.result.Refusals = append(t.result.Refusals, refused...)
			return false, nil
		}
		if err := c.trust.image.Accept(want, doc); err != nil {
			t.refuseMetadata(fmt.Errorf("%s: %w", want.Name, err))
			return false, nil
		}
	}
	t.refuseMetadata(fmt.Errorf("%w: more than %d documents", tufrepo.ErrTooLarge, maxDocuments))
	return false, nil
}

// maxDocuments bounds the documents of one fetch: snapshot, targets, one product.
const maxDocuments = 4

// get reads an immutable file of the Image repository, at most limit bytes.
func (t *conversation) get(ctx context.Context, name string, limit int64) ([]byte, []Refusal, error) {
	a, err := t.ch.send(ctx, http.MethodGet, wire.PathImage+name, nil, limit)
	if err != nil {
		return nil, nil, err
	}
	if a.status == http.StatusOK {
		return a.body, nil, nil
	}
	refused, err := refusalOf(name, a)
	return nil, refused, err
}
