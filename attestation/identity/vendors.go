package identity

import (
	"encoding/hex"
	"slices"
	"strings"
)

// vendorNames are the manufacturers of the TCG TPM Vendor ID Registry, version 1.07, with two clouds that sell TPMs
// without being in it (AMZN, VMW). A TPM names its manufacturer by these characters, padded to four bytes with zeros
// or, in older ones, with a space. Simulators have entries of their own there, which are left out.
var vendorNames = [...]string{
	"AMD", "AMZN", "ANT", "ATML", "BRCM", "CSCO", "FLYS", "GOOG", "HISI", "HPE", "HPI", "IBM", "IFX", "INTC", "LEN", "MSFT", "NSG",
	"NSM", "NTC", "NTZ", "QCOM", "ROCC", "SEAL", "SECE", "SMSC", "SMSN", "SNS", "STM", "TXN", "VMW", "WEC",
}

// KnownManufacturer reports whether the registry of TPM vendors has this manufacturer, given as "id:49465800".
func KnownManufacturer(id string) bool {
	if !vendorID(id) {
		return false
	}
	b, err := hex.DecodeString(id[len("id:"):])
	return err == nil && slices.Contains(vendorNames[:], strings.TrimRight(string(b), "\x00 "))
}
