package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/mirror"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/ctl/witness"
	"github.com/cordon-ota/cordon/client/wire"
)

// Exit codes.
const (
	refused   = 1
	usage     = 2
	undecided = 3
)

// Errors that decide how the program ends.
var (
	errFailed      = errors.New("verification failed")
	errUndecided   = errors.New("a part could not be checked")
	errNoTrust     = errors.New("there is no trust bundle to verify against")
	errDiffers     = errors.New("the verdict differs")
	errOtherPolicy = errors.New("that policy gives another verdict than the recorded one")
	errInput       = errors.New("the file cannot be used")

	errNothingExpected = errors.New("under that policy the server expects no release of the device any more (policy_missing)")
	errUninitialised   = errors.New("the server is not initialised")
)

// advice says for an error how the program ends and what to do next. The first that matches counts.
var advice = [...]struct {
	err  error
	code int
	hint string
}{
	{errFailed, refused, "do not rely on this report; get it again from the server, byte for byte, and ask its operators about the steps that failed"},
	{errUndecided, undecided, "what could be checked is in order; the list above says what is missing"},
	{errNoTrust, undecided, "give --trust FILE, the trust bundle that 'cordonctl provision' wrote, from a place that the server cannot write to"},
	{errDiffers, refused, "the recorded verdict does not follow from its Evidence; get a report of that time and run 'cordonctl verify' for all of it"},
	{errOtherPolicy, refused, "nothing was changed; without --policy the recorded verdict is reached again"},
	{errNothingExpected, undecided, "publish a release that the policy does not withdraw before the holders sign it: until then the server would have nothing to hold the device against, and give it no update"},
	{errInput, usage, "give the JSON of an Input with its event log, as the pages on verdicts and test vectors describe, or of a policy"},
	{errUninitialised, undecided, "finish the ceremony first: cordon-sign root init, sign, apply"},
	{errRewritten, refused, "keep the checkpoints and the mirror as they are: they prove it; ask the server's operators and the witnesses what happened"},
	{errNoLogPolicy, undecided, "the holders name the log with 'cordon-sign log set'; without it nobody can tell a rewritten log from the true one"},
	{mirror.ErrOld, refused, "give a checkpoint of this log, byte for byte; one that another key signed proves nothing. A new log, as after a restore, needs a new --out and --mirror"},
	{mirror.ErrCopy, undecided, "begin with a new --mirror directory, and keep the damaged one for a look"},
	{tlog.ErrCheckpoint, refused, "the server shows a log that the offline role did not name; ask its operators and the holders of the keys: after a restore they name the new one"},
	{tlog.ErrKey, usage, "a key is one line NAME+HASH+KEY; the server's log key is in its status, 'cordonctl witness keygen' prints a witness's"},
	{witness.ErrKey, usage, "make one with 'cordonctl witness keygen'"},
	{witness.ErrState, undecided, "one process uses a state directory at a time; never put an older copy of it back: begin with a new key instead"},
	{errDisagree, refused, "look at the devices that differ and leave those out by name that must not count: --exclude; or wait until more devices have polled, or ask for fewer with --devices"},
	{artifacts.ErrBaseline, undecided, "check that cordond is not older than cordonctl"},
	{errUnsigned, usage, "a baseline signer signs it first: cordon-sign baseline sign FILE --key SIGNER.pem --out BUNDLE; upload the bundle"},
	{provenance.ErrNoStatement, usage, "give the bundle that 'cordon-sign baseline sign' wrote"},
	{errExists, refused, "choose another name, or give --force where the command has it"},
	{errLarge, usage, "no file of the kind that this command reads is so large: check the path"},
	{errConfig, usage, "the keys are server, ca and token"},
	{errUsage, usage, ""},
	{verify.ErrFormat, refused, "give the file that 'cordonctl report --out' wrote, byte for byte"},
	{wire.ErrTrust, usage, "give the file that 'cordonctl provision' wrote"},
	{identity.ErrDeviceID, usage, "'cordonctl device list' shows the ids"},
	{eventlog.ErrFormat, refused, "the firmware has to write a log with SHA-256 digests; look for TPM 2.0 in its setup"},
	{eventlog.ErrMalformed, refused, "on Linux the log is /sys/kernel/security/tpm0/binary_bios_measurements"},
	{eventlog.ErrTooLarge, refused, "on Linux the log is /sys/kernel/security/tpm0/binary_bios_measurements"},
	{attestation.ErrUndecidable, undecided, "the stored Input is incomplete; run 'cordonctl verify' for the whole report"},
	{context.Canceled, undecided, "run the same command again"},
	{digest.ErrMalformed, usage, "give SHA-256 as 64 lower-case hex digits"},
	{api.ErrCA, refused, "compare with the CA SHA-256 that cordond prints when it starts; if they differ, somebody else answers at this address"},
	{api.ErrUnreachable, undecided, "check the address with 'curl -k URL/healthz' and that cordond is running"},
	{api.ErrAnswer, undecided, "check that the address is the admin listener (port 8444) and that cordond is not older than cordonctl"},
	{tufrepo.ErrSignature, refused, "the server shows roots that do not follow from each other; compare with the holders' copies"},
	{syscall.ENOSPC, undecided, "make room on that disk, then run the same command again; files are replaced as a whole or not at all"},
	{syscall.EDQUOT, undecided, "make room on that disk, then run the same command again; files are replaced as a whole or not at all"},
	{syscall.EROFS, undecided, "that file system is read-only: write elsewhere, or mount it writable and run the same command again"},
	{fs.ErrNotExist, usage, "check the path"},
	{fs.ErrPermission, usage, "check who may read or write the path"},
}

// advise returns the exit code and the next step for an error of a command.
func advise(err error) (code int, hint string) {
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return a.code, a.hint
		}
	}
	var problem *api.Error
	if errors.As(err, &problem) {
		return adviseProblem(problem)
	}
	return undecided, ""
}

func adviseProblem(p *api.Error) (int, string) {
	code := refused
	if p.Status >= 500 || p.Status == http.StatusTooManyRequests {
		code = undecided
	}
	// The server's remedies are for every program; these name the flags of this one.
	switch p.Reason {
	case reason.Unauthenticated:
		return code, "the token is unknown: check --token-file; the one-time token ends with the second person; an administrator makes new ones: cordonctl person token"
	case reason.PermissionDenied:
		return code, "ask somebody whose role may; 'cordonctl person list' shows the roles"
	case reason.RequestMalformed:
		return code, "correct the flag or argument that the message names; see --help of the command"
	case reason.NotFound:
		return code, "check the name, and that the address is the admin listener (port 8444)"
	}
	if p.Next != "" {
		return code, p.Next
	}
	if row, ok := reason.Lookup(p.Reason); ok {
		return code, row.Remedy
	}
	switch p.Status {
	case http.StatusUnauthorized:
		return code, "the token is unknown or has expired; ask an administrator for a new one: cordonctl person token"
	case http.StatusForbidden:
		return code, "your roles do not allow this; 'cordonctl person list' shows who may"
	}
	return code, ""
}
