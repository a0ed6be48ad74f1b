package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// finding is one line of the doctor.
type finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Note  string `json:"note,omitempty"`
	Next  string `json:"next,omitempty"`
}

// patient is what the checks find out for each other.
type patient struct {
	o      *options
	ctx    context.Context
	trust  wire.Trust
	tpm    *tpm.TPM
	report []finding
}

// check is one precondition: what it is called, how it is found out, and what to do when it fails. A check that needs
// an earlier one that failed is left out.
type check struct {
	name string
	next string
	need func(*patient) bool
	run  func(*patient) (note string, err error)
}

func always(*patient) bool       { return true }
func withTPM(p *patient) bool    { return p.tpm != nil }
func withServer(p *patient) bool { return p.tpm != nil && p.trust.Server != "" }

var checks = [...]check{
	{"trust bundle", trustHint, always, (*patient).checkTrust},
	{"state directory", "make it writable for the agent", always, (*patient).checkState},
	{"clock", "set the system clock; a device without one still works once it has verified metadata", always, (*patient).checkClock},
	{"installers", "name what the boot loader uses: --installer " + installer.Kinds, always, (*patient).checkInstallers},
	{"TPM", "check --tpm, the kernel's TPM driver and the permissions of the device", always, (*patient).checkTPM},
	{"endorsement certificate", "the TPM needs its manufacturer's RSA-2048 certificate in NV index 0x01c00002", withTPM, (*patient).checkEK},
	{"TPM lockout", "wait for the lockout to end, or clear it: tpm2_dictionarylockout --clear-lockout", withTPM, (*patient).checkLockout},
	{"SHA-256 PCR bank", "enable the SHA-256 bank in the firmware setup", withTPM, (*patient).checkBank},
	{"event log", "name the log of this boot with --event-log; a log that does not explain the PCRs quarantines the device", withTPM, (*patient).checkLog},
	{"server", "check the network, the name in the trust bundle, and whether its CA is still the server's", withServer, (*patient).checkServer},
}

// doctor runs every check and says what to do about those that fail.
func (o *options) doctor(ctx context.Context) error {
	p := &patient{o: o, ctx: ctx}
	failed := false
	for _, c := range checks {
		if !c.need(p) {
			continue
		}
		note, err := c.run(p)
		f := finding{Check: c.name, OK: err == nil, Note: note}
		if err != nil {
			failed, f.Note, f.Next = true, err.Error(), c.next
		}
		p.report = append(p.report, f)
	}
	if p.tpm != nil {
		o.closeTPM(p.tpm)
	}
	if err := o.print(p.report, func(w io.Writer) { printFindings(w, p.report) }); err != nil {
		return err
	}
	if failed {
		return errRefused
	}
	return nil
}

func printFindings(w io.Writer, report []finding) {
	for _, f := range report {
		mark := "ok  "
		if !f.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(w, "%s  %s", mark, f.Check)
		if f.Note != "" {
			fmt.Fprintf(w, ": %s", f.Note)
		}
		fmt.Fprintln(w)
		if f.Next != "" {
			fmt.Fprintf(w, "      next: %s\n", f.Next)
		}
	}
}

func (p *patient) checkTrust() (string, error) {
	trust, err := p.o.readTrust()
	if err != nil {
		return "", err
	}
	p.trust = trust
	return trust.Server, nil
}

func (p *patient) checkState() (string, error) {
	if p.o.state == "" {
		return "", errors.New("--state is missing")
	}
	if err := os.MkdirAll(p.o.state, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(p.o.state, ".doctor-*")
	if err != nil {
		return "", err
	}
	return p.o.state, errors.Join(f.Close(), os.Remove(f.Name()))
}

// firstDevice is a moment before which no cordon device can run.
var firstDevice = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

func (p *patient) checkClock() (string, error) {
	now := time.Now().UTC()
	if now.Before(firstDevice) {
		return "", fmt.Errorf("it says %s, which is before this software was made", now.Format(time.RFC3339))
	}
	return now.Format(time.RFC3339), nil
}

func (p *patient) checkInstallers() (string, error) {
	if len(p.o.installers) == 0 {
		return "none: the agent proves the boot state and installs nothing", nil
	}
	note := fmt.Sprintf("%d", len(p.o.installers))
	for _, spec := range p.o.installers {
		in, err := installer.Open(spec)
		if err != nil {
			return "", err
		}
		if doctor, ok := in.(installer.Doctor); ok {
			more, err := doctor.Check(p.ctx)
			if err != nil {
				return "", fmt.Errorf("%s: %w", in.Name(), err)
			}
			note += "; " + in.Name() + ": " + more
			continue
		}
		if _, err := in.Running(p.ctx); err != nil {
			return "", fmt.Errorf("%s: %w", in.Name(), err)
		}
	}
	return note, nil
}

func (p *patient) checkTPM() (string, error) {
	t, err := tpm.Open(p.o.tpm)
	if err != nil {
		return "", err
	}
	p.tpm = t
	return p.o.tpm, nil
}

func (p *patient) checkEK() (string, error) {
	id, err := p.tpm.DeviceID()
	note := "device " + id.String()
	if _, missing := p.tpm.EKCertificate(); err == nil && errors.Is(missing, tpm.ErrNoEKCertificate) {
		note += "; it holds no endorsement certificate, so a server admits it only where it is told to, in the lowest tier of a TPM"
	}
	return note, err
}

func (p *patient) checkLockout() (string, error) {
	locked, err := p.tpm.LockedOut()
	if err == nil && locked {
		err = tpm.ErrLockedOut
	}
	return "", err
}

func (p *patient) checkBank() (string, error) { return "", p.tpm.CheckBank() }

// checkLog replays the event log and compares it with the registers of the TPM.
func (p *patient) checkLog() (string, error) {
	b, err := p.o.readEventLog()
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		if p.o.eventLog == "" && strings.HasPrefix(p.o.tpm, "/dev/") {
			return "", fmt.Errorf("there is none at %s: is securityfs mounted?", client.KernelEventLog)
		}
		return "", errors.New("there is none")
	}
	log, err := eventlog.Parse(b)
	if err != nil {
		return "", err
	}
	pcrs, err := p.tpm.PCRs()
	if err != nil {
		return "", err
	}
	replayed := log.Replay()
	for _, pcr := range pcrs {
		want, ok := replayed[pcr.Index]
		if !ok {
			want = eventlog.ResetValue(pcr.Index) // nothing was measured into it
		}
		if pcr.Value != want {
			return "", fmt.Errorf("PCR %d is %s, the log gives %s", pcr.Index, pcr.Value, want)
		}
	}
	return fmt.Sprintf("%d events explain all registers", len(log.Events)), nil
}

func (p *patient) checkServer() (string, error) {
	dir, err := os.MkdirTemp("", "cordon-doctor-*") // the agent's own state is not touched
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	c, err := client.New(client.Config{Trust: p.trust, TPM: p.tpm, StateDir: dir})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	return p.trust.Server, c.Probe(ctx)
}
