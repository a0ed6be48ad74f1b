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
	ErrSpec     = errors.New("component must be name=FILE,hw=A+B,installer=KIND[,measured=yes|no]")
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
}

// measuredInstallers install what the firmware or its loader measures, so their images are measured unless said otherwise.
var measuredInstallers = []string{"uki", "ab"}

// ParseSpec reads name=FILE,hw=A+B,installer=KIND[,measured=yes|no]; it returns ErrSpec for anything else. A file name with
// a comma cannot be given.
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
		if _, twice := seen[key]; !ok || value == "" || twice {
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
		default:
			return fail("unknown key %.80q", key)
		}
	}
	if len(s.Hardware) == 0 || s.Installer == "" {
		return fail("hw and installer are needed")
	}
	slices.Sort(s.Hardware)
	s.Measured = seen["measured"] == "yes" || seen["measured"] == "" && slices.Contains(measuredInstallers, s.Installer)
	return s, nil
}

// image is an opened component: its bytes, and what the statement says about it.
type image struct {
	file      *os.File
	component artifacts.Component
	reference []byte // Reference Values document; nil for an image that is not measured
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
	values, err := reference.PredictUKI(f, n)
	if errors.Is(err, reference.ErrNotUKI) {
		return image{}, fmt.Errorf("component %s: %q: %w: %w", s.Name, s.File, ErrNotUKI, err)
	}
	if err != nil {
		return image{}, fmt.Errorf("cannot predict Reference Values of component %s: %w", s.Name, err)
	}
	if values.Image != sum {
		return image{}, fmt.Errorf("component %s: %w", s.Name, ErrChanged)
	}
	if im.reference, err = values.Encode(); err != nil {
		return image{}, fmt.Errorf("cannot encode Reference Values of component %s: %w", s.Name, err)
	}
	im.component.ReferenceValues, im.component.ReferenceLength = digest.Of(im.reference), int64(len(im.reference))
	return im, nil
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
