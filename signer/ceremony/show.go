package ceremony

import (
	"crypto"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/signer/keys"
)

// Review is what is pending as it was read once: Text tells it in plain words, Sign signs it.
type Review struct {
	Text    string // the difference to what is current, and who has signed
	dir     *Dir
	pending state
	current state
}

// Review reads what is pending. Anything that fails a check is an error: only what can be signed is shown.
func (d *Dir) Review() (Review, error) {
	pending, current, err := d.both()
	if err != nil {
		return Review{}, err
	}
	if err := pending.check(current); err != nil {
		return Review{}, err
	}
	if err := current.signed(); err != nil {
		return Review{}, err
	}
	text, err := d.describe(pending, current)
	return Review{Text: text, dir: d, pending: pending, current: current}, err
}

// Show returns the text of Review.
func (d *Dir) Show() (string, error) {
	r, err := d.Review()
	return r.Text, err
}

func (d *Dir) describe(pending, current state) (string, error) {
	var err error
	var out strings.Builder
	fmt.Fprintf(&out, "ceremony for %s (CA SHA-256 %s)\n", plain(d.Settings.Server), d.Settings.CASHA256)
	out.WriteString("names of keys are this directory's word; compare the fingerprints\n")
	if err := d.showBase(&out, current); err != nil {
		return "", err
	}
	for _, name := range documents {
		if pending.docs[name] == nil {
			continue
		}
		if name == Targets {
			err = d.showTargets(&out, pending, current)
		} else {
			err = d.showRoot(&out, name, pending.docs[name], current.docs[name])
		}
		if err != nil {
			return "", err
		}
		if err := d.showSigners(&out, name, pending, current); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// signed checks that what is shown as unchanged was signed by a threshold. Only differences are shown, so whoever could
// edit what they are taken from could hide anything in it.
func (s state) signed() error {
	for _, name := range []string{ImageRoot, DirectorRoot} {
		if s.docs[name] == nil {
			continue
		}
		if _, err := tufrepo.NewImage(s.docs[name], time.Unix(1, 0)); err != nil { // expired ones count
			return fmt.Errorf("%w: current/%s was not signed by its holders: %w", ErrTampered, name, err)
		}
	}
	if s.docs[Targets] == nil {
		if len(s.files) > 0 {
			return fmt.Errorf("%w: current/files without current/%s", ErrTampered, Targets)
		}
		return nil
	}
	if _, err := tufrepo.VerifyTargets(s.docs[ImageRoot], s.docs[Targets]); err != nil {
		return fmt.Errorf("%w: current/%s was not signed by the holders: %w", ErrTampered, Targets, err)
	}
	_, err := s.targets()
	return err
}

// showBase tells what the differences are taken from: a holder who knows these digests from the last time knows that
// nothing was put in between.
func (d *Dir) showBase(out *strings.Builder, current state) error {
	root := current.docs[ImageRoot]
	if root == nil {
		return nil
	}
	spec, err := tufrepo.ParseRoot(root)
	if err != nil {
		return fmt.Errorf("%w: current %s: %w", ErrInvalid, ImageRoot, err)
	}
	out.WriteString("differences are shown to what was applied last; compare it with what you know:\n")
	for _, name := range documents {
		if doc := current.docs[name]; doc != nil {
			fmt.Fprintf(out, "  %s SHA-256 %s\n", name, digest.Of(doc))
		}
	}
	fmt.Fprintf(out, "  signed by %d of these holders\n", spec.Threshold[tufrepo.RoleRoot])
	for _, k := range spec.Keys[tufrepo.RoleRoot] {
		d.showKey(out, ' ', k)
	}
	return nil
}

func (d *Dir) showRoot(out *strings.Builder, name string, doc, old []byte) error {
	spec, err := tufrepo.ParseRoot(doc)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	before := tufrepo.RootSpec{}
	if old != nil {
		if before, err = tufrepo.ParseRoot(old); err != nil {
			return fmt.Errorf("%w: current %s: %w", ErrInvalid, name, err)
		}
	}
	fmt.Fprintf(out, "\n%s: version %d -> %d, expires %s\n", strings.TrimSuffix(name, ".json"), before.Version, spec.Version, day(spec.Expires))
	for _, role := range []string{tufrepo.RoleRoot, tufrepo.RoleTargets, tufrepo.RoleSnapshot, tufrepo.RoleTimestamp} {
		fmt.Fprintf(out, "  %s: %d of %d must sign", role, spec.Threshold[role], len(spec.Keys[role]))
		if old != nil && before.Threshold[role] != spec.Threshold[role] {
			fmt.Fprintf(out, " (before: %d of %d)", before.Threshold[role], len(before.Keys[role]))
		}
		out.WriteByte('\n')
		for _, k := range spec.Keys[role] {
			d.showKey(out, mark(before.Keys[role], k, '+'), k)
		}
		for _, k := range before.Keys[role] {
			if mark(spec.Keys[role], k, '-') == '-' {
				d.showKey(out, '-', k)
			}
		}
	}
	return nil
}

// mark returns c if the key is not in the list.
func mark(list []crypto.PublicKey, k crypto.PublicKey, c byte) byte {
	if slices.ContainsFunc(list, func(have crypto.PublicKey) bool { return sameKey(have, k) }) {
		return ' '
	}
	return c
}

func (d *Dir) showKey(out *strings.Builder, mark byte, k crypto.PublicKey) {
	fingerprint, err := keys.Fingerprint(k)
	if err != nil {
		fmt.Fprintf(out, "    %c (%v)\n", mark, err)
		return
	}
	fmt.Fprintf(out, "    %c %s  %s\n", mark, fingerprint, d.Name(k))
}

func (d *Dir) showTargets(out *strings.Builder, pending, current state) error {
	spec, err := pending.targets()
	if err != nil {
		return err
	}
	before := tufrepo.TargetsSpec{}
	if current.docs[Targets] != nil {
		if before, err = tufrepo.ParseTargets(current.docs[Targets]); err != nil {
			return fmt.Errorf("%w: current %s: %w", ErrInvalid, Targets, err)
		}
	}
	fmt.Fprintf(out, "\ntargets: version %d -> %d, expires %s\n", before.Version, spec.Version, day(spec.Expires))
	products := maps.Clone(before.Products)
	if products == nil {
		products = map[string]tufrepo.Delegation{}
	}
	maps.Copy(products, spec.Products)
	for _, name := range slices.Sorted(maps.Keys(products)) {
		d.showDelegation(out, name, before.Products, spec.Products)
	}
	all := maps.Clone(current.files)
	maps.Copy(all, pending.files)
	changed := false
	for _, path := range slices.Sorted(maps.Keys(all)) {
		old, now := current.files[path], pending.files[path]
		if string(old) == string(now) {
			continue
		}
		changed = true
		showFile(out, path, old, now)
	}
	if !changed {
		out.WriteString("  no file changes\n")
	}
	return nil
}

func (d *Dir) showDelegation(out *strings.Builder, product string, before, now map[string]tufrepo.Delegation) {
	a, b := before[product], now[product]
	if sameDelegation(a, b) {
		return
	}
	fmt.Fprintf(out, "  releases of product %s are listed by\n", product)
	for _, k := range b.Keys {
		d.showKey(out, mark(a.Keys, k, '+'), k)
	}
	for _, k := range a.Keys {
		if mark(b.Keys, k, '-') == '-' {
			d.showKey(out, '-', k)
		}
	}
}

func showFile(out *strings.Builder, path string, old, now []byte) {
	switch {
	case old == nil:
		fmt.Fprintf(out, "  + %s\n", path)
	case now == nil:
		fmt.Fprintf(out, "  - %s\n", path)
		warn(out, path, old, now)
		return
	default:
		fmt.Fprintf(out, "  ~ %s\n", path)
	}
	warn(out, path, old, now)
	was := describe(path, old)
	for _, line := range describe(path, now) {
		c := ' '
		if old != nil && !slices.Contains(was, line) {
			c = '+'
		}
		fmt.Fprintf(out, "    %c %s\n", c, line)
	}
	is := describe(path, now)
	for _, line := range was {
		if !slices.Contains(is, line) {
			fmt.Fprintf(out, "    - %s\n", line)
		}
	}
}

// warn puts changes that nobody should overlook before all others.
func warn(out *strings.Builder, path string, old, now []byte) {
	if path != tlog.PolicyPath || old == nil {
		return
	}
	for _, line := range warnLog(old, now) {
		fmt.Fprintf(out, "    ! %s\n", line)
	}
}

// describe says what an offline file means, one fact per line; the checks have passed before.
func describe(path string, data []byte) []string {
	if data == nil {
		return nil
	}
	kind, _, _ := strings.Cut(path, "/")
	switch kind {
	case "policy":
		if p, err := artifacts.DecodePolicy(data); err == nil {
			return DescribePolicy(p)
		}
	case "baseline":
		if b, err := reference.DecodeBaseline(data); err == nil {
			var out []string
			for _, pcr := range b.PCRs {
				out = append(out, fmt.Sprintf("PCR %d must be %s", pcr.Index, pcr.Value))
			}
			for _, v := range b.Variants {
				for _, pcr := range v.PCRs {
					out = append(out, fmt.Sprintf("or, in state %s, PCR %d must be %s", v.Name, pcr.Index, pcr.Value))
				}
			}
			return out
		}
	case "witness":
		if p, err := tlog.DecodePolicy(data); err == nil {
			return DescribeLog(p)
		}
	}
	return []string{fmt.Sprintf("%d bytes, SHA-256 %s", len(data), digest.Of(data))}
}

// DescribePolicy says what a policy means, one fact per line.
func DescribePolicy(p artifacts.Policy) []string {
	out := []string{fmt.Sprintf("%d of %d publishers must have signed a release", p.Threshold, len(p.Publishers))}
	for _, pub := range p.Publishers {
		out = append(out, "publisher "+pub.Name+": "+describePublisher(pub))
	}
	if b := p.Baselines; b != nil {
		out = append(out, fmt.Sprintf("%d of %d baseline signers must have signed a platform baseline", b.Threshold, len(b.Signers)))
		for _, signer := range b.Signers {
			out = append(out, "baseline signer "+signer.Name+": "+describePublisher(signer))
		}
	}
	out = append(out,
		fmt.Sprintf("%d people approve a release before it is published", p.Approvals),
		fmt.Sprintf("no device installs a release counter below %d", p.MinimumCounter),
		fmt.Sprintf("minimum tier %d", p.MinimumTier),
		"Secure Boot is "+map[bool]string{true: "required", false: "not required"}[p.SecureBoot])
	if len(p.RequiredPCRs) > 0 {
		out = append(out, fmt.Sprintf("quoted PCRs: %v", p.RequiredPCRs))
	}
	for _, d := range p.Withdrawn {
		out = append(out, "withdrawn image "+d.String())
	}
	for _, d := range p.Recovery {
		out = append(out, "recovery image "+d.String())
	}
	return out
}

func describePublisher(p artifacts.Publisher) string {
	if p.KeyPEM != "" {
		key, err := p.Key()
		if err != nil {
			return err.Error()
		}
		fingerprint, err := keys.Fingerprint(key)
		if err != nil {
			return err.Error()
		}
		return "key " + fingerprint.String()
	}
	text := fmt.Sprintf("%q of issuer %q", p.Subject, p.Issuer)
	if p.SourceRepository != "" {
		text += fmt.Sprintf(", repository %q", p.SourceRepository)
	} else if strings.HasPrefix(p.Subject, "https://") { // of a pipeline: GitHub lets others call one that is reusable
		text += ", FROM ANY REPOSITORY that may call this workflow"
	}
	if len(p.Refs) > 0 {
		text += fmt.Sprintf(", refs %q", p.Refs)
	}
	return text
}

func (d *Dir) showSigners(out *strings.Builder, name string, pending, current state) error {
	_, groups, err := d.attach(name, pending, current)
	if err != nil {
		return err
	}
	for _, g := range groups {
		fmt.Fprintf(out, "  signed by %d, %d of %d %s must\n", len(g.Signed), g.Threshold, len(g.Keys), g.Name)
		for _, k := range g.Signed {
			d.showKey(out, '*', k)
		}
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }
