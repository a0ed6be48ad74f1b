// Package quote parses TPM 2.0 attestation structures and checks their signatures.
//
// Parsing is by fixed offsets: total, bounded, no reflection, no allocation beyond slices of the input. Anything that
// a TPM would not write is refused: wrong magic, wrong type, trailing bytes, more than one PCR bank.
//
// It decides nothing about freshness or state; it says what was signed and whether it was signed.
//
// Trusted: an attacker who controls this package can make any bytes look like a quote of any TPM.
package quote

// Clock is the part of TPMS_CLOCK_INFO that continuity looks at (TPM 2.0 Part 2, 10.11.1).
type Clock struct {
	ResetCount   uint32 `json:"reset_count"`
	RestartCount uint32 `json:"restart_count"`
	Clock        uint64 `json:"clock"` // milliseconds
	Safe         bool   `json:"safe"`
}

// After reports whether c is strictly later than last: (resetCount, restartCount, clock) in lexicographic order (V-46).
func (c Clock) After(last Clock) bool {
	if c.ResetCount != last.ResetCount {
		return c.ResetCount > last.ResetCount
	}
	if c.RestartCount != last.RestartCount {
		return c.RestartCount > last.RestartCount
	}
	return c.Clock > last.Clock
}

// SameBoot reports whether c and other were taken between the same two TPM resets and restarts.
func (c Clock) SameBoot(other Clock) bool {
	return c.ResetCount == other.ResetCount && c.RestartCount == other.RestartCount
}
