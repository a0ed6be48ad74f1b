//go:build device

package device_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/conformance/device"
)

const back = ", quarantined, recovery only, back after two people"

// tamperScenarios are what somebody does who holds a machine for a while. Each is refused by name, and the machine gets
// nothing but the recovery release until two people let it back.
func tamperScenarios(t *testing.T) []scenario {
	plain := &yard{t: t}
	own := &yard{t: t, ownKeys: true, before: plain}
	return []scenario{
		{"boot entry", "pcr_mismatch in PCR 9 12" + back, plain.written("entry", "init=/bin/sh", loaderConf, bootEntryFile)},
		{"credential beside image", "pcr_mismatch in PCR 9 12" + back, plain.written("addon", "Credentials initrd", slot+".extra.d/shell.cred")},
		{"boot loader", "pcr_mismatch in PCR 4" + back, plain.written("loader", "BOOTX64.EFI", "EFI/BOOT/BOOTX64.EFI")},
		{"initrd backdoored", "pcr_mismatch in PCR 4 9 11" + back, plain.written("initrd", ".initrd", slot)},
		{"event log edited", "eventlog_mismatch in PCR 4 9 11" + back, plain.lyingLog},
		{"kernel command line", "pcr_mismatch in PCR 4 9 11 12, quarantined, recovery only, recovered by itself, back after two people", plain.commandLine},
		{"quotes harvested", "unsent: nonce_unknown, accepted: the answer of that day, transplanted: nonce_unknown, nothing gained", plain.harvested},
		{"TPM swapped", "another device, pending, nothing for it; the first one comes back with its TPM", plain.swapped},
		{"disk cloned", "another device, pending, no certificate, no release; the original undisturbed", plain.cloned},
		{"disk rolled back", "firmware_rolled_back" + back, plain.rolledBack},
		{"Secure Boot off", "secure_boot_off, pcr_mismatch in PCR 7" + back, own.tampered("secure-boot-off", "Secure Boot is off")},
		{"key added to db", "pcr_mismatch in PCR 7" + back, own.tampered("db-key", "intruder")},
		{"image of another signer", "never came up, recovered with the genuine disk", own.foreignImage},
	}
}

// Files of the EFI system partition as it leaves the factory.
const (
	slot       = "EFI/Linux/fw-" + genuineVersion + ".efi"
	loaderConf = "loader/loader.conf"

	bootEntryFile = "loader/entries/acme.conf" // that the factory does not have
)

// tampered is the story of a change to the firmware's settings, while the machine is off: refused, quarantined, and back
// with the genuine disk and settings. A finding says words.
func (y *yard) tampered(change, words string) func(*testing.T, *narrator) string {
	return func(t *testing.T, n *narrator) string {
		v, ctx := y.victim(t, n), patient(t)
		v.tamper(change)
		r := v.boot(ctx)
		r.names(t, words)
		r.changed(t, 7, words)
		v.keep(change, attestation.Refused)
		got := fmt.Sprintf("%v, %s", r, v.repaired(ctx))
		v.returned(ctx)
		return got
	}
}

// written is the story of files that somebody with the rights of root writes into the EFI system partition: refused,
// quarantined, and back when a technician has written the genuine ones. A finding says words.
func (y *yard) written(change, words string, files ...string) func(*testing.T, *narrator) string {
	return func(t *testing.T, n *narrator) string {
		v, ctx := y.running(t, n), patient(t)
		changed := v.factoryCopy()
		what, err := changed.Break(ctx, change)
		must(t, err)
		return v.rewritten(ctx, changed, change, what, words, files...)
	}
}

// rewritten puts files of a tampered machine on the victim, and later those of the factory.
func (v *victim) rewritten(ctx context.Context, changed *device.Machine, name, what, words string, files ...string) string {
	v.t.Helper()
	v.write(ctx, changed, files...)
	v.n.saw("root has written: %s", what)
	must(v.t, v.m.Command(ctx, "restart"))
	r := v.refused(ctx)
	must(v.t, v.m.Command(ctx, "pause")) // so that the technician is faster than the recovery release
	r.names(v.t, words)
	v.keep(name, attestation.Refused)
	v.write(ctx, v.y.factory, files...)
	v.n.saw("a technician has written the genuine files, and restarts the machine")
	must(v.t, v.m.Command(ctx, "restart"))
	got := fmt.Sprintf("%v, %s", r, v.letBack(ctx, genuineRelease, genuineRelease))
	if !v.t.Failed() && !v.changed {
		v.y.genuine = v.m
	}
	return got
}

// lyingLog boots a backdoored image whose agent sends the event log of the genuine boot. The agent and what it runs lie in
// the measured image, so nobody edits the log on a device whose image is genuine but somebody who is root at run time,
// whom no quote shows.
func (y *yard) lyingLog(t *testing.T, n *narrator) string {
	v, ctx := y.running(t, n), patient(t)
	changed := v.factoryCopy()
	arguments := append(device.AgentArguments(), "--installer", "uki:/esp", "--event-log", "/etc/cordon/genuine.log")
	v.intoInitrd(changed, map[string][]byte{
		"etc/backdoor": []byte("open\n"), "etc/cordon/genuine.log": v.genuineLog(), "etc/cordon/agent": []byte(strings.Join(arguments, "\n") + "\n"),
	})
	return v.rewritten(ctx, changed, "lying-log", "a back door in the initial file system, and an agent that sends the event log of the genuine boot", "", slot)
}

// commandLine is the whole road back without a technician: the machine installs the recovery release, proves it, is let
// back by two people, and updates.
func (y *yard) commandLine(t *testing.T, n *narrator) string {
	v, ctx := y.running(t, n), patient(t)
	changed := v.factoryCopy()
	what, err := changed.Break(ctx, "shell")
	must(t, err)
	v.write(ctx, changed, slot)
	n.saw("root has written: %s", what)
	before, err := v.m.Mark()
	must(t, err)
	must(t, v.m.Command(ctx, "restart"))
	r := v.refused(ctx)
	r.names(t, "init=/bin/sh")
	v.keep("shell", attestation.Refused)
	_, err = v.m.Wait(ctx, before, "the boot of the recovery release", func(l device.Line) bool {
		return l.Event != nil && l.Event.Name == "boot" && l.Event.Fields["version"] == recoveryVersion
	})
	must(t, err)
	n.saw("the agent has installed %s and restarted into it", recoveryRelease)
	got := fmt.Sprintf("%v, recovered by itself, %s", r, v.letBack(ctx, recoveryRelease, genuineRelease))
	v.told("boot")
	must(t, v.m.PowerOff(ctx)) // its disk is not that of the factory any more, so the next scenario has another machine
	return got
}

// foreignImage shows what Secure Boot is for: the firmware does not start it, so there is nothing to attest.
func (y *yard) foreignImage(t *testing.T, n *narrator) string {
	v, ctx := y.victim(t, n), patient(t)
	v.tamper("foreign")
	before := v.Seen(v.id)
	must(t, v.m.Start(ctx))
	line, err := v.m.Wait(ctx, 0, "the refusal of the firmware", func(l device.Line) bool {
		return l.Event != nil || strings.Contains(strings.ToLower(l.Text), "access denied") || strings.Contains(strings.ToLower(l.Text), "security violation")
	})
	must(t, err)
	if line.Event != nil {
		return "it booted: " + line.Event.String()
	}
	n.saw("the firmware: %s", strings.TrimSpace(line.Text))
	v.m.PowerCut()
	if after := v.Seen(v.id); after.Quarantine != nil || !after.ProvenAt.Equal(*before.ProvenAt) {
		t.Errorf("the server has heard of it: %+v", after)
	}
	must(t, v.m.Load(v.origin.Dir(), device.Disk))
	must(t, v.m.Start(ctx))
	v.provenAgain(ctx)
	v.returned(ctx)
	return "never came up, recovered with the genuine disk"
}
