package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// decided is an appraisal whose verdict was reached again.
type decided struct {
	appraisal api.Appraisal
	verdict   attestation.Verdict
}

// devices checks the identity of every device.
func (v *verification) devices() {
	v.begin(StepDevices)
	v.records, v.aks = map[string]api.DeviceRecord{}, map[string][][]byte{}
	keys := map[digest.SHA256]string{}
	for _, record := range v.r.Devices {
		v.count()
		id := record.Device.ID
		if _, twice := v.records[id]; twice {
			v.fail("device %s is there twice", id)
			continue
		}
		v.records[id], v.aks[id] = record, [][]byte{record.AKPublic}
		if err := v.device(record); err != nil {
			v.fail("device %s: %v", id, err)
		}
		if len(record.AKPublic) == 0 {
			continue // forgotten, as device has checked
		}
		if twin, twice := keys[digest.Of(record.AKPublic)]; twice { // one TPM would vouch for two devices
			v.fail("device %s: its attestation key is that of device %s", id, twin)
		}
		keys[digest.Of(record.AKPublic)] = id
	}
}

func (v *verification) device(record api.DeviceRecord) error {
	spki, err := v.endorsementKey(record)
	if err != nil {
		return err
	}
	if got := identity.DeviceIDOf(spki).String(); got != record.Device.ID {
		return fmt.Errorf("its endorsement key is that of device %s", got)
	}
	if len(record.AKPublic) > 0 {
		ak, err := identity.ParsePublic(record.AKPublic)
		if err != nil {
			return fmt.Errorf("attestation key: %w", err)
		}
		if problems := identity.CheckAK(ak); len(problems) > 0 {
			return errors.New(problems[0].Detail)
		}
	}
	keys, err := v.attestationKeys(record)
	if err != nil {
		return err
	}
	v.aks[record.Device.ID] = keys
	if v.o.EKRoots == nil || len(record.EKCertificate) == 0 {
		return nil
	}
	if _, problems := identity.VerifyEK(record.EKCertificate, nil, v.o.EKRoots, v.r.CreatedAt); len(problems) > 0 {
		return errors.New(problems[0].Detail)
	}
	return nil
}

// appraisals reaches every verdict again.
func (v *verification) appraisals() {
	v.begin(StepAppraisals)
	v.verdicts, v.ids, v.beacons = map[int64]decided{}, map[digest.SHA256]int64{}, map[digest.SHA256]error{}
	for hex, log := range v.r.Logs {
		if digest.Of(log).String() != hex {
			v.fail("the event log %s has other bytes than its name says", hex)
		}
	}
	last := map[string]decided{} // the last affirmed one of each device
	reached := map[string]provenRelease{}
	newest := map[string]usedPolicy{}
	number := int64(0)
	for _, p := range v.r.Appraisals {
		v.count()
		if p.Number <= number {
			v.fail("appraisal %d follows %d", p.Number, number)
		}
		number = p.Number
		for _, err := range v.grounds(p) {
			v.fail("appraisal %d of %s: %v", p.Number, p.Device, err)
		}
		v.policyOrder(newest, p)
		verdict, hidden, err := again(p, v.r.Logs)
		if err != nil {
			v.fail("appraisal %d of %s: %v", p.Number, p.Device, err)
			continue
		}
		v.lateLog(p, hidden)
		if err := v.rollback(reached, p, verdict); err != nil {
			v.fail("appraisal %d of %s: %v", p.Number, p.Device, err)
		}
		d := decided{p, verdict}
		v.verdicts[p.Number] = d
		v.ids[AppraisalID(p)] = p.Number
		if !p.Repeats.IsZero() {
			v.repetition(p)
			continue
		}
		if !v.inPeriod(p.At) {
			continue
		}
		if err := v.continuity(last[p.Device], p); err != nil {
			v.fail("appraisal %d of %s: %v", p.Number, p.Device, err)
		}
		if verdict.Outcome == attestation.Affirmed {
			last[p.Device] = d
		}
	}
}

func (v *verification) inPeriod(at time.Time) bool { return !at.Before(v.r.From) && at.Before(v.r.To) }

// rollback refuses an affirmed release that is below one that the device had proven before: a server that lies can put a
// release that the device has left among those that it expects. A recovery release may be below.
func (v *verification) rollback(reached map[string]provenRelease, p api.Appraisal, verdict attestation.Verdict) error {
	now, ok := v.proven[verdict.Release]
	if verdict.Outcome != attestation.Affirmed || !ok || verdict.Recovery {
		return nil
	}
	key := p.Device + "\n" + now.record.Release.Product
	before, seen := reached[key]
	if seen && now.record.Release.Counter < before.record.Release.Counter {
		return fmt.Errorf("it affirms %s with counter %d, and the device had proven counter %d before", verdict.Release,
			now.record.Release.Counter, before.record.Release.Counter)
	}
	reached[key] = now
	return nil
}

// usedPolicy is the newest policy of a product that an appraisal was held against so far.
type usedPolicy struct {
	first int64 // the oldest offline targets that name it
	since time.Time
}

// policyOrder tells of appraisals that were held against a policy that was replaced before. Replicas may lag a little.
func (v *verification) policyOrder(newest map[string]usedPolicy, p api.Appraisal) {
	policy, ok := v.policies[p.PolicySHA256]
	if !ok {
		return // policyOf says so
	}
	used := newest[policy.Product]
	if policy.last < used.first && p.At.After(used.since.Add(settled)) {
		v.cannot("appraisal %d of %s was held against a policy of targets %d, and targets %d had been used before: whether that was an error is for you to ask", p.Number, p.Device, policy.last, used.first)
	}
	if policy.first > used.first {
		newest[policy.Product] = usedPolicy{policy.first, p.At}
	}
}

// lateLog tells of wrong states that a verdict missed because its event log was not there yet: the log is in the report
// now. A server that lies can call any log late; an honest one asks for it, and a quarantine follows.
func (v *verification) lateLog(p api.Appraisal, hidden *attestation.Verdict) {
	if hidden == nil {
		return
	}
	if effect, _ := reason.Strongest(hidden.Reasons()); hidden.Outcome != attestation.Refused || effect != reason.Quarantine {
		return
	}
	for _, q := range v.r.Quarantines {
		if q.Device == p.Device && (q.EndedAt == nil || !q.EndedAt.Before(p.At)) {
			return
		}
	}
	v.cannot("appraisal %d of %s was decided without its event log; with the log, which is in the report, it proves a wrong state, and no quarantine followed", p.Number, p.Device)
}

// again appraises the Evidence of p and compares with the stored verdict. hidden is the verdict that the log gives where
// the stored one was reached without it.
func again(p api.Appraisal, logs map[string][]byte) (reached attestation.Verdict, hidden *attestation.Verdict, err error) {
	in := p.Input
	in.Log = logs[in.Evidence.LogDigest.String()]
	verdict, bytesOf, err := appraise(in)
	if err != nil {
		return attestation.Verdict{}, nil, err
	}
	if bytes.Equal(bytesOf, p.Verdict) {
		return verdict, nil, nil
	}
	if in.Log != nil { // the log may have come after this appraisal; its verdict then says that it was missing
		in.Log = nil
		without, bytesWithout, err := appraise(in)
		if err == nil && bytes.Equal(bytesWithout, p.Verdict) && slices.Contains(without.Reasons(), reason.EventlogMissing) {
			return without, &verdict, nil
		}
	}
	return attestation.Verdict{}, nil, fmt.Errorf("the report says %s, and appraising the Evidence again gives %s", p.Verdict, bytesOf)
}

func appraise(in attestation.Input) (attestation.Verdict, []byte, error) {
	verdict, err := attestation.Appraise(in)
	if err != nil {
		return attestation.Verdict{}, nil, err
	}
	b, err := verdict.Marshal()
	return verdict, b, err
}

// Again appraises one appraisal of a report once more and returns the verdict's bytes, however they compare.
func Again(p api.Appraisal, logs map[string][]byte) (verdict []byte, same bool, err error) {
	if _, _, err := again(p, logs); err == nil {
		return p.Verdict, true, nil
	}
	in := p.Input
	in.Log = logs[in.Evidence.LogDigest.String()]
	_, verdict, err = appraise(in)
	return verdict, false, err
}

// AppraisalID is how quarantines, updates, events and people name an appraisal.
func AppraisalID(p api.Appraisal) digest.SHA256 {
	input, err := json.Marshal(p.Input, json.Deterministic(true))
	if err != nil {
		return digest.SHA256{}
	}
	return digest.Of(fmt.Appendf(nil, "%s\n%d\n%s", p.Device, p.At.UnixMicro(), digest.Of(input)))
}

// grounds checks that what the verifier put into the Input is what the offline roles and publishers signed. All of it is
// reported, not just the first.
func (v *verification) grounds(p api.Appraisal) []error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	record, ok := v.records[p.Device]
	switch {
	case !ok:
		say("the report has no record of the device")
	case !slices.ContainsFunc(v.aks[p.Device], func(ak []byte) bool { return bytes.Equal(p.Input.AK.Public, ak) }):
		say("it was appraised with another attestation key than the registered one")
	}
	if p.Input.Binding.Device != p.Device {
		say("the transcript is for device %s", p.Input.Binding.Device)
	}
	if p.Input.Binding.Purpose != attestation.PurposePoll {
		say("the transcript is for %q", p.Input.Binding.Purpose)
	}
	product, policyErr := v.policyOf(p)
	errs = append(errs, policyErr...)
	errs = append(errs, v.baselineOf(p, product)...)
	for _, x := range slices.Concat(p.Input.Expected, p.Input.Superseded) {
		if err := v.expectation(x, record.Device); err != nil {
			errs = append(errs, err)
		}
		if of, _, _ := strings.Cut(x.Release, "/"); product != "" && of != product {
			say("it expected %s under the policy of product %q", x.Release, product)
		}
	}
	if product != "" && ok && record.Device.Product != product {
		v.believe("device %s was appraised as product %s and has %q now", p.Device, product, record.Device.Product)
	}
	if !p.Input.Challenge {
		if err := v.beacon(p.Input.Binding.Nonce); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// policyOf compares the Input's policy with the signed one.
func (v *verification) policyOf(p api.Appraisal) (product string, errs []error) {
	policy, ok := v.policies[p.PolicySHA256]
	if !ok {
		return "", v.missing("policy", p, p.PolicySHA256)
	}
	if !v.required(policy, p.Input.Policy.RequiredPCRs) || policy.SecureBoot != p.Input.Policy.SecureBoot {
		errs = append(errs, fmt.Errorf("it was held against other PCRs or another Secure Boot rule than policy %s asks for", p.PolicySHA256))
	}
	return policy.Product, append(errs, v.revoked(policy, p)...)
}

// leastPCRs are part of every default list of required PCRs that a build ever had.
var leastPCRs = [...]int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12}

// required checks the PCRs that a quote had to cover. A policy that names none takes the default of the verifier's build,
// which may be older or newer than this one.
func (v *verification) required(policy signedPolicy, got []int) bool {
	if len(policy.RequiredPCRs) > 0 {
		return slices.Equal(policy.RequiredPCRs, got)
	}
	for _, pcr := range leastPCRs {
		if !slices.Contains(got, pcr) {
			return false
		}
	}
	if !slices.Equal(got, attestation.DefaultRequiredPCRs[:]) {
		v.believe("the list of PCRs that product %s left to the verifier's build: it was %d then, this build has %d", policy.Product, got, attestation.DefaultRequiredPCRs)
	}
	return true
}

// settled is how long after a publication every replica of the server knows it.
const settled = 10 * time.Minute

// revoked checks the boot measurements that no device may have: those of published images that the policy withdraws.
func (v *verification) revoked(policy signedPolicy, p api.Appraisal) []error {
	var errs []error
	may, must := map[digest.SHA256]bool{}, map[digest.SHA256]bool{}
	for name, r := range v.proven {
		if r.record.Release.Product != policy.Product {
			continue
		}
		for _, c := range r.record.Release.Components {
			if !slices.Contains(policy.Withdrawn, c.SHA256) {
				continue
			}
			d, ok := r.values[c.Name].BootDigest()
			if !ok { // no measurement names it, so nobody may expect it
				if takes(p, name, r.values[c.Name]) {
					errs = append(errs, fmt.Errorf("it expected %s, whose image %s is withdrawn", name, c.SHA256))
				}
				continue
			}
			may[d] = true
			// Who expects the release knows it, whenever the server says that it was published.
			must[d] = must[d] || r.record.PublishedAt.Add(settled).Before(p.At) || expects(p, name)
		}
	}
	for _, d := range p.Input.Policy.RevokedBoot {
		if !may[d] {
			errs = append(errs, fmt.Errorf("boot measurement %s counted as withdrawn, and no signed policy withdraws it", d))
		}
		delete(must, d)
	}
	for d, needed := range must {
		if needed {
			errs = append(errs, fmt.Errorf("boot measurement %s is of a withdrawn image and did not count as withdrawn", d))
		}
	}
	return errs
}

func (v *verification) baselineOf(p api.Appraisal, product string) []error {
	all := v.baselines[p.BaselineSHA256]
	if len(all) == 0 {
		return v.missing("baseline", p, p.BaselineSHA256)
	}
	signed := all[0]
	if i := slices.IndexFunc(all, func(b signedBaseline) bool { return b.product == product }); i >= 0 {
		signed = all[i]
	}
	if p.Input.Baseline == nil || !sameJSON(signed.Baseline, *p.Input.Baseline) {
		return []error{fmt.Errorf("its platform baseline is not the signed one, %s", p.BaselineSHA256)}
	}
	if product != "" && signed.product != product {
		return []error{fmt.Errorf("its platform baseline is of product %q, its policy of %q", signed.product, product)}
	}
	if signed.generation > 0 {
		v.believe("generation %d of the baseline of %s for profile %s as the one in force when it was used: the server says which was the newest", signed.generation, signed.product, signed.profile)
	}
	if record := v.records[p.Device]; record.Device.Profile != signed.profile {
		v.believe("device %s was appraised with platform profile %s and has %s now", p.Device, signed.profile, record.Device.Profile)
	}
	return nil
}

// missing is a failure, unless the report says that it was cut.
func (v *verification) missing(what string, p api.Appraisal, d digest.SHA256) []error {
	if v.r.Coverage.Truncated {
		v.cannot("appraisal %d of %s: the %s %s that it names is not in the report, which was cut at its limits", p.Number, p.Device, what, d)
		return nil
	}
	return []error{fmt.Errorf("no signed %s has the digest %s that it names", what, d)}
}

// expectation checks that a state that the device was allowed to be in is a verified release's.
func (v *verification) expectation(x attestation.Expectation, device api.Device) error {
	r, ok := v.proven[x.Release]
	if !ok {
		return fmt.Errorf("it expected %s, which is no verified release of the report", x.Release)
	}
	if x.Recovery != r.record.Release.Recovery {
		return fmt.Errorf("it took %s for a recovery release: %t, the publishers signed %t", x.Release, x.Recovery, r.record.Release.Recovery)
	}
	for _, c := range r.record.Release.Components {
		if values, ok := r.values[c.Name]; ok && sameJSON(values, x.Values) {
			if !slices.Contains(c.HardwareIDs, device.HardwareID) {
				v.believe("device %s was appraised as hardware %v and has %q now", device.ID, c.HardwareIDs, device.HardwareID)
			}
			return nil
		}
	}
	return fmt.Errorf("its Reference Values for %s are not those that the publishers signed", x.Release)
}

// beacon checks that a nonce is the digest of a timestamp that the Image repository's timestamp key signed.
func (v *verification) beacon(nonce []byte) error {
	if len(nonce) != digest.Size {
		return errors.New("its nonce is neither a challenge nor a beacon")
	}
	d := digest.SHA256(nonce)
	err, known := v.beacons[d]
	if !known {
		err = v.genuine(d)
		v.beacons[d] = err
	}
	return err
}

func (v *verification) genuine(d digest.SHA256) error {
	doc, ok := v.r.Beacons[d.String()]
	if !ok {
		return fmt.Errorf("the report does not have the timestamp %s that the quote is over", d)
	}
	if digest.Of(doc) != d {
		return fmt.Errorf("the timestamp %s has other bytes than its name says", d)
	}
	err := tufrepo.ErrSignature
	for last := len(v.roots); last > 0 && err != nil; last-- {
		// Whether it had expired does not matter here: it is looked at as of the beginning of time.
		var image *tufrepo.Image
		if image, err = tufrepo.NewImage(v.roots[0], time.Unix(1, 0)); err != nil {
			return err
		}
		if err = image.UpdateRoot(v.roots[1:last]...); err == nil {
			err = image.Timestamp(doc)
		}
	}
	if err != nil {
		return fmt.Errorf("the timestamp %s that the quote is over: %w", d, err)
	}
	return nil
}

// continuity checks that an appraisal began where the last affirmed one of the device ended. Otherwise one quote could
// be shown twice. Only a re-activation, which is an event, starts over.
func (v *verification) continuity(before decided, p api.Appraisal) error {
	if before.verdict.Accepted == nil {
		return nil
	}
	if p.Input.Last != nil {
		if sameJSON(*before.verdict.Accepted, *p.Input.Last) {
			return nil
		}
		if !v.r.Coverage.Truncated {
			return fmt.Errorf("it does not continue from appraisal %d, the last affirmed one before", before.appraisal.Number)
		}
		v.cannot("appraisal %d of %s continues from one that was cut from the report", p.Number, p.Device)
		return nil
	}
	for _, e := range v.r.Events {
		if e.Type == "device.reactivated" && e.Subject == p.Device && !e.At.Before(before.appraisal.At) && !e.At.After(p.At) {
			return nil
		}
	}
	if v.r.Coverage.Truncated {
		v.cannot("appraisal %d of %s starts over, and events were cut from the report", p.Number, p.Device)
		return nil
	}
	return fmt.Errorf("it starts over after appraisal %d, and no event says that the device was activated anew", before.appraisal.Number)
}

// sameJSON compares two values of one type by the only form that they are kept in.
func sameJSON[T reference.Values | reference.Baseline | attestation.Accepted](a, b T) bool {
	x, errX := json.Marshal(a, json.Deterministic(true))
	y, errY := json.Marshal(b, json.Deterministic(true))
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
