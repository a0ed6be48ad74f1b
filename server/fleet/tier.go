package fleet

import "strings"

// Tiers that the ways of admission reach on the trust ladder T0..T5. A device keeps the tier of its admission: nothing
// that it does or shows raises it.
const (
	TierInventory = 5 // a certified EK of a hardware TPM, which the inventory lists
	TierClaimed   = 4 // a certified EK that a one-time token or a person claimed, and every virtual TPM
	TierBare      = 2 // an EK without a certificate: nobody but its owner says that it is a TPM
)

// Ways of admission, as Admission.By has them; a person's is ByApproval and the name.
const (
	ByInventory = "inventory"
	ByToken     = "token"
	ByApproval  = "approval:"
)

// virtualTPMs are manufacturers of TPMs that are software beside the machine that they speak for: whoever runs the host
// can read their keys. The certificate vouches for that host's operator.
var virtualTPMs = map[string]bool{
	"id:00001014": true, // swtpm, as its certificate authority writes it
	"id:414D5A4E": true, // Amazon
	"id:474F4F47": true, // Google
	"id:4D534654": true, // Microsoft
}

// TierOf returns the tier that a way of admission gives this device.
func TierOf(d Device, by string) int {
	switch {
	case !d.Certified():
		return TierBare
	case by != ByInventory, virtualTPMs["id:"+strings.ToUpper(strings.TrimPrefix(d.Manufacturer, "id:"))]:
		return TierClaimed
	}
	return TierInventory
}

// Certified says that the device enrolled with an EK certificate.
func (d Device) Certified() bool { return len(d.EKCertificate) > 0 }

// Vouch notes that a device without an EK certificate has shown a one-time token. It stays pending: a person has to
// approve it as well, for what the token says.
func Vouch(d Device, a Admission) Step {
	s := Step{Device: d}
	if d.Lifecycle != Pending || d.Certified() {
		return s
	}
	n := &s.Device
	n.AdmittedBy, n.Product, n.HardwareID, n.Profile = a.By, a.Product, a.HardwareID, a.Profile
	s.fact("device.vouched", map[string]any{"product": a.Product, "hardware_id": a.HardwareID, "profile": a.Profile, "by": a.By})
	return s
}

// Approvable says whether a person's approval takes the device into the fleet for the product: one without an EK
// certificate needs a one-time token for that product first. A claim of the inventory can be corrected.
func Approvable(d Device, product string) bool {
	return d.Certified() || d.Lifecycle == Active || d.AdmittedBy == ByToken && d.Product == product
}
