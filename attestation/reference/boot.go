package reference

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Limits on what a release may name beside its image.
const (
	MaxLoaders     = 4       // boot loaders: more than one while a fleet changes from one to the next
	MaxLoaderBytes = 4 << 20 // each
)

// Errors of Predict besides those of PredictUKI; test with errors.Is.
var (
	// ErrNotLoader: a file that was given as boot loader is no PE program.
	ErrNotLoader = errors.New("file is not a boot loader")
	// ErrChain: a boot chain that cannot be read; ErrMalformed comes with it.
	ErrChain = errors.New("boot chain cannot be used")
	// ErrInputs: the files beside the image contradict each other, or are too many.
	ErrInputs = errors.New("boot loaders or boot chain cannot be used together like this")
)

// Source is a file to read.
type Source struct {
	R    io.ReaderAt
	Size int64
}

// Boot says how devices boot an image. The zero value: the firmware starts the UKI itself.
type Boot struct {
	Loaders []Source // systemd-boot: each that devices of the fleet start the UKI with; at most MaxLoaders
	Chain   *Source  // a Chain document; excludes Loaders
}

// Predict computes the Reference Values of an image for every way to boot it like that, with Secure Boot off and on. The
// order of the loaders does not matter. It returns ErrNotUKI, ErrNotLoader, ErrInputs, ErrUnpredictable, ErrChain, or
// an error of a Source.
func Predict(im Source, how Boot) (Values, error) {
	if how.Chain != nil && len(how.Loaders) > 0 {
		return Values{}, fmt.Errorf("%w: give boot loaders or a boot chain, not both", ErrInputs)
	}
	if how.Chain != nil {
		return predictChain(im, *how.Chain)
	}
	loaders, err := readLoaders(how.Loaders)
	if err != nil {
		return Values{}, err
	}
	u, err := readUKI(im.R, im.Size)
	if err != nil {
		return Values{}, err
	}
	if len(loaders) == 0 {
		return u.values(BootDirectUKI, nil, []way{{}, {secureBoot: true}}), nil
	}
	if err := u.checkEntry(); err != nil {
		return Values{}, err
	}
	var ways []way
	for i := range loaders {
		ways = append(ways, way{loader: &loaders[i]}, way{loader: &loaders[i], secureBoot: true})
	}
	return u.values(BootSystemdBoot, loaders, ways), nil
}

// PredictAgain predicts what v was predicted from: whoever has image and inputs can check the claim v by comparing. open
// finds an Input by its digest; what it returns must have the Length of the Input.
func PredictAgain(v Values, im Source, open func(Input) (Source, error)) (Values, error) {
	if v.Version == Version {
		return PredictUKI(im.R, im.Size)
	}
	var how Boot
	for _, in := range v.Inputs {
		s, err := open(in)
		if err != nil {
			return Values{}, err
		}
		if in.Kind == InputChain {
			how.Chain = &s
			continue
		}
		how.Loaders = append(how.Loaders, s)
	}
	return Predict(im, how)
}

// values writes down the ways to boot the image: the first one in full, of the others what is different.
func (u *uki) values(boot string, inputs []Input, ways []way) Values {
	v := Values{Version: VersionShapes, Image: u.file, Boot: boot, PCRs: u.registers(ways[0]), Inputs: inputs}
	for _, w := range ways {
		v.Shapes = append(v.Shapes, Shape{What: w.what(), SecureBoot: w.secureBoot, PCRs: different(v.PCRs, u.registers(w))})
	}
	return v
}

// what describes the way in plain words.
func (w way) what() string {
	start, state := "started by the firmware", "off"
	if w.loader != nil {
		start = "started by " + w.loader.What
	}
	if w.secureBoot {
		state = "on"
	}
	return start + ", Secure Boot " + state
}

// different returns the registers of other that do not hold what those of base hold; both name the same ones in order.
func different(base, other []PCR) []PCR {
	out := []PCR{}
	for i, p := range other {
		if p.Value != base[i].Value {
			out = append(out, p)
		}
	}
	return out
}

// checkEntry refuses images that systemd-boot does not offer, or starts otherwise than is known.
func (u *uki) checkEntry() error {
	_, ok, err := u.im.magic()
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: it has no section .sdmagic that names its systemd-stub", ErrUnpredictable)
	}
	for _, name := range []string{".osrel", ".cmdline"} {
		if _, ok := u.digests[name]; !ok {
			return fmt.Errorf("%w: it has no section %s, and what systemd-boot makes of that is not known", ErrUnpredictable, name)
		}
	}
	return nil
}

// loaderName finds name and version in the section .sdmagic of systemd-boot.
var loaderName = regexp.MustCompile(`^#### LoaderInfo: (systemd-boot ([0-9]+)[^#]*) ####\x00?$`)

// loaderVersion is the version whose measurements are modelled: 252 measures load options only. Later ones measure
// their configuration and more.
const loaderVersion = "252"

// readLoaders reads boot loaders and brings them into the order of their digests.
func readLoaders(sources []Source) ([]Input, error) {
	if len(sources) > MaxLoaders {
		return nil, fmt.Errorf("%w: %d boot loaders, at most %d", ErrInputs, len(sources), MaxLoaders)
	}
	var out []Input
	for _, s := range sources {
		in, err := readLoader(s)
		if err != nil {
			return nil, err
		}
		out = append(out, in)
	}
	slices.SortFunc(out, func(a, b Input) int { return bytes.Compare(a.SHA256[:], b.SHA256[:]) })
	for i := 1; i < len(out); i++ {
		if out[i].Program == out[i-1].Program || out[i].SHA256 == out[i-1].SHA256 {
			return nil, fmt.Errorf("%w: a boot loader is named twice", ErrInputs)
		}
	}
	return out, nil
}

// readLoader reads a boot loader into memory, so that all that is said of it is said of the same bytes.
func readLoader(s Source) (Input, error) {
	if s.Size < dosHeaderBytes || s.Size > MaxLoaderBytes {
		return Input{}, fmt.Errorf("%w: it has %d bytes, a boot loader has %d to %d", ErrNotLoader, s.Size, dosHeaderBytes, MaxLoaderBytes)
	}
	b, err := readAt(s.R, 0, int(s.Size))
	if err != nil {
		return Input{}, err
	}
	im, err := openPE(bytes.NewReader(b), s.Size)
	if err != nil {
		return Input{}, notLoader(err)
	}
	name, err := im.loader()
	if err != nil {
		return Input{}, notLoader(err)
	}
	program, err := im.authenticode()
	if err != nil {
		return Input{}, err
	}
	return Input{Kind: InputLoader, SHA256: digest.Of(b), Length: s.Size, Program: program, What: name}, nil
}

// notLoader takes care that an error about a loader does not speak of a UKI.
func notLoader(err error) error {
	if errors.Is(err, ErrNotUKI) {
		return fmt.Errorf("%w: %s", ErrNotLoader, strings.TrimPrefix(err.Error(), ErrNotUKI.Error()+": "))
	}
	return err
}

// loader returns the name of a systemd-boot whose measurements are known.
func (im *image) loader() (string, error) {
	const remedy = "; known is systemd-boot " + loaderVersion + ": give that one, or start the image without a loader"
	text, ok, err := im.magic()
	if err == nil && !ok {
		text, ok, err = im.magicBehind()
	}
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("%w with this boot loader: it has no section .sdmagic%s", ErrUnpredictable, remedy)
	}
	m := loaderName.FindSubmatch(text)
	if m == nil || !plain(string(m[1])) {
		return "", fmt.Errorf("%w with this boot loader: it calls itself %q%s", ErrUnpredictable, clip(text), remedy)
	}
	if string(m[2]) != loaderVersion {
		return "", fmt.Errorf("%w with this boot loader: it is %s%s", ErrUnpredictable, m[1], remedy)
	}
	return string(m[1]), nil
}

// magicBegin is how systemd's programs begin to say what they are.
const magicBegin = "#### LoaderInfo: "

// magicBehind reads what a boot loader says it is behind its last section, where Debian 12 has it in the one for arm64: the
// section table ends too early there. A text that is there twice says nothing.
func (im *image) magicBehind() (text []byte, ok bool, err error) {
	end := im.headers
	for _, s := range im.sections {
		end = max(end, s.offset+s.raw)
	}
	length := im.size - im.certs - end // a loader has MaxLoaderBytes
	if length <= 0 {
		return nil, false, nil // the certificates are said to begin before that
	}
	b, err := readAt(im.r, end, int(length))
	if err != nil || bytes.Count(b, []byte(magicBegin)) != 1 {
		return nil, false, err
	}
	b = b[bytes.Index(b, []byte(magicBegin)):]
	if zero := bytes.IndexByte(b, 0); zero >= 0 {
		b = b[:zero]
	}
	return b, len(b) <= maxMagic, nil
}
