package reference

import (
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Measured is what a boot log tells of an image whose file is not at hand.
type Measured struct {
	Program, Kernel digest.SHA256            // Authenticode digests of UKI and kernel
	Options         []byte                   // load options
	Sections        map[string]digest.SHA256 // content of sections
	Loader          digest.SHA256            // Authenticode digest; zero: the firmware starts the UKI
}

// ValuesOf applies the formulas of Predict to m.
func ValuesOf(m Measured) Values {
	u := &uki{digests: m.Sections, options: m.Options, program: m.Program, kernel: m.Kernel, file: digest.Of([]byte("image"))}
	for _, name := range measuredSections {
		if _, ok := m.Sections[name]; ok {
			u.names = append(u.names, name)
		}
	}
	if m.Loader.IsZero() {
		return u.values(BootDirectUKI, nil, []way{{}, {secureBoot: true}})
	}
	in := []Input{{Kind: InputLoader, SHA256: digest.Of([]byte("loader")), Length: 1, Program: m.Loader, What: "a loader"}}
	return u.values(BootSystemdBoot, in, []way{{loader: &in[0]}, {loader: &in[0], secureBoot: true}})
}
