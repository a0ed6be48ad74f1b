package artifacts

import (
	"errors"
	"fmt"
	"slices"
)

// installers are the closed set of Component.Installer.
var installers = [...]string{"ab", "rauc", "script", "swupdate", "uki"}

// NewStatement makes the statement of a release. It returns ErrStatement for a release that breaks a rule, and says
// which.
func NewStatement(r Release) (Statement, error) {
	s := Statement{Type: StatementType, PredicateType: PredicateType, Predicate: r}
	for _, c := range r.Components {
		s.Subject = append(s.Subject, Subject{Name: TargetPath(r.Product, r.Version, c.Name), Digest: SubjectDigest{SHA256: c.SHA256}})
	}
	if err := s.validate(); err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	return s, nil
}

// Component returns the component with this name; ok is false if the release has none.
func (r Release) Component(name string) (c Component, ok bool) {
	i := slices.IndexFunc(r.Components, func(c Component) bool { return c.Name == name })
	if i < 0 {
		return Component{}, false
	}
	return r.Components[i], true
}

// validate holds every rule on a statement and collects all findings.
func (s Statement) validate() error {
	var errs []error
	if s.Type != StatementType {
		errs = append(errs, fmt.Errorf("_type is %.80q, want %q", s.Type, StatementType))
	}
	if s.PredicateType != PredicateType {
		errs = append(errs, fmt.Errorf("predicateType is %.80q, want %q", s.PredicateType, PredicateType))
	}
	errs = append(errs, s.Predicate.validate(), s.validateSubjects())
	return errors.Join(errs...)
}

// validateSubjects: the subjects repeat the components one by one, so that any in-toto verifier sees the same digests.
func (s Statement) validateSubjects() error {
	if len(s.Subject) != len(s.Predicate.Components) {
		return fmt.Errorf("%d subjects stand for %d components", len(s.Subject), len(s.Predicate.Components))
	}
	for i, c := range s.Predicate.Components {
		want := TargetPath(s.Predicate.Product, s.Predicate.Version, c.Name)
		if s.Subject[i].Name != want {
			return fmt.Errorf("subject %d is %.200q, want %q", i, s.Subject[i].Name, want)
		}
		if s.Subject[i].Digest.SHA256 != c.SHA256 {
			return fmt.Errorf("subject %q has another digest than its component", want)
		}
	}
	return nil
}

func (r Release) validate() error {
	var errs []error
	if err := ValidName(r.Product); err != nil {
		errs = append(errs, fmt.Errorf("product: %w", err))
	}
	if err := ValidName(r.Version); err != nil {
		errs = append(errs, fmt.Errorf("version: %w", err))
	}
	if r.Counter < 1 || r.Counter > MaxCounter {
		errs = append(errs, fmt.Errorf("counter is %d, want 1 to %d", r.Counter, uint64(MaxCounter)))
	}
	if r.Floor > r.Counter {
		errs = append(errs, fmt.Errorf("floor %d is above the counter %d", r.Floor, r.Counter))
	}
	if r.Requires >= max(r.Counter, 1) {
		errs = append(errs, fmt.Errorf("requires %d is not below the counter %d", r.Requires, r.Counter))
	}
	errs = append(errs, validTier("minimum_tier", r.MinimumTier), r.validateComponents())
	return errors.Join(errs...)
}

func (r Release) validateComponents() error {
	if n := len(r.Components); n < 1 || n > MaxComponents {
		return fmt.Errorf("it has %d components, want 1 to %d", n, MaxComponents)
	}
	var errs []error
	seen := map[string]bool{}
	for i, c := range r.Components {
		if seen[c.Name] {
			errs = append(errs, fmt.Errorf("component %.80q is there twice", c.Name))
		}
		seen[c.Name] = true
		if err := c.validate(); err != nil {
			errs = append(errs, fmt.Errorf("component %d %.80q: %w", i, c.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (c Component) validate() error {
	errs := []error{ValidName(c.Name), validHardwareIDs(c.HardwareIDs)}
	if c.SHA256.IsZero() {
		errs = append(errs, errors.New("sha256 is zero"))
	}
	if !slices.Contains(installers[:], c.Installer) {
		errs = append(errs, fmt.Errorf("installer is %.80q, want one of %q", c.Installer, installers))
	}
	errs = append(errs, validLength("length", c.Length, MaxImageBytes))
	if c.ReferenceValues.IsZero() != (c.ReferenceLength == 0) {
		errs = append(errs, errors.New("reference_values and reference_length must be given together"))
	}
	if c.ReferenceLength < 0 || c.ReferenceLength > MaxReferenceBytes {
		errs = append(errs, fmt.Errorf("reference_length is %d, want 0 to %d", c.ReferenceLength, MaxReferenceBytes))
	}
	errs = append(errs, c.validateDeltas())
	return errors.Join(errs...)
}

func (c Component) validateDeltas() error {
	if len(c.Deltas) > MaxDeltas {
		return fmt.Errorf("it has %d deltas, at most %d are allowed", len(c.Deltas), MaxDeltas)
	}
	seen := map[[32]byte]bool{}
	for i, d := range c.Deltas {
		switch {
		case d.Base.IsZero() || d.SHA256.IsZero():
			return fmt.Errorf("delta %d has a zero digest", i)
		case d.Base == c.SHA256:
			return fmt.Errorf("delta %d starts at the image that it should make", i)
		case seen[d.Base]:
			return fmt.Errorf("delta %d has the base of an earlier one", i)
		}
		seen[d.Base] = true
		if err := validLength("length", d.Length, MaxImageBytes); err != nil {
			return fmt.Errorf("delta %d: %w", i, err)
		}
	}
	return nil
}

func (c Custom) validate() error {
	errs := []error{ValidName(c.Product), ValidName(c.Version), ValidName(c.Component), validHardwareIDs(c.HardwareIDs)}
	if c.Counter < 1 || c.Counter > MaxCounter {
		errs = append(errs, fmt.Errorf("counter is %d, want 1 to %d", c.Counter, uint64(MaxCounter)))
	}
	return errors.Join(append(errs, validTier("minimum_tier", c.MinimumTier))...)
}

func validHardwareIDs(ids []string) error {
	if n := len(ids); n < 1 || n > MaxHardwareIDs {
		return fmt.Errorf("it has %d hardware ids, want 1 to %d", n, MaxHardwareIDs)
	}
	for i, id := range ids {
		if err := ValidName(id); err != nil {
			return fmt.Errorf("hardware id: %w", err)
		}
		if slices.Contains(ids[:i], id) {
			return fmt.Errorf("hardware id %q is there twice", id)
		}
	}
	return nil
}

func validTier(field string, tier int) error {
	if tier < 0 || tier > MaxTier {
		return fmt.Errorf("%s is %d, want 0 to %d", field, tier, MaxTier)
	}
	return nil
}

func validLength(field string, n, limit int64) error {
	if n < 1 || n > limit {
		return fmt.Errorf("%s is %d, want 1 to %d", field, n, limit)
	}
	return nil
}
