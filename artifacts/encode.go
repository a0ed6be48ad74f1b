package artifacts

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
)

// Limits inside a statement or a policy, on top of those in artifacts.go.
const (
	MaxCounter        = 1<<53 - 1 // the largest integer that every JSON reader keeps exact
	MaxTier           = 5
	MaxDeltas         = 64        // per component
	MaxReferenceBytes = 256 << 10 // one Reference Values document
	MaxPublishers     = 64
	MaxApprovals      = 4
	MaxPolicyDigests  = 2048 // withdrawn and recovery, each
	MaxCustomBytes    = 16 << 10
)

// ErrPolicy is returned for a policy that is not well formed; such a policy decides nothing.
var ErrPolicy = errors.New("offline policy is not valid")

// ErrCustom is returned for a TUF custom object that is not exactly a Custom.
var ErrCustom = errors.New("custom object of the target is not valid")

// Encode writes the one byte form of a valid statement: the same statement always gives the same bytes, so that
// independent rebuilds sign the same payload. It returns ErrStatement for a statement that DecodeStatement would refuse.
func (s Statement) Encode() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	b, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if len(b) > MaxStatementBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrStatement, len(b), MaxStatementBytes)
	}
	return b, nil
}

// DecodeStatement reads a statement. It returns ErrStatement for anything but the bytes that Encode writes for a valid
// statement: there is one byte form only, so no two readers can see two meanings.
func DecodeStatement(b []byte) (Statement, error) {
	var s Statement
	if err := decodeStrict(b, MaxStatementBytes, &s); err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	canonical, err := s.Encode()
	if err != nil {
		return Statement{}, err
	}
	if !bytes.Equal(b, canonical) {
		return Statement{}, fmt.Errorf("%w: its bytes are not in the form that cordon-sign writes", ErrStatement)
	}
	return s, nil
}

// Encode writes the policy. It returns ErrPolicy for a policy that DecodePolicy would refuse.
func (p Policy) Encode() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(p, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if len(b) > MaxPolicyBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrPolicy, len(b), MaxPolicyBytes)
	}
	return b, nil
}

// DecodePolicy reads a policy strictly: unknown or repeated members, trailing bytes and every rule that Validate holds
// give ErrPolicy.
func DecodePolicy(b []byte) (Policy, error) {
	var p Policy
	if err := decodeStrict(b, MaxPolicyBytes, &p); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// Encode writes the custom object. It returns ErrCustom for one that DecodeCustom would refuse.
func (c Custom) Encode() ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCustom, err)
	}
	b, err := json.Marshal(c, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCustom, err)
	}
	return b, nil
}

// DecodeCustom reads the custom object of a TUF target strictly; it returns ErrCustom for anything else.
func DecodeCustom(b []byte) (Custom, error) {
	var c Custom
	if err := decodeStrict(b, MaxCustomBytes, &c); err != nil {
		return Custom{}, fmt.Errorf("%w: %w", ErrCustom, err)
	}
	if err := c.validate(); err != nil {
		return Custom{}, fmt.Errorf("%w: %w", ErrCustom, err)
	}
	return c, nil
}

// decodeStrict refuses unknown and repeated members, other letter case, trailing bytes and more than limit bytes.
func decodeStrict(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", len(b), limit)
	}
	return json.Unmarshal(b, v, json.RejectUnknownMembers(true))
}
