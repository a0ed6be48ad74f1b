package tlog

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts"
)

// PolicyPath is the TUF path of the policy: the offline targets role signs it itself.
const PolicyPath = "witness/log.json"

// PolicyVersion is the version of the policy document that this build writes.
const PolicyVersion = 1

// ErrPolicy is returned for a log policy that is not well formed; such a policy proves nothing.
var ErrPolicy = errors.New("log policy is not valid")

const (
	maxOrigin = 200
	maxURL    = 2048
	maxVKey   = 400
)

// Policy says which log an auditor of this deployment accepts, and how many of which witnesses must have seen it.
type Policy struct {
	Version   int       `json:"version"`
	Origin    string    `json:"origin"`    // first line of every checkpoint, and the name of the log key
	LogKey    string    `json:"log_key"`   // C2SP note verifier key, Ed25519
	Witnesses []Witness `json:"witnesses"` // may be empty: then nobody but the server vouches for its history
	Quorum    int       `json:"quorum"`    // how many different witnesses must have cosigned; 0 to their number
}

// Witness is one who vouches that the log never shows two histories.
type Witness struct {
	Name string `json:"name"` // as people call it; names and keys are unique in a policy
	Key  string `json:"key"`  // C2SP verifier key of type cosignature/v1, Ed25519
	URL  string `json:"url"`  // where the server submits: POST <url>/add-checkpoint
}

// Validate holds every rule on a policy and collects all findings; it returns ErrPolicy.
func (p Policy) Validate() error {
	var errs []error
	if p.Version != PolicyVersion {
		errs = append(errs, fmt.Errorf("version is %d, this build knows %d", p.Version, PolicyVersion))
	}
	if err := ValidOrigin(p.Origin); err != nil {
		errs = append(errs, err)
	}
	logKey, err := LogVerifier(p.LogKey)
	if err != nil {
		errs = append(errs, fmt.Errorf("log_key: %w", err))
	} else if logKey.Name() != p.Origin {
		errs = append(errs, fmt.Errorf("log_key has the name %.80q, want the origin %.80q", logKey.Name(), p.Origin))
	}
	if p.Quorum < 0 || p.Quorum > len(p.Witnesses) {
		errs = append(errs, fmt.Errorf("quorum is %d, want 0 to the number of witnesses, %d", p.Quorum, len(p.Witnesses)))
	}
	if p.Witnesses == nil {
		errs = append(errs, errors.New("witnesses is missing; without any it is the empty list"))
	}
	errs = append(errs, p.validateWitnesses())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return nil
}

// validateWitnesses: one key must not count twice, and the log's key never counts for a witness.
func (p Policy) validateWitnesses() error {
	if len(p.Witnesses) > MaxWitnesses {
		return fmt.Errorf("it has %d witnesses, at most %d are allowed", len(p.Witnesses), MaxWitnesses)
	}
	var errs []error
	names, keys := map[string]bool{}, map[string]string{}
	if material, err := keyMaterial(p.LogKey, algEd25519); err == nil {
		keys[material] = "the log"
	}
	for i, w := range p.Witnesses {
		if err := w.validate(); err != nil {
			errs = append(errs, fmt.Errorf("witness %d %.80q: %w", i, w.Name, err))
			continue
		}
		if names[w.Name] {
			errs = append(errs, fmt.Errorf("witness %q is there twice", w.Name))
		}
		names[w.Name] = true
		material, _ := keyMaterial(w.Key, algCosignature)
		if other, taken := keys[material]; taken {
			errs = append(errs, fmt.Errorf("witness %q has the key of %s, so one could count twice", w.Name, other))
		}
		keys[material] = "witness " + w.Name
	}
	return errors.Join(errs...)
}

func (w Witness) validate() error {
	errs := []error{artifacts.ValidName(w.Name), validURL(w.URL)}
	if _, err := WitnessVerifier(w.Key); err != nil {
		errs = append(errs, fmt.Errorf("key: %w", err))
	}
	return errors.Join(errs...)
}

// Liars is how many of the cosigned witnesses of a checkpoint must have cosigned two histories before another history can
// have the quorum too. Where it is 0, a server shows one history to some witnesses and another one to the rest, and
// every witness keeps its word.
func (p Policy) Liars(cosigned int) int { return max(0, cosigned+p.Quorum-len(p.Witnesses)) }

// ValidOrigin checks the name of a log: 1 to 200 bytes without white space, control characters and "+".
func ValidOrigin(s string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0x7e }
	if s == "" || len(s) > maxOrigin || !utf8.ValidString(s) || strings.ContainsFunc(s, bad) || strings.Contains(s, "+") {
		return fmt.Errorf("origin %.80q is not 1 to %d ASCII characters without white space and +", s, maxOrigin)
	}
	return nil
}

func validURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || len(s) > maxURL:
		return fmt.Errorf("url %.80q cannot be read", s)
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("url %.80q is not an http or https address", s)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(u.Path, "/"):
		return fmt.Errorf("url %.80q has a user, a query, a fragment or a slash at its end", s)
	}
	return nil
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
	if len(b) > MaxPolicyBytes {
		return Policy{}, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrPolicy, len(b), MaxPolicyBytes)
	}
	var p Policy
	if err := json.Unmarshal(b, &p, json.RejectUnknownMembers(true)); err != nil {
		return Policy{}, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// verifiers returns the log's verifier and those of the witnesses, in the policy's order.
func (p Policy) verifiers() (note.Verifier, []note.Verifier, error) {
	if err := p.Validate(); err != nil {
		return nil, nil, err
	}
	logKey, err := LogVerifier(p.LogKey)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	var out []note.Verifier
	for _, w := range p.Witnesses {
		v, err := WitnessVerifier(w.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrPolicy, err)
		}
		out = append(out, v)
	}
	return logKey, out, nil
}
