package installer

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
)

// RAUC hands verified bundles to RAUC, which writes them to the slots that do not run and tells the boot loader. The
// image of a release is the bundle; RAUC checks its own signature on it besides. The RAUC service must run.
//
// RAUC says which slot was booted. Which bundle that slot has is remembered beside the bundle; of a slot that was filled
// otherwise the digest is zero.
type RAUC struct {
	rauc  tool
	spool spool
}

// openRAUC makes the installer of "DIR[,conf=FILE][,program=FILE]".
func openRAUC(arg string) (*RAUC, error) {
	dir, options, err := cutOptions(arg, "conf", "program")
	if err != nil {
		return nil, err
	}
	program := options["program"]
	if program == "" {
		program = "rauc"
	}
	t, err := findTool(program)
	if err != nil {
		return nil, err
	}
	t.cause = raucCause
	if conf := options["conf"]; conf != "" {
		t.args = []string{"--conf=" + conf}
	}
	s, err := openSpool(dir)
	if err != nil {
		return nil, err
	}
	return &RAUC{rauc: t, spool: s}, nil
}

// Name returns "rauc".
func (r *RAUC) Name() string { return "rauc" }

// Prepare opens the file of the bundle.
func (r *RAUC) Prepare(ctx context.Context, image Image) (Slot, error) {
	slot, err := r.booted(ctx)
	if err == nil && r.spool.read().trial(slot) {
		err = ErrBusy
	}
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	f, err := r.spool.open(image)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare slot: %w", err)
	}
	return f, nil
}

// Activate lets RAUC install the bundle; RAUC then names the slot for the next boot.
func (r *RAUC) Activate(ctx context.Context, image Image) error {
	if err := r.activate(ctx, image); err != nil {
		return fmt.Errorf("cannot activate bundle: %w", err)
	}
	return nil
}

func (r *RAUC) activate(ctx context.Context, image Image) error {
	slot, err := r.booted(ctx)
	if err != nil {
		return err
	}
	l := r.spool.read()
	if l.trial(slot) {
		return ErrBusy
	}
	if err := r.spool.cut(image); err != nil {
		return err
	}
	if err := r.spool.write(l.begin(slot, image)); err != nil {
		return err
	}
	_, err = r.rauc.ask(ctx, workTimeout, nil, "install", r.spool.bundle())
	if ended(err) && !says(err, []string{raucCause}) {
		err = fmt.Errorf("%w: %w", errUntold, err)
	}
	return r.spool.refused(err, raucRefusals, l)
}

// raucCause begins the line in which RAUC's program says why an installation failed. The program ends when it hears that there
// is an end, and may do so before it hears why: then nobody knows, and a full disk must not count as an image that fails.
const raucCause = "LastError: "

var errUntold = errors.New("RAUC did not say why")

// raucRefusals are what RAUC says of a bundle that it will never install.
var raucRefusals = []string{"signature verification failed", "Invalid bundle", "Compatible mismatch"}

// Running asks RAUC which slot was booted.
func (r *RAUC) Running(ctx context.Context) (Boot, error) {
	slot, err := r.booted(ctx)
	if err != nil {
		return Boot{}, fmt.Errorf("cannot find running slot: %w", err)
	}
	l := r.spool.read()
	b := l.runs(slot)
	return Boot{Slot: slot, Trial: l.trial(slot), SHA256: b.SHA256, Length: b.Length}, nil
}

// Keep marks the running slot as good again, unless it has something that was never proven: RAUC's boot loaders count every
// boot.
func (r *RAUC) Keep(ctx context.Context) error {
	slot, err := r.booted(ctx)
	if err == nil && !r.spool.read().unproven(slot) {
		err = r.mark(ctx, "mark-good", "booted")
	}
	if err != nil {
		return fmt.Errorf("cannot keep slot: %w", err)
	}
	return nil
}

// Commit marks the running slot as good and removes the bundle.
func (r *RAUC) Commit(ctx context.Context) error {
	slot, err := r.booted(ctx)
	if err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	l := r.spool.read()
	if !l.trial(slot) {
		return nil
	}
	if err := r.mark(ctx, "mark-good", "booted"); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	if err := errors.Join(r.spool.write(l.proven(slot)), r.spool.drop()); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

// Rollback makes the slot that ran before the one that boots by default.
func (r *RAUC) Rollback(ctx context.Context) error {
	slot, err := r.booted(ctx)
	if err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	l := r.spool.read()
	if l.Next == nil {
		return nil
	}
	stays := "booted"
	if l.trial(slot) {
		stays = "other"
	}
	// A boot loader that counts tries starts a slot that was made active on trial again: it is known to be good.
	if err := errors.Join(r.mark(ctx, "mark-active", stays), r.mark(ctx, "mark-good", stays)); err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	if stays == "other" { // the trial goes on until the next boot
		return nil
	}
	if err := errors.Join(r.spool.write(l.abandoned()), r.spool.drop()); err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	return nil
}

func (r *RAUC) mark(ctx context.Context, what, which string) error {
	_, err := r.rauc.ask(ctx, askTimeout, nil, "status", what, which)
	return err
}

// errNoService is returned when RAUC answers without knowing the system.
var errNoService = errors.New("RAUC does not say which slot was booted: is its service running?")

// booted is the boot name of the running slot.
func (r *RAUC) booted(ctx context.Context) (string, error) {
	b, err := r.rauc.ask(ctx, askTimeout, nil, "status", "--output-format=json")
	if err != nil {
		return "", err
	}
	return decodeRAUC(b)
}

// decodeRAUC reads the status that RAUC prints. Versions of RAUC add members, so unknown ones are passed over.
func decodeRAUC(b []byte) (string, error) {
	var status struct {
		Compatible string `json:"compatible"`
		Booted     string `json:"booted"`
	}
	if err := json.Unmarshal(b, &status); err != nil {
		return "", fmt.Errorf("cannot read the status of RAUC: %w", err)
	}
	if status.Compatible == "" || status.Booted == "" || len(status.Booted) > maxSlotName {
		return "", errNoService
	}
	return status.Booted, nil
}
