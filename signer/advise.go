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
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/ceremony"
	"github.com/cordon-ota/cordon/signer/keyless"
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
	{errTimeout, undecided, "run the same command again, with a longer --timeout; an upload continues where it stood"},
	{errNoInstance, usage, "give --signing-config signing_config.json of your Sigstore, or --key publisher.pem; nothing is assumed, because a public log shows the names of repository, workflow and tag to everybody, for good"},
	{keyless.ErrNoTokenGitHub, usage, "give the job 'permissions: id-token: write'; a pull request from a fork never gets a token"},
	{keyless.ErrNoTokenGitLab, usage, "give the job 'id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore'"},
	{keyless.ErrNoToken, usage, "run in a CI that gives identity tokens, give --identity-token-file FILE, or sign with --key publisher.pem"},
	{keyless.ErrTokenExpired, refused, "take a new token right before this command, and check the clock of this machine; GitHub's and GitLab's own tokens need no file"},
	{keyless.ErrTokenEarly, refused, "check the clock of this machine"},
	{keyless.ErrTokenAudience, refused, "ask the CI for a token with the audience that the CA wants (GitLab: aud under id_tokens), or name the other one with --identity-audience"},
	{keyless.ErrTokenEndpoint, undecided, "run the job again; if it stays, check 'permissions: id-token: write' and the status of the CI"},
	{keyless.ErrToken, usage, "give the JWT alone, as the CI made it; SIGSTORE_ID_TOKEN and --identity-token-file hold no other text"},
	{keyless.ErrTokenRefused, refused, "check that the signing config is of the Sigstore whose CA knows this CI as issuer, with the audience of --identity-audience, and that the token is fresh"},
	{keyless.ErrSigningConfig, usage, "give a signing_config.json v0.2 with caUrls, rekorTlogUrls and tsaUrls, all https: the operators of the Sigstore publish it beside their trusted root"},
	{keyless.ErrOwnRoot, usage, "give the trusted_root.json that belongs to the signing config"},
	{keyless.ErrNoPolicy, refused, "check --product; the holders set a policy with 'cordon-sign product set'"},
	{keyless.ErrKeysOnly, refused, "sign with --key, or let the holders add one with issuer and subject: cordon-sign product set"},
	{keyless.ErrNoSigners, refused, "let the holders name baseline signers: [[baseline_signer]] in the policy file, then cordon-sign product set"},
	{keyless.ErrNoTrustedRoot, refused, "let the holders sign it: cordon-sign product trusted-root --file trusted_root.json"},
	{keyless.ErrRepository, refused, "check the clock of this machine and the server's log; its repository does not prove itself"},
	{keyless.ErrRefused, refused, "run the same command again; if it stays, show the message to whoever runs the Sigstore"},
	{keyless.ErrIdentity, refused, "sign from the pipeline that the policy names, or let the holders change the policy: cordon-sign product set"},
	{provenance.ErrTrustedRoot, refused, "let the holders sign a trusted root that can be read: cordon-sign product trusted-root --file trusted_root.json"},
	{keyless.ErrUnavailable, undecided, "check the address in the signing config and the network, then run the same command again"},
	{keyless.ErrService, refused, "read what the service said; its operators see more in its log"},
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
	{reference.ErrUnpredictable, refused, "what is known: a UKI of systemd-stub 252 without the section that the message names, started by the firmware or by systemd-boot 252; a boot by GRUB, described with boot_chain"},
	{reference.ErrNotLoader, usage, "give the systemd-boot that devices start, such as /usr/lib/systemd/boot/efi/systemd-bootx64.efi, signed as on the devices"},
	{reference.ErrInputs, usage, "give each boot loader once, at most 4 of them, or one boot chain"},
	{reference.ErrChain, usage, "describe the boot of a golden machine with 'cordon-sign boot-chain --log FILE'"},
	{eventlog.ErrMalformed, usage, "give the log as the kernel exports it: /sys/kernel/security/tpm0/binary_bios_measurements"},
	{eventlog.ErrFormat, refused, "the machine's firmware must use the SHA-256 bank of its TPM"},
	{publish.ErrChanged, refused, "publish a finished file; something is still writing it"},
	{publish.ErrSpec, usage, "for example --component app=app.efi,hw=board-a,installer=ab"},
	{publish.ErrImage, usage, "check the path and that the file can be read"},
	{publish.ErrSetup, refused, "finish the ceremony first: cordon-sign root init, sign, apply"},
	{ceremony.ErrNoLog, refused, "set one with 'cordon-sign log set --dir DIR'"},
	{tlog.ErrPolicy, usage, "the log's key is the log_key of the server's status; 'cordonctl witness keygen' prints that of a witness"},
	{artifacts.ErrPolicy, usage, "correct the policy; conformance/docs/operations.md describes every key"},
	{artifacts.ErrName, usage, "use 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit"},
	{artifacts.ErrBaseline, usage, "give the file that 'cordonctl baseline learn' or 'cordon-sign baseline new' wrote, byte for byte, or correct the flag that the message names"},
	{provenance.ErrNoStatement, usage, "give the bundle that 'cordon-sign baseline sign' wrote"},
	{artifacts.ErrStatement, usage, "correct the flag that the message names"},
	{digest.ErrMalformed, usage, "give SHA-256 as 64 lower-case hex digits"},
	{api.ErrCA, refused, "compare with the CA SHA-256 that cordond prints when it starts; if they differ, somebody else answers at this address"},
	{api.ErrUnreachable, undecided, "check the address with 'curl -k URL/healthz' and that cordond is running"},
	{api.ErrAnswer, undecided, "check that the address is the admin listener (port 8444) and that cordond is not older than cordon-sign"},
	{reference.ErrMalformed, usage, "a baseline needs PCR 0, 2, 3 and 7 of the SHA-256 bank: tpm2_pcrread sha256:0,2,3,7"},
	{tufrepo.ErrMalformed, refused, "compare the directory with the holders' copies"},
	{syscall.ENOSPC, undecided, "make room on that disk, then run the same command again; files are replaced as a whole or not at all"},
	{syscall.EDQUOT, undecided, "make room on that disk, then run the same command again; files are replaced as a whole or not at all"},
	{syscall.EROFS, undecided, "that file system is read-only: write elsewhere, or mount it writable and run the same command again"},
	{fs.ErrNotExist, usage, "check the path"},
	{fs.ErrPermission, usage, "check who may read or write the path"},
}

// advise returns the exit code and the next step for an error of a command.
func advise(err error) (code int, hint string) {
	var problem *api.Error
	answered := errors.As(err, &problem)
	if next := provenance.NextStep(err.Error()); next != "" && !answered {
		return refused, next // the verifier knows better than a table
	}
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
	case reason.PublisherRefused:
		if next := provenance.NextStep(p.Detail); next != "" {
			return code, next
		}
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
