package config

import (
	"regexp"

	"github.com/cordon-ota/cordon/attestation/identity/manufacturer"
)

// Endorsement says which TPMs may enroll, beside those of EKRootsFile.
type Endorsement struct {
	// Manufacturers are TPM manufacturers whose certificates this build ships and that this server is to believe, like
	// ["infineon", "stmicro"]: each of them, and whoever has its keys, then says what a genuine TPM is. Optional: default
	// none, so that nobody is trusted without having been named. ek_roots_file adds to them.
	Manufacturers []string `toml:"manufacturers"`
	// Allow are the only manufacturers whose TPMs are accepted, by the id in their certificates, like ["id:49465800"].
	// Optional: default every one that a trusted root speaks for.
	Allow []string `toml:"allow"`
	// BoundOnly refuses TPMs whose root in ek_roots_file is bound to no manufacturer by a line "Manufacturers: id:..." before
	// it. Default false: such a root speaks for any manufacturer.
	BoundOnly bool `toml:"bound_only"`
	// RefuseExpired refuses EK certificates after their end. Default false: many are never renewed, and it is noted.
	RefuseExpired bool `toml:"refuse_expired"`
	// WithoutCertificate lets TPMs enroll that hold no EK certificate, when the inventory lists them or a one-time token and a
	// person vouch for them. They are of tier 2: nothing but that word says that there is a TPM. Default false.
	WithoutCertificate bool `toml:"without_certificate"`
}

var manufacturerID = regexp.MustCompile(`^id:[0-9A-F]{8}$`)

func (e Endorsement) validate(say func(format string, args ...any)) {
	for _, name := range e.Manufacturers {
		if _, err := manufacturer.RootsOf(name); err != nil {
			say("endorsement.manufacturers: %q is none of %q", name, manufacturer.Names())
		}
	}
	for _, id := range e.Allow {
		if !manufacturerID.MatchString(id) {
			say("endorsement.allow: %q is not a manufacturer like id:49465800", id)
		}
	}
}
