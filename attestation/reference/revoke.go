package reference

import "github.com/cordon-ota/cordon/attestation/digest"

// bootImageEvent is the position in PCR 4 at which a direct boot measures the image itself: after the firmware's calling
// action and the separator.
const bootImageEvent = 2

// BootDigest is the Authenticode digest under which the firmware starts the image: it names exactly this image in an
// event log, where a kernel inside it may be shared with others. ok is false for values of another boot path.
func (v Values) BootDigest() (d digest.SHA256, ok bool) {
	if v.Boot != BootDirectUKI {
		return digest.SHA256{}, false
	}
	for _, p := range v.PCRs {
		if p.Index == 4 && len(p.Events) > bootImageEvent {
			return p.Events[bootImageEvent].Digest, true
		}
	}
	return digest.SHA256{}, false
}
