package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Kinds of signature lists (UEFI 2.10, section 32.4.1), as they stand in a log.
var (
	signatureX509   = GUID{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	signatureSHA256 = GUID{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
)

// SignatureList is EFI_SIGNATURE_LIST: entries of one kind and one size.
type SignatureList struct {
	Type    GUID
	Entries []Signature
}

// Signature is EFI_SIGNATURE_DATA: who added the entry, and a certificate, a digest, or what Type says.
type Signature struct {
	Owner GUID
	Data  []byte // a view of the event's data
}

// Lengths of EFI_SIGNATURE_LIST without its entries, and of an entry's owner.
const (
	listHeader  = 28
	entryHeader = 16
)

// cutList cuts the first signature list off b. Every size is held against what is there: a list is at least its header,
// an entry at least its owner, the entries fill the list to its last byte, and no kind of list has a header of its own.
func cutList(b []byte) (entries []byte, entry uint32, rest []byte, ok bool) {
	if len(b) < listHeader {
		return nil, 0, nil, false
	}
	size, vendor, entry := binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:]), binary.LittleEndian.Uint32(b[24:])
	if size < listHeader || uint64(size) > uint64(len(b)) || vendor != 0 || entry < entryHeader || (size-listHeader)%entry != 0 {
		return nil, 0, nil, false
	}
	return b[listHeader:size], entry, b[size:], true
}

// SignatureLists reads the value of one of the variables PK, KEK, db, dbx, dbt and dbr; ok is false when a size in it
// does not fit. An empty value is no list.
func (v Variable) SignatureLists() (lists []SignatureList, ok bool) {
	for b := v.Data; len(b) > 0; {
		entries, entry, rest, ok := cutList(b)
		if !ok {
			return nil, false
		}
		l := SignatureList{Type: GUID(b), Entries: make([]Signature, 0, len(entries)/int(entry))}
		for ; len(entries) > 0; entries = entries[entry:] {
			l.Entries = append(l.Entries, Signature{Owner: GUID(entries), Data: entries[entryHeader:entry]})
		}
		lists = append(lists, l)
		b = rest
	}
	return lists, true
}

// holdsSignatureLists reports whether SignatureLists can read v, and allocates nothing.
func (v Variable) holdsSignatureLists() bool {
	for b := v.Data; len(b) > 0; {
		_, _, rest, ok := cutList(b)
		if !ok {
			return false
		}
		b = rest
	}
	return true
}

// Bounds on what one explanation reads: certificates that are named, and the length of one of them.
const (
	maxNamed       = 4
	maxCertificate = 8 << 10
)

// signers renders signature lists: how many certificates, whose, and how many digests.
func signers(lists []SignatureList) string {
	var certificates, digests, others int
	var names []string
	for _, l := range lists {
		switch l.Type {
		case signatureX509:
			for _, s := range l.Entries {
				certificates++
				if len(names) < maxNamed {
					names = append(names, certificateName(s.Data))
				}
			}
		case signatureSHA256:
			digests += len(l.Entries)
		default:
			others += len(l.Entries)
		}
	}
	var parts []string
	if certificates > 0 {
		if certificates > len(names) {
			names = append(names, "...")
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", count(certificates, "certificate"), strings.Join(names, ", ")))
	}
	if digests > 0 {
		parts = append(parts, count(digests, "SHA-256 digest"))
	}
	if others > 0 {
		parts = append(parts, count(others, "other entry"))
	}
	if len(parts) == 0 {
		return "empty"
	}
	return strings.Join(parts, ", ")
}

// count renders n and what is counted, in the plural where that is due.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Attributes of a subject that people know a certificate by, the first that is there.
var nameAttributes = [...][]byte{{0x55, 4, 3}, {0x55, 4, 11}, {0x55, 4, 10}} // common name, unit, organisation

// certificateName is the subject that a reader knows a certificate by. It walks over the certificate and allocates
// nothing but the name: a parser of whole certificates takes 200 bytes of memory for a byte of a hostile one.
func certificateName(der []byte) string {
	const unreadable = "a certificate that cannot be read"
	if len(der) > maxCertificate {
		return "a certificate that is too long to be read"
	}
	input := cryptobyte.String(der)
	var certificate, tbs, subject cryptobyte.String
	if !input.ReadASN1(&certificate, asn1.SEQUENCE) || !certificate.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific()) || // version
		!tbs.SkipASN1(asn1.INTEGER) || // serial number
		!tbs.SkipASN1(asn1.SEQUENCE) || // signature algorithm
		!tbs.SkipASN1(asn1.SEQUENCE) || // issuer
		!tbs.SkipASN1(asn1.SEQUENCE) || // validity
		!tbs.ReadASN1(&subject, asn1.SEQUENCE) {
		return unreadable
	}
	var values [len(nameAttributes)]cryptobyte.String
	for !subject.Empty() {
		var set, attribute, oid, value cryptobyte.String
		if !subject.ReadASN1(&set, asn1.SET) {
			return unreadable
		}
		for !set.Empty() {
			if !set.ReadASN1(&attribute, asn1.SEQUENCE) || !attribute.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !attribute.ReadAnyASN1(&value, nil) {
				return unreadable
			}
			for i, known := range nameAttributes {
				if values[i] == nil && bytes.Equal(oid, known) {
					values[i] = value
				}
			}
		}
	}
	for _, value := range values {
		if len(value) > 0 {
			return clean(string(value))
		}
	}
	return "a certificate without a name"
}
