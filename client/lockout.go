package client

import "github.com/cordon-ota/cordon/attestation/reason"

// noteLockout tells the operator, once each, that the TPM went into dictionary-attack lockout and that it came out of
// it. The device's own keys have noDA, so that it proves itself all the same; what other programs keep in the TPM does
// not work then. It is no finding about the boot state.
func (c *Client) noteLockout() {
	locked, err := c.cfg.TPM.LockedOut()
	if err != nil || locked == c.state.LockedOut {
		return
	}
	c.state.LockedOut = locked
	if !locked {
		c.event(reason.Reason(""), "the TPM is out of its dictionary-attack lockout")
		c.log.Info("the TPM is out of its dictionary-attack lockout")
		return
	}
	c.event(reason.TPMLockedOut, "the TPM is in dictionary-attack lockout")
	c.log.Warn("the TPM is in dictionary-attack lockout", "reason", string(reason.TPMLockedOut), "remedy", remedy(reason.TPMLockedOut))
}
