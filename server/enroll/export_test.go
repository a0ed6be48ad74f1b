package enroll

import "github.com/cordon-ota/cordon/attestation"

// CheckLog refuses an event log that cannot be kept.
func CheckLog(e attestation.Evidence) error {
	_, err := checkLog(e)
	return err
}
