// Package publish takes images to a server as a signed release: it hashes them, predicts their Reference Values, signs the
// release statement, uploads what the server does not have and hands the bundle over.
//
// It promises that running it again with the same input changes nothing and that a run that was cut off continues where it
// stood. It refuses an image that changes while it is read, a measured image that is not a UKI, and a version that is
// published with other bytes.
//
// Trusted: whoever controls it decides what the publisher's key signs.
package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Errors that a caller tests for.
var (
	ErrSpec     = errors.New("component must be name=FILE,hw=A+B,installer=KIND[,measured=yes|no][,boot_loader=FILE...][,boot_chain=FILE]")
	ErrImage    = errors.New("image cannot be used")
	ErrNotUKI   = errors.New("image is to be measured but is not a unified kernel image")
	ErrChanged  = errors.New("image changed while it was read")
	ErrConflict = errors.New("version exists with other content")
	ErrSetup    = errors.New("server has no signed root yet")
)

// Spec is one --component as typed.
type Spec struct {
	Name      string
	File      string
	Hardware  []string
	Installer string
	Measured  bool
	Loaders   []string // Optional: files of the boot loaders that devices start the image with; none: the firmware starts it
	Chain     string   // Optional: file of the boot chain; excludes Loaders
}

// measuredInstallers install what the firmware or its loader measures, so their images are measured unless said otherwise.
var measuredInstallers = []string{"uki", "ab"}

// ParseSpec reads name=FILE,hw=A+B,installer=KIND[,measured=yes|no][,boot_loader=FILE...][,boot_chain=FILE]; it returns
// ErrSpec for anything else. boot_loader may be there several times. A file name with a comma cannot be given.
func ParseSpec(text string) (Spec, error) {
	fail := func(format string, args ...any) (Spec, error) {
		return Spec{}, fmt.Errorf("%w: %.200q: %s", ErrSpec, text, fmt.Sprintf(format, args...))
	}
	parts := strings.Split(text, ",")
	name, file, ok := strings.Cut(parts[0], "=")
	if !ok || file == "" {
		return fail("it does not start with name=FILE")
	}
	if err := artifacts.ValidName(name); err != nil {
		return fail("%v", err)
	}
	s := Spec{Name: name, File: file}
	seen := map[string]string{}
	for _, part := range parts[1:] {
		key, value, ok := strings.Cut(part, "=")
		if _, twice := seen[key]; !ok || value == "" || twice && key != loaderKey {
			return fail("%.80q is not key=value, or its key is there twice", part)
		}
		seen[key] = value
		switch key {
		case "hw":
			s.Hardware = strings.Split(value, "+")
		case "installer":
			s.Installer = value
		case "measured":
			if value != "yes" && value != "no" {
				return fail("measured is yes or no")
			}
		case loaderKey:
			s.Loaders = append(s.Loaders, value)
		case "boot_chain":
			s.Chain = value
		default:
			return fail("unknown key %.80q", key)
		}
	}
	if len(s.Hardware) == 0 || s.Installer == "" {
		return fail("hw and installer are needed")
	}
	slices.Sort(s.Hardware)
	boot := len(s.Loaders) > 0 || s.Chain != ""
	if boot && seen["measured"] == "no" {
		return fail("boot_loader and boot_chain are for images that are measured")
	}
	if len(s.Loaders) > reference.MaxLoaders || len(s.Loaders) > 0 && s.Chain != "" {
		return fail("give at most %d boot_loader, or one boot_chain", reference.MaxLoaders)
	}
	s.Measured = boot || seen["measured"] == "yes" || seen["measured"] == "" && slices.Contains(measuredInstallers, s.Installer)
	return s, nil
}

// loaderKey may be given several times.
const loaderKey = "boot_loader"

// image is an opened component: its bytes, and what the statement says about it.
type image struct {
	file      *os.File
	component artifacts.Component
	reference []byte // Reference Values document; nil for an image that is not measured
	earlier   []byte // the document that versions before boot shapes made of the same image; nil if they made none
	inputs    []blob // what the document was predicted from besides the image
}

// openImage hashes an image and predicts its Reference Values. The caller closes image.file.
func openImage(ctx context.Context, s Spec, progress func(int64)) (image, error) {
	f, err := os.Open(s.File)
	if err != nil {
		return image{}, fmt.Errorf("%w: component %s: %w", ErrImage, s.Name, err)
	}
	im, err := readImage(ctx, s, f, progress)
	if err != nil {
		return image{}, errors.Join(err, f.Close())
	}
	return im, nil
}

func readImage(ctx context.Context, s Spec, f *os.File, progress func(int64)) (image, error) {
	info, err := f.Stat()
	if err != nil {
		return image{}, fmt.Errorf("%w: component %s: %w", ErrImage, s.Name, err)
	}
	if !info.Mode().IsRegular() || info.Size() < 1 || info.Size() > artifacts.MaxImageBytes {
		return image{}, fmt.Errorf("%w: component %s: %q is no regular file of 1 to %d bytes", ErrImage, s.Name, s.File, int64(artifacts.MaxImageBytes))
	}
	sum, n, err := hash(ctx, f, progress)
	if err != nil {
		return image{}, fmt.Errorf("%w: component %s: %w", ErrImage, s.Name, err)
	}
	if n != info.Size() {
		return image{}, fmt.Errorf("component %s: %w", s.Name, ErrChanged)
	}
	im := image{file: f, component: artifacts.Component{Name: s.Name, HardwareIDs: s.Hardware, SHA256: sum, Length: n, Installer: s.Installer}}
	if !s.Measured {
		return im, nil
	}
	return im, im.predict(s, n)
}

// predict computes the Reference Values of the image and everything that they name.
func (im *image) predict(s Spec, length int64) error {
	how, err := im.boot(s)
	if err != nil {
		return err
	}
	values, err := reference.Predict(reference.Source{R: im.file, Size: length}, how)
	if errors.Is(err, reference.ErrNotUKI) {
		return fmt.Errorf("component %s: %q: %w: %w", s.Name, s.File, ErrNotUKI, err)
	}
	if err != nil {
		return fmt.Errorf("cannot predict Reference Values of component %s: %w", s.Name, err)
	}
	if values.Image != im.component.SHA256 {
		return fmt.Errorf("component %s: %w", s.Name, ErrChanged)
	}
	document, err := values.Encode()
	if err != nil {
		return fmt.Errorf("cannot encode Reference Values of component %s: %w", s.Name, err)
	}
	im.refer(document)
	if values.Boot == reference.BootDirectUKI {
		one := reference.Values{Version: reference.Version, Image: values.Image, Boot: values.Boot, PCRs: values.PCRs}
		im.earlier, err = one.Encode()
	}
	return err
}

// refer makes document the Reference Values of the component.
func (im *image) refer(document []byte) {
	im.reference = document
	im.component.ReferenceValues, im.component.ReferenceLength = digest.Of(document), int64(len(document))
}

// boot reads the files that say how devices boot the image. They are small, and stay in memory, so that what is uploaded is
// what was predicted from.
func (im *image) boot(s Spec) (reference.Boot, error) {
	var how reference.Boot
	for _, path := range s.Loaders {
		b, err := readSmall(path, reference.MaxLoaderBytes)
		if err != nil {
			return reference.Boot{}, fmt.Errorf("%w: boot loader of component %s: %w", ErrImage, s.Name, err)
		}
		how.Loaders = append(how.Loaders, reference.SourceOf(b))
		im.inputs = append(im.inputs, bytesBlob(s.Name+" (boot loader)", b))
	}
	if s.Chain != "" {
		b, err := readSmall(s.Chain, reference.MaxChainBytes)
		if err != nil {
			return reference.Boot{}, fmt.Errorf("%w: boot chain of component %s: %w", ErrImage, s.Name, err)
		}
		chain := reference.SourceOf(b)
		how.Chain = &chain
		im.inputs = append(im.inputs, bytesBlob(s.Name+" (boot chain)", b))
	}
	return how, nil
}

// readSmall reads a whole file of 1 to limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if len(b) < 1 || int64(len(b)) > limit {
		return nil, fmt.Errorf("%q must have 1 to %d bytes", path, limit)
	}
	return b, nil
}

func hash(ctx context.Context, r io.Reader, progress func(int64)) (digest.SHA256, int64, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return digest.SHA256{}, n, err
		}
		k, err := r.Read(buf)
		h.Write(buf[:k])
		n += int64(k)
		progress(n)
		if errors.Is(err, io.EOF) {
			return digest.SHA256(h.Sum(nil)), n, nil
		}
		if err != nil {
			return digest.SHA256{}, n, err
		}
	}
}
