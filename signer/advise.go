package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/ceremony"
	"github.com/cordon-ota/cordon/signer/keys"
	"github.com/cordon-ota/cordon/signer/publish"
)

// Exit codes.
const (
	refused   = 1
	usage     = 2
	undecided = 3
)

// advice says for an error how the program ends and what to do next. The first that matches counts.
var advice = [...]struct {
	err  error
	code int
	hint string
}{
	{errUsage, usage, ""},
	{context.Canceled, undecided, "run the same command again; it continues where it stood"},
	{keys.ErrPermission, usage, "make it yours alone: chmod 600 FILE"},
	{keys.ErrExists, refused, "choose another name with --out; a key file is never overwritten"},
	{keys.ErrType, usage, "holders sign with a key of 'cordon-sign keys new --type holder', publishers with one of '--type publisher'"},
	{keys.ErrNotKey, usage, "give a file that 'cordon-sign keys new' wrote: NAME.pem to sign, NAME.pub.pem to name a key"},
	{ceremony.ErrNoCeremony, usage, "start one with 'cordon-sign root init', or give its directory with --dir"},
	{ceremony.ErrExists, refused, "look at it with 'cordon-sign root show --dir DIR', or begin in a new directory"},
	{ceremony.ErrNothing, refused, "nothing waits for a signature; 'cordon-sign product set' or 'cordon-sign root rotate' builds a change"},
	{ceremony.ErrThreshold, refused, "let the missing holders run 'cordon-sign root sign --dir DIR --key THEIRS.pem'"},
	{ceremony.ErrForeign, refused, "use the key of a holder that 'cordon-sign root show' lists; delete signature files that nobody asked for"},
	{ceremony.ErrTampered, refused, "find out who changed the directory; then delete its signatures/, look with 'cordon-sign root show' and let the holders sign again"},
	{ceremony.ErrNoPolicy, refused, "set one with 'cordon-sign product set --dir DIR --policy FILE'"},
	{ceremony.ErrPCRs, usage, "give the output of tpm2_pcrread sha256, or with --from-json that of cordonctl eventlog --json"},
	{ceremony.ErrInvalid, refused, "compare the directory with the holders' copies, or build the change again"},
	{publish.ErrConflict, refused, "choose a new version, or leave --counter away if the message is about it; a published version never changes"},
	{publish.ErrNotUKI, refused, "give the UKI, or add measured=no if the firmware does not measure this image"},
	{reference.ErrUnpredictable, refused, "build the UKI with systemd-stub 252 and without the section that the message names"},
	{publish.ErrChanged, refused, "publish a finished file; something is still writing it"},
	{publish.ErrSpec, usage, "for example --component app=app.efi,hw=board-a,installer=ab"},
	{publish.ErrImage, usage, "check the path and that the file can be read"},
	{publish.ErrSetup, refused, "finish the ceremony first: cordon-sign root init, sign, apply"},
	{artifacts.ErrPolicy, usage, "correct the policy; conformance/docs/operations.md describes every key"},
	{artifacts.ErrName, usage, "use 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit"},
	{artifacts.ErrStatement, usage, "correct the flag that the message names"},
	{digest.ErrMalformed, usage, "give SHA-256 as 64 lower-case hex digits"},
	{api.ErrCA, refused, "compare with the CA SHA-256 that cordond prints when it starts; if they differ, somebody else answers at this address"},
	{api.ErrUnreachable, undecided, "check the address with 'curl -k URL/healthz' and that cordond is running"},
	{api.ErrAnswer, undecided, "check that the address is the admin listener (port 8444) and that cordond is not older than cordon-sign"},
	{reference.ErrMalformed, usage, "a baseline needs PCR 0, 2, 3 and 7 of the SHA-256 bank: tpm2_pcrread sha256:0,2,3,7"},
	{tufrepo.ErrMalformed, refused, "compare the directory with the holders' copies"},
	{fs.ErrNotExist, usage, "check the path"},
	{fs.ErrPermission, usage, "check who may read or write the path"},
}

// advise returns the exit code and the next step for an error of a command.
func advise(err error) (code int, hint string) {
	var problem *api.Error
	answered := errors.As(err, &problem)
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return a.code, a.hint
		}
	}
	if answered {
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
		return code, "the token is unknown: check --token-file; an administrator makes new ones: cordonctl person token"
	case reason.DowngradeRefused:
		return code, "give --counter; the least one that the policy allows is in the message"
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
		return code, "the token's roles do not allow this; publishing needs the role ci"
	}
	return code, ""
}
