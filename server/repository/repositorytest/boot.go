package repositorytest

import (
	"bytes"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// Loader is a small systemd-boot; label makes it different from others.
func Loader(label string) []byte {
	return image([]section{
		{".text", bytes.Repeat([]byte("loader "+label), 100)},
		{".sdmagic", []byte("#### LoaderInfo: systemd-boot 252.39-1~deb12u2 ####\x00")},
	})
}

// Chain is a small boot chain of GRUB; label makes it different from others.
func Chain(label string) []byte {
	sum := func(s string) digest.SHA256 { return digest.Of([]byte(s + label)) }
	return Must(reference.Chain{
		Version:  reference.ChainVersion,
		Starts:   []reference.ChainStart{{Action: "Calling EFI Application from Boot Option"}, {Separator: true}, {Name: "grub", SHA256: sum("grub")}},
		Commands: []string{"grub_cmd: set label=" + label}, Files: []reference.ChainFile{{Name: "/vmlinuz", SHA256: sum("kernel")}},
	}.Encode())
}

// DraftVia is like Draft for a fleet whose devices start the image with one of the loaders, which are uploaded, too.
func (w *World) DraftVia(product, version string, counter uint64, loaders ...[]byte) *Draft {
	w.T.Helper()
	var how reference.Boot
	for _, l := range loaders {
		w.UploadAgain(l)
		how.Loaders = append(how.Loaders, reference.SourceOf(l))
	}
	return w.booted(product, version, counter, how)
}

// DraftOf is like Draft for an image that the boot chain starts, which is uploaded, too.
func (w *World) DraftOf(product, version string, counter uint64, chain []byte) *Draft {
	w.T.Helper()
	w.UploadAgain(chain)
	source := reference.SourceOf(chain)
	return w.booted(product, version, counter, reference.Boot{Chain: &source})
}

func (w *World) booted(product, version string, counter uint64, how reference.Boot) *Draft {
	w.T.Helper()
	d := w.Draft(product, version, counter)
	d.Claim(w, Must(reference.Predict(reference.SourceOf(d.Image), how)))
	return d
}

// Claim states other Reference Values for the draft, and uploads them.
func (d *Draft) Claim(w *World, v reference.Values) {
	w.T.Helper()
	d.Values = v
	doc := Must(v.Encode())
	c := &d.Release.Components[0]
	c.ReferenceValues, c.ReferenceLength = digest.Of(w.UploadAgain(doc)), int64(len(doc))
	d.Request.Reference = map[string]digest.SHA256{Component: c.ReferenceValues}
}
