package appraise

import "github.com/cordon-ota/cordon/attestation"

// Standards keeps what devices are held to.
type Standards struct{ standards }

// Of is the Standard of in, which name stands for.
func (s *Standards) Of(name string, in attestation.Input) (*attestation.Standard, error) {
	return s.of(name, in)
}

// Kept is how many there are, and their size.
func (s *Standards) Kept() (n, size int) { return len(s.made), s.size }

// The bounds on what is kept.
const (
	MaxStandards     = maxStandards
	MaxStandardBytes = maxStandardBytes
)
