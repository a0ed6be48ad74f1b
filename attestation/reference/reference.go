// Package reference holds Reference Values: what a device that boots a release must have measured.
//
// The signer predicts them from the image and signs them with the release; the server predicts them again from the
// stored image and refuses a release whose own differ. So publishing firmware is publishing expectations.
//
// It promises: PredictUKI reads hostile images with bounded work and flat memory; equal values have equal bytes;
// documents are read strictly. It refuses to guess: an image whose measurements it does not know has no prediction,
// because a wrong one would refuse every device that boots it.
//
// Trusted: an attacker who controls this code can make any boot state the expected one.
package reference

import "github.com/cordon-ota/cordon/attestation/digest"

// Version of the Reference Values document that this build writes.
const Version = 1

// MaxBytes bounds a Reference Values document.
const MaxBytes = 256 << 10

// Values are the Reference Values of one image: for each PCR that the image owns, the measurements in order.
type Values struct {
	Version int           `json:"version"`
	Image   digest.SHA256 `json:"image"` // the image that they were predicted from
	Boot    string        `json:"boot"`  // the boot path that they hold for: BootDirectUKI
	PCRs    []PCR         `json:"pcrs"`  // rising index
}

// BootDirectUKI is a UKI that the firmware starts itself, Secure Boot on or off as each measurement says.
const BootDirectUKI = "direct-uki"

// PCR lists the measurements that the image makes into one register, in order, and where they lead.
type PCR struct {
	Index  int           `json:"index"`
	Events []Event       `json:"events"`
	Value  digest.SHA256 `json:"sha256"` // the register after all Events, from 32 zero bytes
}

// Event is one expected measurement.
type Event struct {
	Digest digest.SHA256 `json:"sha256"`
	What   string        `json:"what"` // in plain words, for people only
}

// Baseline holds the PCRs that the platform's own firmware fills. The offline targets role signs it.
type Baseline struct {
	Version int        `json:"version"`
	Profile string     `json:"profile"` // platform profile, as the inventory names it
	PCRs    []Platform `json:"pcrs"`
}

// Platform is the value of one PCR that the platform's firmware owns (0, 2, 3 or 7).
type Platform struct {
	Index int           `json:"index"`
	Value digest.SHA256 `json:"sha256"`
}
