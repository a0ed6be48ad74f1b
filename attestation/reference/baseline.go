package reference

import (
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// Baseline holds the PCRs that the platform's own firmware fills. The offline targets role signs it, or the baseline
// signers that the offline policy names.
//
// A platform whose vendor ships firmware updates is in one of several states: PCRs is one of them, Variants are the
// others. A device must be in one as a whole; a mix of two is none.
type Baseline struct {
	Version  int        `json:"version"`
	Profile  string     `json:"profile"`        // platform profile, as the inventory names it
	Name     string     `json:"name,omitempty"` // of the state that PCRs is, such as "bios-1.2"
	PCRs     []Platform `json:"pcrs"`
	Variants []Variant  `json:"variants,omitempty"` // at most MaxVariants-1; each names the same PCRs as PCRs
}

// Variant is another state that the platform's firmware may be in.
type Variant struct {
	Name string     `json:"name"`
	PCRs []Platform `json:"pcrs"`
}

// MaxVariants is how many states of its firmware a platform may have, PCRs of the Baseline among them.
const MaxVariants = 4

// Platform is the value of one PCR that the platform's firmware owns (0, 2, 3 or 7).
type Platform struct {
	Index int           `json:"index"`
	Value digest.SHA256 `json:"sha256"`
}

// platformPCRs must be named by a Baseline.
var platformPCRs = [...]int{0, 2, 3, 7}

// PlatformPCRs are the PCRs that a Baseline must name: the firmware, its drivers and their settings, and Secure Boot.
func PlatformPCRs() []int { return append([]int{}, platformPCRs[:]...) }

// Encode writes b as JSON; equal Baselines give equal bytes. It returns ErrMalformed for what DecodeBaseline refuses.
func (b Baseline) Encode() ([]byte, error) {
	if err := b.validate(); err != nil {
		return nil, err
	}
	return encode(b)
}

// DecodeBaseline reads a Baseline. It returns ErrMalformed for anything that is not one, in particular for one that
// does not name PCRs 0, 2, 3 and 7.
func DecodeBaseline(data []byte) (Baseline, error) {
	var b Baseline
	if err := decode(data, &b); err != nil {
		return Baseline{}, err
	}
	if err := b.validate(); err != nil {
		return Baseline{}, err
	}
	return b, nil
}

func (b Baseline) validate() error {
	if b.Version != Version {
		return malformed("version %d of a baseline", b.Version)
	}
	if b.Profile == "" || !plain(b.Profile) {
		return malformed("the profile is empty, long or not text")
	}
	if !plain(b.Name) {
		return malformed("the name is long or not text")
	}
	if err := validPlatform(b.PCRs); err != nil {
		return err
	}
	if len(b.Variants) >= MaxVariants {
		return malformed("%d variants, at most %d", len(b.Variants), MaxVariants-1)
	}
	for i, v := range b.Variants {
		if err := b.validVariant(i, v); err != nil {
			return err
		}
	}
	return nil
}

// validVariant: a variant that left a PCR of the others out would be a weaker one, and a second one with the same values
// a riddle.
func (b Baseline) validVariant(i int, v Variant) error {
	if v.Name == "" || !plain(v.Name) || b.Name == "" {
		return malformed("a baseline with variants needs a name for each of them")
	}
	if err := validPlatform(v.PCRs); err != nil {
		return fmt.Errorf("variant %q: %w", v.Name, err)
	}
	if len(v.PCRs) != len(b.PCRs) {
		return malformed("variant %q names other PCRs", v.Name)
	}
	for j, p := range v.PCRs {
		if p.Index != b.PCRs[j].Index {
			return malformed("variant %q names other PCRs", v.Name)
		}
	}
	for _, other := range append([]Variant{{b.Name, b.PCRs}}, b.Variants[:i]...) {
		if other.Name == v.Name || samePlatform(other.PCRs, v.PCRs) {
			return malformed("variant %q is there twice, by name or by values", v.Name)
		}
	}
	return nil
}

func samePlatform(a, b []Platform) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func validPlatform(pcrs []Platform) error {
	named := map[int]bool{}
	last := -1
	for _, p := range pcrs {
		if p.Index <= last || p.Index > eventlog.MaxPCR {
			return malformed("PCR %d after PCR %d", p.Index, last)
		}
		last, named[p.Index] = p.Index, true
		if p.Value.IsZero() {
			return malformed("PCR %d has the value of a register that nothing was measured into", p.Index)
		}
	}
	for _, index := range platformPCRs {
		if !named[index] {
			return malformed("PCR %d is missing", index)
		}
	}
	return nil
}

// Match compares the quoted PCRs with b like Values.Match; with variants, one of them has to match as a whole, and the
// Differences are those from the nearest. A platform's own events are known by their total only, so a Difference lists
// what the log says was measured there. A Baseline without PCRs 0, 2, 3 and 7 never matches, nor does such a variant.
func (b Baseline) Match(log eventlog.Log, quoted map[int]digest.SHA256) []Difference {
	nearest := b.matchOne(b.Name, b.PCRs, log, quoted)
	for _, v := range b.Variants {
		if len(nearest) == 0 {
			break
		}
		if d := b.matchOne(v.Name, v.PCRs, log, quoted); len(d) < len(nearest) {
			nearest = d
		}
	}
	return nearest
}

// Matching names the state that the quoted PCRs are in: b.Name or that of a variant; ok is false for none.
func (b Baseline) Matching(quoted map[int]digest.SHA256) (name string, ok bool) {
	for _, v := range append([]Variant{{b.Name, b.PCRs}}, b.Variants...) {
		if len(b.matchOne(v.Name, v.PCRs, eventlog.Log{}, quoted)) == 0 {
			return v.Name, true
		}
	}
	return "", false
}

func (b Baseline) matchOne(name string, pcrs []Platform, log eventlog.Log, quoted map[int]digest.SHA256) []Difference {
	platform := b.Profile
	if len(b.Variants) > 0 {
		platform += " in state " + name
	}
	var out []Difference
	named := map[int]bool{}
	for _, p := range pcrs {
		named[p.Index] = true
		value, ok := quoted[p.Index]
		if !ok {
			out = append(out, notQuoted(p.Index, p.Value))
			continue
		}
		if value == p.Value {
			continue
		}
		out = append(out, Difference{
			PCR: p.Index, Expected: p.Value.String(), Seen: value.String(),
			Detail: fmt.Sprintf("PCR %d is not that of platform %s; measured there: %s",
				p.Index, platform, summary(eventsOf(log, p.Index))),
		})
	}
	for _, index := range platformPCRs {
		if !named[index] {
			out = append(out, Difference{PCR: index, Detail: fmt.Sprintf("the platform baseline does not name PCR %d", index)})
		}
	}
	return out
}

// LearnBaseline makes the Baseline of a platform from the PCRs that an approved device of it quoted. PCRs that are not
// in quoted stay out of it, and Encode then refuses it.
func LearnBaseline(profile string, quoted map[int]digest.SHA256) Baseline {
	return Baseline{Version: Version, Profile: profile, PCRs: PlatformOf(quoted)}
}

// PlatformOf picks the platform's PCRs from quoted ones; those that are not in quoted are left out.
func PlatformOf(quoted map[int]digest.SHA256) []Platform {
	var out []Platform
	for _, index := range platformPCRs {
		if value, ok := quoted[index]; ok {
			out = append(out, Platform{Index: index, Value: value})
		}
	}
	return out
}
