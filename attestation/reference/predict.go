package reference

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// Errors of PredictUKI and Predict; test with errors.Is. Any other error of them means that a file could not be read.
var (
	// ErrNotUKI: the file is no PE program, or has no kernel in it.
	ErrNotUKI = errors.New("file is not a unified kernel image")
	// ErrUnpredictable: this build does not know what a device that boots it like that measures.
	ErrUnpredictable = errors.New("cannot predict what this image measures")
)

// The PCRs that a UKI owns.
const (
	pcrPrograms    = 4  // the firmware: what it starts
	pcrKernelInput = 9  // the kernel's EFI stub: command line and initrd; GRUB: the files that it read
	pcrSections    = 11 // systemd-stub: sections of the UKI
	pcrOverrides   = 12 // systemd-boot and systemd-stub: command line and files from outside of the UKI
	pcrExtensions  = 13 // systemd-stub: system extensions from outside of the UKI; a direct boot of the image alone has none
)

// bootAction is the text that the firmware measures into PCR 4 before it tries boot options.
const bootAction = "Calling EFI Application from Boot Option"

// measuredSections are the sections that systemd-stub 252 measures into PCR 11, in its order.
var measuredSections = [...]string{".linux", ".osrel", ".cmdline", ".initrd"}

// otherSections are sections that some version of systemd-stub measures or acts on, and that no recorded evidence
// covers. A wrong expectation would refuse every device of a fleet, so it is not made.
var otherSections = [...]string{
	".splash", ".dtb", ".dtbauto", ".hwids", ".ucode", ".pcrpkey", ".pcrsig", ".profile", ".efifw",
}

// stubName finds the version in the section .sdmagic of a systemd-stub.
var stubName = regexp.MustCompile(`^#### LoaderInfo: systemd-stub ([0-9]+)[^#]* ####\x00?$`)

// stubVersion is the version whose measurements are modelled.
const stubVersion = "252"

// uki is what is measured of an image.
type uki struct {
	im      *image
	linux   section
	names   []string // sections that are there, in the order of measuredSections
	digests map[string]digest.SHA256
	options []byte        // the command line as load options; nil when the image has none
	file    digest.SHA256 // the image as a file
	program digest.SHA256 // the image as a program that firmware starts
	kernel  digest.SHA256 // the same of the kernel in it
}

// PredictUKI computes the Reference Values of the UKI in r (size bytes) for the boot path BootDirectUKI with Secure
// Boot off: Values of version 1. It reads r in streams with flat memory. It returns ErrNotUKI, ErrUnpredictable, or an
// error of r.
func PredictUKI(r io.ReaderAt, size int64) (Values, error) {
	u, err := readUKI(r, size)
	if err != nil {
		return Values{}, err
	}
	return Values{Version: Version, Image: u.file, Boot: BootDirectUKI, PCRs: u.registers(way{})}, nil
}

// readUKI reads everything that is measured of the image, and refuses what is not understood.
func readUKI(r io.ReaderAt, size int64) (*uki, error) {
	im, err := openPE(r, size)
	if err != nil {
		return nil, err
	}
	u := &uki{im: im, digests: map[string]digest.SHA256{}}
	for _, step := range []func() error{u.check, u.hashSections, u.hashPrograms, u.readOptions} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if u.file, err = hashAll(r, size); err != nil {
		return nil, err
	}
	return u, nil
}

// way is one way to boot a UKI.
type way struct {
	loader     *Input // nil: the firmware starts the UKI itself
	secureBoot bool
}

// registers lists what ends up in the PCRs that the image owns.
func (u *uki) registers(w way) []PCR {
	return []PCR{
		register(pcrPrograms, u.programEvents(w)), register(pcrKernelInput, u.kernelInput()),
		register(pcrSections, u.sectionEvents()), register(pcrOverrides, u.overrides(w)),
		register(pcrExtensions, []Event{}),
	}
}

// register computes where events lead.
func register(index int, events []Event) PCR {
	return PCR{Index: index, Events: events, Value: replay(events)}
}

// replay extends events into a register of zeros.
func replay(events []Event) digest.SHA256 {
	var v digest.SHA256
	for _, e := range events {
		v = eventlog.Extend(v, e.Digest)
	}
	return v
}

// check refuses images whose measurements are not known, before anything large is read.
func (u *uki) check() error {
	linux, ok, err := u.im.find(".linux")
	if err != nil {
		return err
	}
	if !ok {
		return notUKI("no section .linux")
	}
	u.linux = linux
	for _, name := range otherSections {
		if _, ok, err := u.im.find(name); err != nil || ok {
			return errors.Join(err, fmt.Errorf("%w: it has a section %s", ErrUnpredictable, name))
		}
	}
	for i, s := range u.im.sections {
		if err := u.checkSection(i, s); err != nil {
			return err
		}
	}
	return u.checkStub()
}

// checkSection refuses what the stub would see otherwise than this package does. The stub takes sections from memory, by
// the beginning of their names, and the last one of a name wins.
func (u *uki) checkSection(index int, s section) error {
	for _, name := range slices.Concat(otherSections[:], measuredSections[:]) {
		if s.name != name && strings.HasPrefix(s.name, name) && !slices.Contains(otherSections[:], s.name) {
			return fmt.Errorf("%w: section %q begins like %s", ErrUnpredictable, s.name, name)
		}
	}
	if !slices.Contains(measuredSections[:], s.name) {
		return nil
	}
	for i, other := range u.im.sections {
		inMemory := other.virtual
		if inMemory == 0 {
			inMemory = other.raw // as firmware does
		}
		if i != index && s.address < other.address+inMemory && other.address < s.address+s.virtual {
			return fmt.Errorf("%w: in memory section %s lies over section %q", ErrUnpredictable, s.name, other.name)
		}
	}
	return nil
}

// checkStub compares the stub's version with the one that is modelled: later ones measure more.
func (u *uki) checkStub() error {
	text, ok, err := u.im.magic()
	if err != nil || !ok {
		return err
	}
	m := stubName.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("%w: its section .sdmagic names no systemd-stub", ErrUnpredictable)
	}
	if string(m[1]) != stubVersion {
		return fmt.Errorf("%w: it was made with systemd-stub %s, known is %s", ErrUnpredictable, m[1], stubVersion)
	}
	return nil
}

// maxMagic bounds the section in which systemd's programs say what they are.
const maxMagic = 1024

// magic reads that section; ok is false when there is none.
func (im *image) magic() (text []byte, ok bool, err error) {
	s, ok, err := im.find(".sdmagic")
	if err != nil || !ok {
		return nil, false, err
	}
	if s.virtual > maxMagic {
		return nil, false, fmt.Errorf("%w: its section .sdmagic has %d bytes", ErrUnpredictable, s.virtual)
	}
	text, err = readAt(im.r, s.offset, int(s.virtual))
	return text, err == nil, err
}

// hashSections hashes each measured section once.
func (u *uki) hashSections() error {
	for _, name := range measuredSections {
		s, ok, err := u.im.find(name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		d, err := hashAll(u.im.content(s), s.virtual)
		if err != nil {
			return err
		}
		u.names = append(u.names, name)
		u.digests[name] = d
	}
	return nil
}

// hashPrograms computes the digests under which firmware measures the image and the kernel in it.
func (u *uki) hashPrograms() error {
	inner, err := openPE(u.im.content(u.linux), u.linux.virtual)
	if err != nil {
		return fmt.Errorf("cannot read the kernel in section .linux: %w", err)
	}
	if u.program, err = u.im.authenticode(); err != nil {
		return err
	}
	u.kernel, err = inner.authenticode()
	return err
}

// programEvents lists PCR 4: the firmware announces boot options, ends its own part, and starts the loader or the UKI.
// The stub lets the firmware start the kernel; with Secure Boot on it has vouched for the kernel itself, so that the
// firmware neither checks nor measures it.
func (u *uki) programEvents(w way) []Event {
	events := []Event{
		{Digest: digest.Of([]byte(bootAction)), What: "the firmware tries its boot options"},
		{Digest: digest.Of(make([]byte, 4)), What: "separator"},
	}
	if w.loader != nil {
		events = append(events, Event{Digest: w.loader.Program, What: "the boot loader, as a program: " + w.loader.What})
	}
	events = append(events, Event{Digest: u.program, What: "the unified kernel image, as a program"})
	if w.secureBoot {
		return events
	}
	return append(events, Event{Digest: u.kernel, What: "the kernel in section .linux, as a program"})
}

// overrides lists PCR 12. systemd-boot starts the UKI with the image's own command line as load options and measures
// them; the stub takes load options, and measures them again, unless Secure Boot is on.
func (u *uki) overrides(w way) []Event {
	events := []Event{}
	if w.loader == nil {
		return events
	}
	line := digest.Of(u.options)
	events = append(events, Event{Digest: line, What: "load options that systemd-boot gives: the kernel command line"})
	if w.secureBoot {
		return events
	}
	return append(events, Event{Digest: line, What: "load options that systemd-stub took: the kernel command line"})
}

// kernelInput lists PCR 9: the kernel's EFI stub measures its load options in UTF-16 and the initrd.
func (u *uki) kernelInput() []Event {
	events := []Event{}
	if u.options != nil {
		events = append(events, Event{Digest: digest.Of(u.options), What: "load options: the kernel command line"})
	}
	if d, ok := u.digests[".initrd"]; ok {
		events = append(events, Event{Digest: d, What: "the initial file system"})
	}
	return events
}

// readOptions reads the command line.
func (u *uki) readOptions() error {
	s, ok, err := u.im.find(".cmdline")
	if err != nil || !ok {
		return err
	}
	u.options, err = u.loadOptions(s)
	return err
}

// loadOptions converts the command line as the stub does. Versions of the stub differ in what they make of control
// characters and of text beyond ASCII, so those are refused instead of guessed.
func (u *uki) loadOptions(s section) ([]byte, error) {
	if s.virtual > maxCommandLine {
		return nil, fmt.Errorf("%w: the command line has %d bytes, at most %d", ErrUnpredictable, s.virtual, maxCommandLine)
	}
	text, err := readAt(u.im.r, s.offset, int(s.virtual))
	if err != nil {
		return nil, err
	}
	if len(strings.Trim(string(text), " ")) != len(text) {
		return nil, fmt.Errorf("%w: section .cmdline begins or ends with a space; some versions of the stub leave it out", ErrUnpredictable)
	}
	out := make([]byte, 0, 2*len(text)+2)
	for i, c := range text {
		if c < 0x20 || c > 0x7E {
			return nil, fmt.Errorf("%w: byte %d of section .cmdline is 0x%02x; only printable ASCII without a line end is understood",
				ErrUnpredictable, i, c)
		}
		out = append(out, c, 0)
	}
	return append(out, 0, 0), nil
}

// sectionEvents lists PCR 11: per section its name with a zero byte, then its content.
func (u *uki) sectionEvents() []Event {
	var events []Event
	for _, name := range u.names {
		events = append(events,
			Event{Digest: digest.Of([]byte(name + "\x00")), What: "name of section " + name},
			Event{Digest: u.digests[name], What: "content of section " + name + sectionWords(name)})
	}
	return events
}

// sectionWords says what a section holds.
func sectionWords(name string) string {
	words := map[string]string{".linux": "the kernel", ".osrel": "the release description",
		".cmdline": "the kernel command line", ".initrd": "the initial file system"}
	return strings.TrimSuffix(": "+words[name], ": ")
}
