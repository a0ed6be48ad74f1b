package identity

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
)

// Object identifiers of the TCG EK Credential Profile, section 3.
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidManufacturer   = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel          = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion        = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

// tpmName is what a subject alternative name says about the TPM.
type tpmName struct {
	err   error    // the extension, or a name in it, cannot be read
	names int      // directory names
	twice []string // attributes that are there more than once
}

// readTPM fills Manufacturer, Model and Version from the first directoryName of the subject alternative name, and marks
// that extension as understood when it has one: crypto/x509 does not know this kind of name.
func (r *ekReading) readTPM() {
	i := slices.IndexFunc(r.leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return
	}
	var names []pkix.RDNSequence
	names, r.name.err = directoryNames(r.leaf.Extensions[i].Value)
	if r.name.names = len(names); r.name.names == 0 {
		return
	}
	r.leaf.UnhandledCriticalExtensions = slices.DeleteFunc(r.leaf.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	for _, set := range names[0] {
		for _, attribute := range set {
			r.readAttribute(attribute)
		}
	}
}

func (r *ekReading) readAttribute(attribute pkix.AttributeTypeAndValue) {
	for _, known := range []struct {
		id    asn1.ObjectIdentifier
		field *string
		name  string
	}{{oidManufacturer, &r.ek.Manufacturer, "manufacturer"}, {oidModel, &r.ek.Model, "model"}, {oidVersion, &r.ek.Version, "version"}} {
		text, ok := attribute.Value.(string)
		if !ok || !attribute.Type.Equal(known.id) {
			continue
		}
		if *known.field != "" {
			r.name.twice = append(r.name.twice, known.name)
			continue
		}
		*known.field = text
	}
}

// directoryNames returns the directoryNames of a GeneralNames (RFC 5280, 4.2.1.6), up to the first one that cannot be
// read.
func directoryNames(san []byte) ([]pkix.RDNSequence, error) {
	var sequence asn1.RawValue
	rest, err := asn1.Unmarshal(san, &sequence)
	if err != nil || len(rest) > 0 || sequence.Class != asn1.ClassUniversal || sequence.Tag != asn1.TagSequence || !sequence.IsCompound {
		return nil, fmt.Errorf("%w: bad subject alternative name", errCertificate)
	}
	var found []pkix.RDNSequence
	for rest := sequence.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return found, fmt.Errorf("%w: bad subject alternative name", errCertificate)
		}
		if name.Class != asn1.ClassContextSpecific || name.Tag != 4 {
			continue
		}
		var rdn pkix.RDNSequence
		if after, err := asn1.Unmarshal(name.Bytes, &rdn); err != nil || len(after) > 0 {
			return found, fmt.Errorf("%w: bad directory name", errCertificate)
		}
		found = append(found, rdn)
	}
	return found, nil
}

// plainText reports whether s is 1 to 64 printable characters: models and versions are shown to people.
func plainText(s string) bool {
	return s != "" && len(s) <= 64 && !slices.ContainsFunc([]rune(s), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd })
}
