package reference

import "github.com/cordon-ota/cordon/attestation/digest"

// bootImageEvent is the position in PCR 4 at which a boot path measures the image itself: after the firmware's calling
// action and the separator, and after systemd-boot where that starts it.
var bootImageEvent = map[string]int{BootDirectUKI: 2, BootSystemdBoot: 3}

// BootDigest is the Authenticode digest under which the firmware starts the image: it names exactly this image in an
// event log, where a kernel inside it may be shared with others. It is the same in every Shape. ok is false for a
// BootChain: no measurement of it is the image's alone.
func (v Values) BootDigest() (d digest.SHA256, ok bool) {
	event, ok := bootImageEvent[v.Boot]
	if !ok {
		return digest.SHA256{}, false
	}
	for _, p := range v.PCRs {
		if p.Index == pcrPrograms && len(p.Events) > event {
			return p.Events[event].Digest, true
		}
	}
	return digest.SHA256{}, false
}
