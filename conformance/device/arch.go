package device

import "github.com/cordon-ota/cordon/conformance/parts"

// What machines of arm64 are in the inventory.
const (
	HardwareARM64 = "virt"
	ProfileARM64  = "virt-aavmf"
)

// named is what machines of an architecture are in the inventory.
func named(arch parts.Arch) (hardware, profile string) {
	if arch == parts.ARM64 {
		return HardwareARM64, ProfileARM64
	}
	return Hardware, Profile
}

func (f *Fleet) hardware() string {
	hardware, _ := named(f.cfg.Arch)
	return hardware
}

func (f *Fleet) profile() string {
	_, profile := named(f.cfg.Arch)
	return profile
}
