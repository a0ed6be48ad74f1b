package reason

// The closed set. A new reason needs its constant, its row, a vector that triggers it and a line in
// conformance/docs/reasons.md; a test compares them.
const (
	AKNotBound              Reason = "ak_not_bound"
	AKUnknown               Reason = "ak_unknown"
	ApprovalRequired        Reason = "approval_required"
	ArtifactMismatch        Reason = "artifact_mismatch"
	BaselineRefused         Reason = "baseline_refused"
	ClaimMismatch           Reason = "claim_mismatch"
	ComponentRevoked        Reason = "component_revoked"
	Conflict                Reason = "conflict"
	CounterMissing          Reason = "counter_missing"
	CounterRefused          Reason = "counter_refused"
	DevicePending           Reason = "device_pending"
	DeviceQuarantined       Reason = "device_quarantined"
	DeviceRetired           Reason = "device_retired"
	DeviceUnknown           Reason = "device_unknown"
	DeviceUnproven          Reason = "device_unproven"
	DowngradeRefused        Reason = "downgrade_refused"
	EKRevoked               Reason = "ek_revoked"
	EKUntrusted             Reason = "ek_untrusted"
	EnrollTokenRefused      Reason = "enroll_token_refused"
	EventlogMismatch        Reason = "eventlog_mismatch"
	EventlogMissing         Reason = "eventlog_missing"
	EventlogUnexplained     Reason = "eventlog_unexplained"
	EvidenceOverdue         Reason = "evidence_overdue"
	FirmwareRolledBack      Reason = "firmware_rolled_back"
	HardwareIncompatible    Reason = "hardware_incompatible"
	IntermediateRequired    Reason = "intermediate_required"
	Internal                Reason = "internal"
	MetadataExpired         Reason = "metadata_expired"
	MetadataForOtherDevice  Reason = "metadata_for_other_device"
	MetadataInvalid         Reason = "metadata_invalid"
	NonceExpired            Reason = "nonce_expired"
	NonceReused             Reason = "nonce_reused"
	NonceUnknown            Reason = "nonce_unknown"
	NotFound                Reason = "not_found"
	NotInWave               Reason = "not_in_wave"
	PCRBankWeak             Reason = "pcr_bank_weak"
	PCRMismatch             Reason = "pcr_mismatch"
	PermissionDenied        Reason = "permission_denied"
	PolicyMissing           Reason = "policy_missing"
	PublisherRefused        Reason = "publisher_refused"
	QuoteMalformed          Reason = "quote_malformed"
	QuoteSignatureInvalid   Reason = "quote_signature_invalid"
	RateLimited             Reason = "rate_limited"
	RecoveryNotListed       Reason = "recovery_not_listed"
	ReferenceValuesMismatch Reason = "reference_values_mismatch"
	ReleaseConflict         Reason = "release_conflict"
	ReleaseInUse            Reason = "release_in_use"
	ReleaseLost             Reason = "release_lost"
	ReleaseNotOffered       Reason = "release_not_offered"
	ReleaseOnHold           Reason = "release_on_hold"
	ReleaseUnknown          Reason = "release_unknown"
	ReleaseWithdrawn        Reason = "release_withdrawn"
	RequestMalformed        Reason = "request_malformed"
	RequestTooLarge         Reason = "request_too_large"
	RolloutPaused           Reason = "rollout_paused"
	SamePerson              Reason = "same_person"
	SecureBootOff           Reason = "secure_boot_off"
	ServerBusy              Reason = "server_busy"
	ServerUninitialised     Reason = "server_uninitialised"
	StatementMismatch       Reason = "statement_mismatch"
	TierTooLow              Reason = "tier_too_low"
	TokenExpired            Reason = "token_expired"
	TPMLockedOut            Reason = "tpm_locked_out"
	Unauthenticated         Reason = "unauthenticated"
	UpdateOverdue           Reason = "update_overdue"
)

// table is sorted by reason; Lookup searches it.
var table = []Row{
	{AKNotBound, Critical, Retry, "The attestation key is not proven to live in the TPM of the presented EK", "Enroll again with the TPM that holds the key; if somebody rotated the registered key away, two people have it forgotten with 'cordonctl device forget-key'."},
	{AKUnknown, Warning, Retry, "No attestation key is registered for this device", "Enroll the device."},
	{ApprovalRequired, Info, Hold, "The action waits for the approval of other people", "Ask another person to approve it."},
	{ArtifactMismatch, Critical, Hold, "The bytes do not have the signed digest or length", "Fetch again; if it repeats, the store or the network changes bytes."},
	{BaselineRefused, Critical, Hold, "The platform baseline was not signed by a baseline signer that the offline policy names, or one that is as new or newer is there", "Sign the newest statement with a baseline signer of the policy, or change the policy with the offline role."},
	{ClaimMismatch, Warning, Hold, "The device claims to run another release than the one that its quote proves", "Compare 'cordonctl why ID' with the status of its agent; no update is offered until both agree."},
	{ComponentRevoked, Critical, Quarantine, "A component that the device booted has been withdrawn by the offline role", "Boot the recovery release."},
	{Conflict, Info, Retry, "The state changed in between", "Read the current state and try again."},
	{CounterMissing, Warning, Hold, "The device's monotonic release counter is gone from its TPM", "Re-activate the device so that the counter is anchored again."},
	{CounterRefused, Warning, Hold, "The release counter does not fit the product's other releases", "Leave --counter away, or choose one above the highest counter and at most 16 more."},
	{DevicePending, Info, Retry, "The device's TPM is genuine but nobody has claimed it yet", "Add the device id to the inventory: cordonctl device approve ID --product P --hardware-id H --profile NAME."},
	{DeviceQuarantined, Critical, Hold, "The device is in quarantine and may fetch the recovery release only", "Boot the recovery release, prove it, and let two people release the device."},
	{DeviceRetired, Warning, Hold, "The device was retired", "Ask an operator; a retired device gets nothing."},
	{DeviceUnknown, Info, Retry, "No device is enrolled with this key", "Enroll the device."},
	{DeviceUnproven, Info, Retry, "The device has no fresh proof of its boot state", "Poll with a quote over the challenge in the answer."},
	{DowngradeRefused, Warning, Hold, "The release counter is below what the device or the offline policy allows", "Publish a release with a higher counter."},
	{EKRevoked, Critical, Hold, "The TPM is on the deny list of endorsement keys", "Ask an operator why: cordonctl endorsement list. Update the TPM's firmware or replace the device; two people can lift a denial."},
	{EKUntrusted, Warning, Retry, "The endorsement certificate does not chain to a trusted TPM manufacturer", "Trust the manufacturer with 'endorsement.manufacturers' or 'ek_roots_file' after checking its root, or replace the TPM."},
	{EnrollTokenRefused, Info, Retry, "The enrollment token is unknown, used or expired", "Ask an operator for a new one: cordonctl enroll-token new."},
	{EventlogMismatch, Critical, Quarantine, "The event log does not explain the quoted PCR values", "Check the boot chain for a component that measures without logging, then boot the recovery release."},
	{EventlogMissing, Info, Retry, "The event log is needed to judge this quote and was not sent", "Send the log when the answer asks for it."},
	{EventlogUnexplained, Warning, Hold, "The event log has something that PC Client firmware does not write, or lacks what it does", "Look at the named event with 'cordonctl eventlog'; ask the maker of the firmware, or take the platform out of service."},
	{EvidenceOverdue, Warning, Hold, "The device has not proven its boot state within its lease and grace", "Let the device poll; it heals by itself with one fresh quote."},
	{FirmwareRolledBack, Critical, Quarantine, "The device booted an older release than the one it had proven", "Boot the recovery release; check who could write the boot slots."},
	{HardwareIncompatible, Warning, Hold, "The release is not meant for this hardware", "Publish a component for this hardware id."},
	{IntermediateRequired, Info, Hold, "The device must install an earlier release first", "Nothing to do: the earlier release is offered first if it is published."},
	{Internal, Critical, Retry, "The server could not decide", "Look for the request id in the server's log."},
	{MetadataExpired, Warning, Retry, "Signed metadata has expired or is older than what was seen before", "Poll again; if it repeats, the repository is not being re-signed or somebody replays old metadata."},
	{MetadataForOtherDevice, Critical, Hold, "The director metadata names another device", "Treat it as a replay until shown otherwise."},
	{MetadataInvalid, Critical, Hold, "Signed metadata does not verify", "Treat it as an attack on the repository or the network until shown otherwise."},
	{NonceExpired, Info, Retry, "The challenge or beacon of this quote is too old", "Poll again and quote over the newest challenge in the answer."},
	{NonceReused, Warning, Retry, "The TPM clock did not advance since the last accepted quote", "Make a new quote; if this repeats, look for a second device that uses the same TPM."},
	{NonceUnknown, Warning, Retry, "The quote is bound to a challenge or beacon this server did not issue", "Poll again and quote over the newest challenge in the answer."},
	{NotFound, Info, Retry, "There is nothing by this name", "Check the name."},
	{NotInWave, Info, Hold, "The device's wave has not started yet", "Wait for the wave to start."},
	{PCRBankWeak, Warning, Hold, "The quote does not cover the required PCRs in the SHA-256 bank", "Enable the SHA-256 bank in the firmware and quote every PCR the policy names."},
	{PCRMismatch, Critical, Quarantine, "The device booted something that no Reference Value of its releases allows", "Compare the named event with the release, then boot the recovery release."},
	{PermissionDenied, Warning, Retry, "The caller's roles do not allow this", "Ask an administrator for a role with that permission; 'cordonctl person list' shows who has which role."},
	{PolicyMissing, Warning, Hold, "The offline targets role has signed no policy for this product, or no baseline for this profile", "Run 'cordon-sign product set' or 'cordon-sign product baseline' and let the holders sign; where the policy names baseline signers, 'cordonctl baseline learn' begins one that they sign."},
	{PublisherRefused, Critical, Hold, "The bundle was not signed by a publisher that the offline policy names", "Sign with a publisher of the policy, or change the policy with the offline role."},
	{QuoteMalformed, Warning, Retry, "The quote or its wrapping cannot be parsed", "Update the client library; a current one never sends this."},
	{QuoteSignatureInvalid, Warning, Retry, "The signature of the quote does not verify with the registered attestation key", "Enroll again if the TPM was cleared; if somebody rotated the device's key away, two people have it forgotten with 'cordonctl device forget-key'; otherwise treat it as an attempt to impersonate the device."},
	{RateLimited, Info, Retry, "Too many requests", "Wait for the time in Retry-After."},
	{RecoveryNotListed, Warning, Hold, "The release calls itself a recovery release and the offline policy does not list its image", "List the image with 'cordon-sign product recovery' and let the holders sign."},
	{ReferenceValuesMismatch, Critical, Hold, "The Reference Values in the release are not those predicted from its image", "Publish with a current cordon-sign."},
	{ReleaseConflict, Warning, Hold, "This version is published already with other bytes", "Choose a new version; a published version never changes."},
	{ReleaseInUse, Warning, Hold, "Something may still need the images of this release", "Move or retire the devices that need it; 'cordonctl release gc' says why each release is kept."},
	{ReleaseLost, Warning, Hold, "The device may run a release that the server lost when it was restored from a backup", "Publish again every release that is newer than the backup."},
	{ReleaseNotOffered, Info, Retry, "The release is not offered to this device now", "Poll: the director metadata in the answer names what the device may have."},
	{ReleaseOnHold, Warning, Hold, "An operator holds this release", "Resume the release, or publish a new one."},
	{ReleaseUnknown, Info, Retry, "No such release is published", "Check the product and version."},
	{ReleaseWithdrawn, Critical, Hold, "The release was withdrawn by the offline role", "Publish a new release."},
	{RequestMalformed, Info, Retry, "The request cannot be understood", "Compare it with the API description."},
	{RequestTooLarge, Info, Retry, "The request is larger than this route allows", "Send less."},
	{RolloutPaused, Info, Hold, "The rollout of this release is paused", "Wait, or resume the rollout."},
	{SamePerson, Warning, Retry, "The same person cannot approve twice, nor approve an own request", "Ask a second person."},
	{SecureBootOff, Critical, Quarantine, "The policy asks for Secure Boot and the device booted without it", "Turn Secure Boot on in the firmware setup and boot the recovery release."},
	{ServerBusy, Warning, Retry, "The server cannot take this now", "Try again after the time in Retry-After."},
	{ServerUninitialised, Info, Retry, "The server has no signed root yet", "Run 'cordon-sign root init' and the ceremony."},
	{StatementMismatch, Critical, Hold, "The release statement and the TUF metadata disagree", "Publish again with cordon-sign; do not edit metadata by hand."},
	{TierTooLow, Warning, Hold, "The device's proof of identity is weaker than the release asks for", "Enroll the device in a stronger way, or lower the minimum tier with the offline role."},
	{TokenExpired, Info, Retry, "The token has expired", "Ask an administrator for a new one: cordonctl person token."},
	{TPMLockedOut, Warning, Retry, "The TPM is in dictionary-attack lockout", "Wait for the lockout to end, or clear it with tpm2_dictionarylockout."},
	{Unauthenticated, Info, Retry, "The caller did not prove who it is", "Send a valid token or client certificate."},
	{UpdateOverdue, Warning, Hold, "The device did not boot the offered release before the deadline", "Look at the device's boot report."},
}
