package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/signer/keys"
)

// policyFile is the strict TOML from which `product set` makes a policy. Withdrawn and recovery images are not in it:
// they only change by their own commands, so that an old copy of the file cannot lose them.
type policyFile struct {
	Product        string          `toml:"product"`
	Threshold      int             `toml:"threshold"`       // Optional: default 1; how many different publishers must have signed
	Approvals      int             `toml:"approvals"`       // Optional: default 0; people who approve a release
	MinimumCounter uint64          `toml:"minimum_counter"` // Optional: default 0; only ever grows
	MinimumTier    int             `toml:"minimum_tier"`    // Optional: default 0
	SecureBoot     bool            `toml:"secure_boot"`     // Optional: default false
	RequiredPCRs   []int           `toml:"required_pcrs"`   // Optional: default attestation.DefaultRequiredPCRs
	Publishers     []publisherFile `toml:"publisher"`

	BaselineThreshold int             `toml:"baseline_threshold"` // Optional: default 1; how many different baseline signers must have signed
	BaselineSigners   []publisherFile `toml:"baseline_signer"`    // Optional: who signs platform baselines beside the holders; default nobody
}

// publisherFile is either a key or a certificate identity. All values of an identity are exact: a pattern that is a little
// too wide is a publisher whom nobody chose. conformance/docs/keyless.md has examples for GitHub and GitLab.
type publisherFile struct {
	Name             string   `toml:"name"`
	KeyFile          string   `toml:"key_file"`          // relative to the policy file; `cordon-sign keys new --type publisher` makes it
	Issuer           string   `toml:"issuer"`            // who makes the CI's identity tokens; excludes key_file
	Subject          string   `toml:"subject"`           // the workflow at its ref, as the certificate's subject alternative name has it
	SourceRepository string   `toml:"source_repository"` // Optional: the repository that was built; default any
	Refs             []string `toml:"refs"`              // Optional: branches and tags that were built; default any
}

// LoadPolicy reads a policy file. Unknown keys and everything that artifacts.Policy refuses give artifacts.ErrPolicy.
func LoadPolicy(path string) (artifacts.Policy, error) {
	f, err := os.Open(path)
	if err != nil {
		return artifacts.Policy{}, fmt.Errorf("cannot read policy: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return artifacts.Policy{}, fmt.Errorf("cannot read policy: %w", err)
	}
	if info.Size() > artifacts.MaxPolicyBytes {
		return artifacts.Policy{}, fmt.Errorf("cannot read policy: %w: larger than %d bytes", artifacts.ErrPolicy, artifacts.MaxPolicyBytes)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return artifacts.Policy{}, fmt.Errorf("cannot read policy: %w", err)
	}
	p, err := ParsePolicy(b, func(name string) (string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		pub, err := keys.LoadPublic(name, keys.Publisher)
		if err != nil {
			return "", err
		}
		text, err := keys.EncodePublic(pub)
		return string(text), err
	})
	if err != nil {
		return artifacts.Policy{}, fmt.Errorf("cannot read policy %q: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads the TOML; key loads the PEM of a key file.
func ParsePolicy(b []byte, key func(name string) (string, error)) (artifacts.Policy, error) {
	if len(b) > artifacts.MaxPolicyBytes {
		return artifacts.Policy{}, fmt.Errorf("%w: larger than %d bytes", artifacts.ErrPolicy, artifacts.MaxPolicyBytes)
	}
	in := policyFile{Threshold: 1, BaselineThreshold: 1}
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return artifacts.Policy{}, fmt.Errorf("%w: %s", artifacts.ErrPolicy, explainTOML(err))
	}
	p := artifacts.Policy{
		Version: artifacts.PolicyVersion, Product: in.Product, Threshold: in.Threshold, Approvals: in.Approvals,
		MinimumCounter: in.MinimumCounter, MinimumTier: in.MinimumTier, SecureBoot: in.SecureBoot, RequiredPCRs: in.RequiredPCRs,
	}
	var err error
	if p.Publishers, err = publishersOf(in.Publishers, key); err != nil {
		return artifacts.Policy{}, err
	}
	signers, err := publishersOf(in.BaselineSigners, key)
	if err != nil {
		return artifacts.Policy{}, err
	}
	if len(signers) > 0 {
		p.Baselines = &artifacts.BaselinePolicy{Signers: signers, Threshold: in.BaselineThreshold}
	} else if in.BaselineThreshold != 1 {
		return artifacts.Policy{}, fmt.Errorf("%w: baseline_threshold is given and no baseline_signer", artifacts.ErrPolicy)
	}
	return p, p.Validate()
}

func publishersOf(list []publisherFile, key func(name string) (string, error)) ([]artifacts.Publisher, error) {
	var out []artifacts.Publisher
	for _, pub := range list {
		p := artifacts.Publisher{Name: pub.Name, Issuer: pub.Issuer, Subject: pub.Subject, SourceRepository: pub.SourceRepository, Refs: pub.Refs}
		if pub.KeyFile != "" {
			text, err := key(pub.KeyFile)
			if err != nil {
				return nil, err
			}
			p.KeyPEM = text
		}
		out = append(out, p)
	}
	return out, nil
}

// explainTOML names the line and, for an unknown key, the key.
func explainTOML(err error) string {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		row, _ := first.Position()
		return fmt.Sprintf("line %d: unknown key %q", row, joinKey(first.Key()))
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, _ := decode.Position()
		return fmt.Sprintf("line %d: %s", row, decode.Error())
	}
	return err.Error()
}

func joinKey(key toml.Key) string {
	out := ""
	for i, k := range key {
		if i > 0 {
			out += "."
		}
		out += k
	}
	return out
}
