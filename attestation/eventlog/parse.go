package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Signatures at the start of EV_NO_ACTION data; everything else under that type is refused.
var (
	sigSpecID   = []byte("Spec ID Event03\x00")
	sigSpecID00 = []byte("Spec ID Event00\x00")
	sigSpecID02 = []byte("Spec ID Event02\x00")
	sigLocality = []byte("StartupLocality\x00")
	sigsRIM     = [...][]byte{[]byte("SP800-155 Event\x00"), []byte("SP800-155 Event2"), []byte("SP800-155 Event3")}
)

// algorithmSHA256 is TPM_ALG_SHA256.
const algorithmSHA256 = 0x000B

// digestSizes are the digest lengths of the TPM algorithm registry; a log with any other bank is refused.
var digestSizes = map[uint16]int{
	0x0004: 20, algorithmSHA256: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32, 0x0027: 32, 0x0028: 48, 0x0029: 64,
}

// bank is one row of the header's algorithm table.
type bank struct {
	algorithm uint16
	size      uint32
}

// sizeOf finds the digest length of a bank; a log has eight at most.
func sizeOf(banks []bank, algorithm uint16) (uint32, bool) {
	for _, b := range banks {
		if b.algorithm == algorithm {
			return b.size, true
		}
	}
	return 0, false
}

// reader hands out the bytes of a log in order. After the first short read it stays failed.
type reader struct {
	b      []byte
	off    int
	failed bool
}

// take returns the next n bytes, or nil and a failed reader. n is compared without arithmetic that could overflow.
func (r *reader) take(n uint32) []byte {
	if r.failed || uint64(n) > uint64(len(r.b)-r.off) {
		r.failed = true
		return nil
	}
	out := r.b[r.off : r.off+int(n) : r.off+int(n)]
	r.off += int(n)
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) done() bool { return r.off == len(r.b) }

// Parse reads a whole log. It returns ErrTooLarge for one beyond the limits, ErrFormat for a log of a TPM 1.2, and
// ErrMalformed for everything else that is not a crypto-agile log with a SHA-256 digest in each event. The result
// shares memory with b.
func Parse(b []byte) (Log, error) { return parse(b, noteRules[:]) }

// parse is Parse with the rules for EV_NO_ACTION given.
func parse(b []byte, rules []noteRule) (Log, error) {
	if len(b) > MaxBytes {
		return Log{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxBytes)
	}
	r := &reader{b: b}
	header, banks, err := parseHeader(r)
	if err != nil {
		return Log{}, err
	}
	p := parser{r: r, banks: banks, rules: rules, log: Log{Events: append(make([]Event, 0, roomFor(len(b))), header)}}
	for !r.done() {
		if len(p.log.Events) == MaxEvents {
			return Log{}, fmt.Errorf("%w: more than %d events", ErrTooLarge, MaxEvents)
		}
		if err := p.event(); err != nil {
			return Log{}, err
		}
	}
	return p.log, nil
}

// roomFor is how many events are made room for at first: genuine logs have one for some 400 bytes. It is never more than
// a part of the bytes that are there.
func roomFor(size int) int { return min(MaxEvents, 16+size/256) }

// parser holds what the events of one log depend on.
type parser struct {
	r        *reader
	banks    []bank
	rules    []noteRule
	log      Log
	locality bool // StartupLocality was seen
	pcr0     bool // something was extended into PCR 0
}

// event reads one TCG_PCR_EVENT2 (section 10.2.2) and appends it.
func (p *parser) event() error {
	e := Event{Index: len(p.log.Events)}
	pcr := p.r.u32()
	e.Type = p.r.u32()
	count := p.r.u32()
	if p.r.failed {
		return malformed(e.Index, "it is cut short")
	}
	if pcr > MaxPCR {
		err := malformed(e.Index, "PCR index %d", pcr)
		if e.Type == TypeNoAction { // Windows, and firmware that measures into NV indexes, which are named there
			err = fmt.Errorf("%w: %w", ErrNote, err)
		}
		return err
	}
	e.PCR = int(pcr)
	if err := p.digests(&e, count); err != nil {
		return err
	}
	size := p.r.u32()
	e.Data = p.r.take(size)
	if p.r.failed {
		return malformed(e.Index, "its data is longer than the log")
	}
	if size > MaxDataBytes {
		return fmt.Errorf("%w: event %d has %d bytes of data, at most %d", ErrTooLarge, e.Index, size, MaxDataBytes)
	}
	if err := p.admit(e); err != nil {
		return err
	}
	p.log.Events = append(p.log.Events, e)
	return nil
}

// digests reads TPML_DIGEST_VALUES: each bank of the header at most once, SHA-256 always.
func (p *parser) digests(e *Event, count uint32) error {
	if count == 0 || count > uint32(len(p.banks)) {
		return malformed(e.Index, "%d digests where the log has %d banks", count, len(p.banks))
	}
	var seen [8]uint16 // as many as digestSizes has rows, and a bank is never repeated
	for i := range count {
		algorithm := p.r.u16()
		size, ok := sizeOf(p.banks, algorithm)
		if p.r.failed || !ok {
			return malformed(e.Index, "a digest of a bank that the header does not list")
		}
		for _, s := range seen[:i] {
			if s == algorithm {
				return malformed(e.Index, "two digests of one bank")
			}
		}
		seen[i] = algorithm
		d := p.r.take(size)
		if algorithm == algorithmSHA256 && d != nil {
			e.Digest = digest.SHA256(d)
		}
	}
	if p.r.failed {
		return malformed(e.Index, "its digests are cut short")
	}
	for _, s := range seen[:count] {
		if s == algorithmSHA256 {
			return nil
		}
	}
	return malformed(e.Index, "no SHA-256 digest")
}

// note is what the rules for EV_NO_ACTION look at.
type note struct {
	Event
	locality bool // the data starts like a startup locality
	again    bool // a startup locality was seen before
	measured bool // something was extended into PCR 0 before
}

// noteRule is a rule that an EV_NO_ACTION event keeps, or the log is malformed.
type noteRule struct {
	name  string
	what  string
	keeps func(note) bool
}

// minReference is the length of an SP800-155 note up to its GUID: signature, vendor id, GUID.
const minReference = 16 + 4 + 16

// noteRules are the rules for EV_NO_ACTION (V-61). Such an event extends nothing, so without them an attacker retypes the
// events that he wants to hide.
var noteRules = [...]noteRule{
	{"note-digest", "EV_NO_ACTION with a digest", func(n note) bool { return n.Digest.IsZero() }},
	{"note-signature", "EV_NO_ACTION with an unknown signature", func(n note) bool { return n.locality || n.reference() }},
	{"note-pcr", "EV_NO_ACTION for a PCR other than 0", func(n note) bool { return n.PCR == 0 }},
	{"reference-length", "a reference to the vendor's measurements that is cut short", func(n note) bool {
		return !n.reference() || len(n.Data) >= minReference
	}},
	{"locality-length", "a startup locality with a wrong length", func(n note) bool {
		return !n.locality || len(n.Data) == len(sigLocality)+1
	}},
	{"locality-value", "a startup locality other than 0, 3 and 4", func(n note) bool {
		return !n.locality || n.value() == 0 || n.value() == 3 || n.value() == 4
	}},
	{"locality-once", "a second startup locality", func(n note) bool { return !n.locality || !n.again }},
	{"locality-first", "a startup locality after the first measurement into PCR 0", func(n note) bool { return !n.locality || !n.measured }},
}

// reference reports whether n says where the vendor publishes reference measurements.
func (n note) reference() bool {
	for _, sig := range sigsRIM {
		if bytes.HasPrefix(n.Data, sig) {
			return true
		}
	}
	return false
}

// value is the locality that n names; a wrong length is another rule's affair.
func (n note) value() byte {
	if len(n.Data) == 0 {
		return 0
	}
	return n.Data[len(n.Data)-1]
}

// admit applies noteRules and remembers what they depend on.
func (p *parser) admit(e Event) error {
	if e.Extends() {
		p.pcr0 = p.pcr0 || e.PCR == 0
		return nil
	}
	n := note{Event: e, locality: bytes.HasPrefix(e.Data, sigLocality), again: p.locality, measured: p.pcr0}
	for _, rule := range p.rules {
		if rule.keeps(n) {
			continue
		}
		err := malformed(e.Index, "%s (%s)", rule.what, rule.name)
		if rule.name == "note-signature" || rule.name == "note-pcr" {
			err = fmt.Errorf("%w: %w", ErrNote, err)
		}
		return err
	}
	if n.locality {
		p.locality = true
		p.log.Locality = n.value()
	}
	return nil
}

// parseHeader reads the TCG_PCR_EVENT with TCG_EfiSpecIDEvent that starts a crypto-agile log (section 10.4.5.1).
func parseHeader(r *reader) (Event, []bank, error) {
	pcr, typ := r.u32(), r.u32()
	sha1 := r.take(20)
	data := r.take(r.u32())
	if r.failed {
		return Event{}, nil, fmt.Errorf("%w: it is shorter than its header", ErrMalformed)
	}
	if pcr != 0 || typ != TypeNoAction || !bytes.HasPrefix(data, sigSpecID) {
		if !bytes.HasPrefix(data, sigSpecID) && oldFormat(r.b, typ, data) {
			return Event{}, nil, ErrFormat
		}
		return Event{}, nil, fmt.Errorf("%w: it does not start with a Spec ID Event03", ErrMalformed)
	}
	if !bytes.Equal(sha1, make([]byte, 20)) {
		return Event{}, nil, malformed(0, "the header has a digest")
	}
	banks, err := parseBanks(data)
	if err != nil {
		return Event{}, nil, err
	}
	return Event{Type: TypeNoAction, Data: data}, banks, nil
}

// parseBanks reads the algorithm table of the Spec ID event.
func parseBanks(data []byte) ([]bank, error) {
	r := &reader{b: data}
	r.take(uint32(len(sigSpecID)))
	r.take(8) // platform class, spec version minor, major, errata, size of UINTN
	count := r.u32()
	if r.failed || count == 0 || count > uint32(len(digestSizes)) {
		return nil, malformed(0, "the algorithm table is cut short or has %d rows", count)
	}
	banks := make([]bank, 0, count)
	for range count {
		algorithm, size := r.u16(), r.u16()
		known, ok := digestSizes[algorithm]
		if r.failed || !ok || known != int(size) {
			return nil, malformed(0, "algorithm 0x%04x with digests of %d bytes", algorithm, size)
		}
		if _, twice := sizeOf(banks, algorithm); twice {
			return nil, malformed(0, "algorithm 0x%04x is listed twice", algorithm)
		}
		banks = append(banks, bank{algorithm, uint32(known)})
	}
	r.take(uint32(r.u8())) // vendor information
	if r.failed || !r.done() {
		return nil, malformed(0, "the vendor information does not end with the header")
	}
	if _, ok := sizeOf(banks, algorithmSHA256); !ok {
		return nil, malformed(0, "the log has no SHA-256 bank")
	}
	return banks, nil
}

// oldFormat recognises a log of TCG_PCR_EVENT structures only (SHA-1), so that its owner can be told what is wrong. Some
// of them have EV_NO_ACTION events for PCR 2^32-1.
func oldFormat(b []byte, typ uint32, data []byte) bool {
	if typ == TypeNoAction && (bytes.HasPrefix(data, sigSpecID00) || bytes.HasPrefix(data, sigSpecID02)) {
		return true
	}
	r := &reader{b: b}
	for !r.done() {
		pcr, typ := r.u32(), r.u32()
		r.take(20)
		r.take(r.u32())
		if r.failed || pcr > MaxPCR && (typ != TypeNoAction || pcr != 0xFFFFFFFF) {
			return false
		}
	}
	return len(b) > 0
}

// malformed names the event that is wrong.
func malformed(index int, format string, args ...any) error {
	return fmt.Errorf("%w: event %d: %s", ErrMalformed, index, fmt.Sprintf(format, args...))
}
