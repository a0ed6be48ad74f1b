package attestation

// stage orders the rules: a stage is judged only when the one before it found nothing, but what stageBoot finds does not
// keep stageState from being judged.
type stage int

const (
	stageInput     stage = iota // is the verifier's own side complete? What fails here is an error
	stageAuthentic              // is the Evidence authentic and fresh? Reasons with the effect retry or hold only
	stageBoot                   // did anything change behind the firmware's back? May quarantine
	stageState                  // what did the device boot? May quarantine
)

// rule is one row of the table that Appraise follows. A row without an id prepares what later rows look at; it refuses
// nothing.
type rule struct {
	id    string // stable: tests and documents name it
	stage stage
	about string                // what must hold, in plain words
	check func(*appraisal) bool // records what is wrong; false ends the stage: what follows would mean nothing
}

// rules is everything that Appraise asks, in this order. Nothing changes it. A test appraises with copies that lack
// one row each and demands that a vector notices.
var rules = [...]rule{
	{"input-purpose", stageInput, "the purpose of the quote is known", (*appraisal).inputPurpose},
	{"input-nonce", stageInput, "the nonce is long enough that nobody guesses it", (*appraisal).inputNonce},
	{"input-device", stageInput, "the binding names a device", (*appraisal).inputDevice},
	{"input-exporter", stageInput, "the binding holds a whole TLS exporter", (*appraisal).inputExporter},
	{"input-policy", stageInput, "the policy requires at least one PCR", (*appraisal).inputPolicy},
	{"input-baseline", stageInput, "the platform has a baseline", (*appraisal).inputBaseline},
	{"input-expected", stageInput, "at least one release is expected", (*appraisal).inputExpected},
	{"input-platform", stageInput, "the baseline names PCRs 0, 2, 3 and 7", (*appraisal).inputPlatform},
	{"input-values", stageInput, "every release has a name and Reference Values", (*appraisal).inputValues},
	{"input-registers", stageInput, "every required PCR exists", (*appraisal).inputRegisters},
	{"", stageInput, "", (*appraisal).prepareRequired},

	{"evidence-version", stageAuthentic, "the Evidence has a known version", form(checkVersion)},
	{"evidence-size", stageAuthentic, "quote, signature and log keep their limits", form(checkSizes)},
	{"evidence-fields", stageAuthentic, "quote, signature and log digest are there", form(checkFields)},
	{"evidence-registers", stageAuthentic, "PCR values are there", form(checkRegisters)},
	{"evidence-order", stageAuthentic, "the PCR indexes exist and rise", form(checkOrder)},
	{"ak-registered", stageAuthentic, "an attestation key is registered for the device", (*appraisal).keyRegistered},
	{"", stageAuthentic, "", (*appraisal).prepareKey},
	{"ak-kind", stageAuthentic, "the registered key is of the accepted kind", (*appraisal).keyKind},
	{"ak-readable", stageAuthentic, "the registered key is not damaged", (*appraisal).keyReadable},
	{"ak-attributes", stageAuthentic, "the registered key signs only what its TPM generated", (*appraisal).keyAttributes},
	{"ak-hierarchy", stageAuthentic, "the registered key is a primary key of the endorsement hierarchy", (*appraisal).keyHierarchy},
	{"", stageAuthentic, "", (*appraisal).prepareQuote},
	{"quote-form", stageAuthentic, "the quote is exactly what a TPM writes", (*appraisal).quoteForm},
	{"quote-signature", stageAuthentic, "the registered key signed the quote", (*appraisal).quoteSignature},
	{"quote-signer", stageAuthentic, "the quote names the place in the TPM that was admitted", (*appraisal).quoteSigner},
	{"quote-transcript", stageAuthentic, "the quote commits to this challenge, device, connection and these claims", (*appraisal).quoteTranscript},
	{"quote-log", stageAuthentic, "the transcript commits to the event log of this Evidence", (*appraisal).quoteLog},
	{"clock-safe", stageAuthentic, "the TPM's clock cannot have gone back unseen", (*appraisal).clockSafe},
	{"clock-advances", stageAuthentic, "the TPM's clock is later than that of the last accepted quote", (*appraisal).clockAdvances},
	{"quote-bank", stageAuthentic, "the quote covers exactly the SHA-256 bank", (*appraisal).quoteBank},
	{"pcr-required", stageAuthentic, "every PCR that the decision depends on was quoted", (*appraisal).pcrRequired},
	{"pcr-listed", stageAuthentic, "the listed PCRs are those that were quoted", (*appraisal).pcrListed},
	{"pcr-digest", stageAuthentic, "the listed PCR values are those that were quoted", (*appraisal).pcrDigest},
	{"pcr-extended", stageAuthentic, "the firmware has measured into each of its PCRs", (*appraisal).pcrExtended},

	{"boot-constant", stageBoot, "no boot PCR changed within one boot", (*appraisal).bootConstant},

	{"log-present", stageState, "the verifier has the event log", (*appraisal).logPresent},
	{"log-size", stageState, "the event log keeps its limit", (*appraisal).logSize},
	{"log-digest", stageState, "the event log is the one that the quote commits to", (*appraisal).logDigest},
	{"", stageState, "", (*appraisal).prepareLog},
	{"log-form", stageState, "the event log is well-formed and has SHA-256 digests", (*appraisal).logForm},
	{"log-replay", stageState, "the events of each quoted PCR lead to the quoted value", (*appraisal).logReplay},
	{"log-closure", stageState, "a quoted PCR without events holds its reset value", (*appraisal).logClosure},
	{"log-grammar", stageState, "the event log contradicts neither itself nor the specification", (*appraisal).logGrammar},
	{"", stageState, "", (*appraisal).onlyExplained},
	{"log-profile", stageState, "the event log is one that PC Client firmware writes", (*appraisal).logProfile},
	{"secure-boot", stageState, "Secure Boot is on, if the policy asks for it", (*appraisal).secureBoot},
	{"revoked", stageState, "no withdrawn component was booted", (*appraisal).revoked},
	{"baseline", stageState, "the platform's firmware is that of the baseline", (*appraisal).baseline},
	{"", stageState, "", (*appraisal).prepareMatch},
	{"rolled-back", stageState, "a release that the device has left is called by its name", (*appraisal).rolledBack},
	{"expected", stageState, "the device booted one of the expected releases", (*appraisal).expected},
}

// run judges one stage and reports whether it was passed: judged to its end, and nothing found wrong. A stage that ended
// early is never passed, whatever was recorded.
func (a *appraisal) run(rules []rule, s stage) bool {
	for _, r := range rules {
		if r.stage == s && !r.check(a) {
			return false
		}
	}
	return len(a.findings) == 0
}
