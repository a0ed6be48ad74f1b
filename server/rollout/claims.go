package rollout

import (
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Claim is one component that a device says it has, in its own words.
type Claim struct {
	Component string
	SHA256    digest.SHA256
	Release   string // product/version that it says brought the component; "" when it does not know
}

// Image is the measured component of a release for a hardware id.
type Image struct {
	Release   string // product/version
	Component string
	SHA256    digest.SHA256
}

// Disputed says in one sentence what the claims contradict of the image that the device has just proven, "" when they
// agree with it or say nothing about it. Published are the images of the product's other releases.
//
// The digest decides: the same bytes may belong to two releases. A component that no release measures, and an image that
// was never published, is no claim about the boot: a quote cannot contradict it.
func Disputed(proven Image, published []Image, claims []Claim) string {
	for _, c := range claims {
		switch {
		case c.SHA256 == proven.SHA256:
			continue
		case c.SHA256.IsZero() && (c.Release == proven.Release || c.Release == ""):
			continue
		case c.Component == proven.Component && c.Release != "":
			return fmt.Sprintf("it claims %s for component %s, and its quote proves %s", c.Release, c.Component, proven.Release)
		}
		for _, image := range published {
			if !c.SHA256.IsZero() && image.SHA256 == c.SHA256 {
				return fmt.Sprintf("it claims the image of %s, and its quote proves %s", image.Release, proven.Release)
			}
		}
	}
	return ""
}
