package fleet

import (
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
)

// KeyVoice is one person's wish that the server forgets the attestation key that is registered for a device. It is about
// that key alone: a key that replaces it has no voices against it.
type KeyVoice struct {
	Person string    `json:"person"`
	Why    string    `json:"why"`
	At     time.Time `json:"at"`
}

// KeyVoiceLasts is how long a voice waits for the next one.
const KeyVoiceLasts = 72 * time.Hour

// KeyForgotten says that no attestation key is registered for the device: people had it forgotten, and it has not
// enrolled again since. It gets nothing, proves nothing and holds nothing until it has.
func (d Device) KeyForgotten() bool { return len(d.AKPublic) == 0 }

// KeyVoices are the voices against the registered attestation key that count at that time.
func (d Device) KeyVoices(now time.Time) []KeyVoice {
	return slices.DeleteFunc(slices.Clone(d.ForgetKey), func(v KeyVoice) bool { return !now.Before(v.At.Add(KeyVoiceLasts)) })
}

// ForgetKey adds one person's voice; the one that makes them enough different people forgets the attestation key. A
// refusal says why nothing changed.
//
// Only the key is forgotten. The device's identity is its endorsement key and stays, and with it owner, tier, quarantine
// and everything that keeps older states out: the highest counters and what is known of the TPM's clock. What the old key
// had proven is worth nothing from then on: no lease, no offer, no stored answer, no recovery. The device has to enroll
// again, which shows that it is the same TPM, and then to prove its boot over a challenge.
func ForgetKey(d Device, q *Quarantine, own KeyVoice) (s Step, refused reason.Reason) {
	s = Step{Device: d}
	if d.Lifecycle == Retired {
		return s, reason.DeviceRetired
	}
	if d.KeyForgotten() {
		return s, reason.AKUnknown
	}
	voices := d.KeyVoices(own.At)
	if slices.ContainsFunc(voices, func(v KeyVoice) bool { return v.Person == own.Person }) {
		return s, reason.SamePerson
	}
	voices = append(voices, own)
	s.Device.ForgetKey = voices
	s.fact("device.ak_forget_asked", map[string]any{"ak_name": d.AKName, "why": own.Why})
	var people []string
	var yes []Approval
	for _, v := range voices {
		people, yes = append(people, v.Person), append(yes, Approval{Person: v.Person, At: v.At})
	}
	if People(yes, "") < ApprovalsToLoosen {
		return s, ""
	}
	s.forgetKey(q, people)
	return s, ""
}

func (s *Step) forgetKey(q *Quarantine, people []string) {
	n := &s.Device
	s.fact("device.ak_forgotten", map[string]any{"before": n.AKPublic, "forgotten": people})
	n.AKPublic, n.AKName, n.AKQualifiedSigner, n.ForgetKey = nil, nil, nil, nil
	if n.Offered != "" {
		s.Update = "superseded"
	}
	n.closeOffer()
	n.forgetPoll()
	n.LeaseUntil, n.StaleSince = time.Time{}, time.Time{}
	if n.Standing != Refused {
		n.Standing = Unproven
	}
	if q != nil && !q.RecoveredAt.IsZero() { // it was the forgotten key that showed the recovery
		again := *q
		again.RecoveredAt = time.Time{}
		s.Quarantine = &again
	}
}
