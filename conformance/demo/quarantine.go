package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// tampered is the command line that somebody gives B's kernel: a shell without a password.
const tampered = "console=ttyS0 init=/bin/sh"

// tamper changes B's boot chain behind everybody's back.
func (w *world) tamper(ctx context.Context) (string, error) {
	w.say("Somebody rewrites B's boot slot: the kernel and version of 1.0, but with the command line %q.", tampered)
	evil, err := parts.BuildUKI(ctx, parts.UKISpec{Version: "1.0", Kernel: w.kernels[0], Cmdline: tampered, Out: w.path("evil.efi")})
	if err != nil {
		return "", err
	}
	image, err := os.ReadFile(evil)
	if err != nil {
		return "", err
	}
	slot, err := w.b.machine.Active()
	if err != nil {
		return "", err
	}
	if err := w.b.machine.Tamper(slot, func([]byte) []byte { return image }); err != nil {
		return "", err
	}
	if _, err := w.b.boot(ctx); err != nil {
		return "", err
	}
	s, err := w.b.agent(ctx)
	if err != nil {
		return "", err
	}
	if s.Verdict != "refused" || !s.refused(reason.PCRMismatch, false) {
		return "", fmt.Errorf("device B should be refused for %s, got %s", reason.PCRMismatch, s)
	}
	if s.Staged != product+"/"+recovery || !s.reboot {
		return "", fmt.Errorf("device B should have been given the recovery release alone, got %s", s)
	}
	w.ok("B's agent still runs and polls, but its TPM cannot lie: verdict refused, %s", reason.PCRMismatch)
	return w.namedEvent(ctx)
}

// namedEvent checks that the finding names the event that is wrong, and that B is in quarantine for it.
func (w *world) namedEvent(ctx context.Context) (string, error) {
	out, err := w.must(ctx, "cordonctl", w.by("bob", "why", w.b.id, "--json")...)
	if err != nil {
		return "", err
	}
	var why api.Why
	if err := json.Unmarshal([]byte(out), &why); err != nil {
		return "", fmt.Errorf("cordonctl why printed %q: %w", out, err)
	}
	if why.Verdict == nil || len(why.Verdict.Findings) == 0 {
		return "", errors.New("the server does not say why B was refused")
	}
	w.say("bob asks why, with cordonctl why:")
	named := false
	for _, f := range why.Verdict.Findings {
		if f.Event == nil || f.PCR == nil {
			continue
		}
		w.ok("PCR %d, event %d: %s", *f.PCR, *f.Event, f.Detail)
		named = named || strings.Contains(f.Detail, "command line")
	}
	if !named {
		return "", fmt.Errorf("no finding names the event of the command line: %+v", why.Verdict.Findings)
	}
	q := why.Device.Quarantine
	if q == nil || !has(q.Causes, reason.PCRMismatch) || why.Device.Segment != "restricted" {
		return "", fmt.Errorf("device B should be in quarantine and restricted, got segment %s, quarantine %+v", why.Device.Segment, q)
	}
	w.ok("B is in quarantine since %s, segment %s", q.Since.Format("15:04:05"), why.Device.Segment)
	return "quarantined, event named", nil
}

// recover locks B out of everything but the recovery release and brings it back.
func (w *world) recover(ctx context.Context) (string, error) {
	if err := w.door(ctx); err != nil {
		return "", err
	}
	if err := w.onlyRecovery(); err != nil {
		return "", err
	}
	w.say("B has installed the recovery release, and restarts.")
	if _, err := w.b.boot(ctx); err != nil {
		return "", err
	}
	s, err := w.b.prove(ctx)
	if err != nil {
		return "", err
	}
	if !s.refused(reason.DeviceQuarantined, false) {
		return "", fmt.Errorf("device B should have recovered and still be in quarantine, got %s", s)
	}
	w.ok("B proved gateway/%s over a challenge; quarantine is sticky, so it still gets nothing else: %s", recovery, reason.DeviceQuarantined)
	if err := w.twoPersons(ctx); err != nil {
		return "", err
	}
	if err := w.b.update(ctx, product+"/1.1"); err != nil {
		return "", err
	}
	w.ok("B is offered 1.1 again, installs it and proves it")
	return "back on 1.1", nil
}

// door tries to fetch 1.1 with B's own key.
func (w *world) door(ctx context.Context) error {
	image, err := fileDigest(w.images["1.1"])
	if err != nil {
		return err
	}
	status, problem, err := w.b.fetch(ctx, image)
	if err != nil {
		return err
	}
	if status != http.StatusForbidden || problem.Reason != reason.DeviceQuarantined {
		return fmt.Errorf("the door should refuse B with %s, got %d %s", reason.DeviceQuarantined, status, problem.Reason)
	}
	w.ok("B asks for the bytes of 1.1 with its own TLS key and is refused at the door: %d %s", status, problem.Reason)
	return nil
}

// onlyRecovery reads the director metadata that B got.
func (w *world) onlyRecovery() error {
	docs, err := w.b.director()
	if err != nil {
		return err
	}
	var targets struct {
		Signed struct {
			Targets map[string]struct{} `json:"targets"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(docs.Targets, &targets); err != nil {
		return err
	}
	want := product + "/" + recovery + "/system"
	if _, ok := targets.Signed.Targets[want]; !ok || len(targets.Signed.Targets) != 1 {
		return fmt.Errorf("director metadata should offer B %s alone, got %v", want, targets.Signed.Targets)
	}
	w.ok("the director metadata that was signed for B lists one target: %s", want)
	return nil
}

// twoPersons lets B out of quarantine.
func (w *world) twoPersons(ctx context.Context) error {
	w.say("Nobody lets a device back alone.")
	for _, try := range []struct {
		person string
		refuse reason.Reason
		open   bool
	}{
		{"bob", "", true}, {"bob", reason.SamePerson, true}, {"carol", "", false},
	} {
		r, err := w.run(ctx, "cordonctl", w.by(try.person, "device", "release", w.b.id)...)
		if err != nil {
			return err
		}
		if try.refuse != "" {
			if err := r.says(1, string(try.refuse)); err != nil {
				return err
			}
			w.ok("%s approves again: %s", try.person, try.refuse)
			continue
		}
		if err := r.says(0, ""); err != nil {
			return err
		}
		q, err := w.b.quarantineOf(ctx)
		if err != nil {
			return err
		}
		if (q != nil) != try.open {
			return fmt.Errorf("after the approval of %s the quarantine should be open: %v, got %+v", try.person, try.open, q)
		}
		if try.open {
			w.ok("%s approves: not enough", try.person)
		} else {
			w.ok("%s, a second person, approves: the quarantine ends", try.person)
		}
	}
	return nil
}

// quarantineOf is the open quarantine of a device, nil if there is none.
func (d *device) quarantineOf(ctx context.Context) (*api.Quarantine, error) {
	now, err := d.seen(ctx)
	return now.Quarantine, err
}

// fetch asks the artifact door for an image with the device's own TLS key.
func (d *device) fetch(ctx context.Context, image digest.SHA256) (int, wire.Problem, error) {
	p, err := d.probe(ctx)
	if err != nil {
		return 0, wire.Problem{}, err
	}
	defer p.close()
	a, err := p.send(ctx, http.MethodGet, wire.PathArtifacts+"/"+image.String(), nil)
	return a.status, a.problem(), err
}
