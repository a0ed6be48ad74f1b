// Package reference holds Reference Values: what a device that boots a release must have measured.
//
// The signer predicts them from the image and signs them with the release; the server predicts them again from the
// stored image and refuses a release whose own differ. So publishing firmware is publishing expectations.
//
// It promises: PredictUKI and Predict read hostile images with bounded work and flat memory; equal values have equal bytes;
// documents are read strictly. It refuses to guess: an image whose measurements it does not know has no prediction,
// because a wrong one would refuse every device that boots it.
//
// Trusted: an attacker who controls this code can make any boot state the expected one.
package reference

import "github.com/cordon-ota/cordon/attestation/digest"

// Versions of the Reference Values document. Version 1 knows one way to boot an image, VersionShapes several; both are
// read, and each keeps its bytes. Version is also that of a Baseline.
const (
	Version       = 1
	VersionShapes = 2
)

// MaxBytes bounds a Reference Values document.
const MaxBytes = 256 << 10

// Values are the Reference Values of one image: for each PCR that the image owns, the measurements in order.
type Values struct {
	Version int           `json:"version"`
	Image   digest.SHA256 `json:"image"`            // the image that they were predicted from
	Boot    string        `json:"boot"`             // the boot path that they hold for: BootDirectUKI, BootSystemdBoot or BootChain
	PCRs    []PCR         `json:"pcrs"`             // rising index; of the first Shape where there are Shapes
	Inputs  []Input       `json:"inputs,omitempty"` // VersionShapes: the files beside the image that they were predicted from
	Shapes  []Shape       `json:"shapes,omitempty"` // VersionShapes: the ways to boot the image; a device must be in one as a whole
}

// Boot paths.
const (
	BootDirectUKI   = "direct-uki"   // the firmware starts the UKI itself; version 1: with Secure Boot off
	BootSystemdBoot = "systemd-boot" // the firmware starts systemd-boot, and that starts the UKI
	BootChain       = "boot-chain"   // what a Chain describes: GRUB, with or without shim
)

// Input is a file beside the image that decides what a device measures. It lies in the artifact store like the image.
type Input struct {
	Kind    string        `json:"kind"` // InputLoader or InputChain
	SHA256  digest.SHA256 `json:"sha256"`
	Length  int64         `json:"length"`
	Program digest.SHA256 `json:"program,omitzero"` // InputLoader: the Authenticode digest that the firmware measures
	What    string        `json:"what"`             // in plain words: "systemd-boot 252.39-1"
}

// Kinds of Input.
const (
	InputLoader = "loader"
	InputChain  = "chain"
)

// Shape is one way to boot the image.
type Shape struct {
	What       string `json:"what"`        // in plain words, for people only
	SecureBoot bool   `json:"secure_boot"` // it is taken when Secure Boot is on, and not when it is off
	PCRs       []PCR  `json:"pcrs"`        // those that hold something else than Values.PCRs; rising index
}

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
