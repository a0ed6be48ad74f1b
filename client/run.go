package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/client/tpm"
)

// Pauses of Run. The server says when to come back; these hold when it does not, or cannot.
const (
	usualPause  = 15 * time.Minute
	firstPause  = 5 * time.Second
	longestWait = 15 * time.Minute
	growth      = 2
)

// Run enrolls, polls, installs and commits until ctx ends, and returns its error. It comes back when the server says,
// and after failures later and later, with jitter, so that a fleet does not return as one.
func (c *Client) Run(ctx context.Context) error {
	pause := firstPause
	var refused []Refusal
	for {
		r, err := c.Step(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || len(r.Refusals) > 0 { // a round that failed says nothing about what was refused before
			c.logRefusals(refused, r.Refusals)
			refused = r.Refusals
		}
		wait := r.Next
		switch {
		case err != nil:
			c.log.Warn("cannot complete a round", "error", err.Error())
			wait = max(wait, pause)
			pause = min(pause*growth, longestWait)
		case wait == 0:
			wait, pause = usualPause, firstPause
		default:
			pause = firstPause
		}
		if r.Next == 0 || err != nil {
			wait = jitter(wait)
		}
		wait = min(max(wait, c.cfg.MinPoll), c.cfg.MaxPoll)
		if err := c.cfg.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// logRefusals logs what was not refused in the round before, and that nothing is refused any more. A device may wait for
// days with the same refusal; its log says so once.
func (c *Client) logRefusals(before, now []Refusal) {
	for i, r := range now {
		same := func(o Refusal) bool { return o.Reason == r.Reason && o.Local == r.Local }
		if slices.ContainsFunc(before, same) || slices.ContainsFunc(now[:i], same) {
			continue
		}
		by := "server"
		if r.Local {
			by = "device"
		}
		c.log.Info("refused", "by", by, "reason", string(r.Reason), "detail", r.Detail, "remedy", r.Remedy)
	}
	if len(before) > 0 && len(now) == 0 {
		c.log.Info("nothing is refused any more")
	}
}

// jitter spreads d by a fifth to both sides.
func jitter(d time.Duration) time.Duration {
	return d*4/5 + rand.N(d*2/5+1)
}

// Step does what is due now, once: it enrolls if the server does not know the device, checks, commits a trial that is
// proven, and installs an update. Refusals are in the Result; an Update that is in the Result was staged.
func (c *Client) Step(ctx context.Context) (Result, error) {
	if err := c.lookAtBoot(ctx); err != nil {
		return Result{}, err
	}
	c.settle(ctx)
	if refused, err := c.enrollIfNeeded(ctx); err != nil || refused != nil {
		return Result{Refusals: refused}, err
	}
	r, err := c.Check(ctx)
	if errors.Is(err, ErrNotEnrolled) || (err == nil && (r.Reenroll || unknownKey(r.Refusals))) {
		e, enrollErr := c.Enroll(ctx)
		if enrollErr != nil || e.Lifecycle == "" {
			return Result{Refusals: e.Refusals, Next: r.Next}, enrollErr
		}
		r, err = c.Check(ctx)
	}
	if err != nil {
		return r, err
	}
	if r.Proven {
		refused, err := c.Commit(ctx)
		r.Refusals = append(r.Refusals, refused...)
		return r, err
	}
	if r.Update == nil {
		return r, c.rebootIfStaged(ctx)
	}
	refused, err := r.Update.Install(ctx)
	if refused != nil || err != nil {
		r.Update = nil
	}
	r.Refusals = append(r.Refusals, refused...)
	return r, err
}

// lookAtBoot finds out what runs before anything waits for the server: a boot loader that counts boots is to hear of this
// one, however long the server is away.
func (c *Client) lookAtBoot(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.readRunning(ctx)
	c.keep(ctx)
	return err
}

// enrollIfNeeded enrolls a device that was not yet, or whose counter is gone.
func (c *Client) enrollIfNeeded(ctx context.Context) ([]Refusal, error) {
	c.mu.Lock()
	known := c.state.Enrolled
	c.mu.Unlock()
	_, err := c.cfg.TPM.Counter()
	if err != nil && !errors.Is(err, tpm.ErrNoCounter) {
		return nil, err
	}
	if known && err == nil {
		return nil, nil
	}
	e, err := c.Enroll(ctx)
	if err != nil || e.Lifecycle == "" {
		return e.Refusals, err
	}
	return nil, nil
}

// rebootIfStaged asks again for a restart that did not happen.
func (c *Client) rebootIfStaged(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	j, ok := c.loadJournal()
	if !ok || (j.Step != stepStaged && j.Step != stepRebooting) || c.unsure || c.runs(j) {
		return nil
	}
	return c.reboot(ctx, j)
}

// Probe connects to the server and hangs up: it shows whether the server is there and has a certificate of the trust
// bundle's CA.
func (c *Client) Probe(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, err := c.dialer.open(ctx)
	if err != nil {
		return err
	}
	ch.close()
	return nil
}
