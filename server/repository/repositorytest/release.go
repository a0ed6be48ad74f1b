package repositorytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/binary"

	"github.com/go-json-experiment/json"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
)

// Component is the name of the one component of a Draft, Hardware what it is for.
const (
	Component = "system"
	Hardware  = "rev-a"
)

// Draft is a release before it is signed.
type Draft struct {
	Release artifacts.Release
	Request api.PublishRequest // without bundles
	Image   []byte
	Values  reference.Values
}

// Draft makes a release with one UKI whose documents are uploaded already.
func (w *World) Draft(product, version string, counter uint64) *Draft {
	w.T.Helper()
	d := &Draft{Image: UKI(product + " " + version)}
	d.Values = Must(reference.PredictUKI(bytes.NewReader(d.Image), int64(len(d.Image))))
	values := Must(d.Values.Encode())
	sbom := sbomOf(product, version)
	c := artifacts.Component{
		Name: Component, HardwareIDs: []string{Hardware}, SHA256: w.Upload(d.Image), Length: int64(len(d.Image)), Installer: "uki",
		ReferenceValues: w.Upload(values), ReferenceLength: int64(len(values)),
	}
	d.Release = artifacts.Release{Product: product, Version: version, Counter: counter, Components: []artifacts.Component{c}}
	d.Request = api.PublishRequest{
		Reference: map[string]digest.SHA256{Component: c.ReferenceValues}, SBOMs: map[string]digest.SHA256{Component: w.Upload(sbom)},
	}
	return d
}

// Signed is the request with one bundle of each key.
func (d *Draft) Signed(keys ...*ecdsa.PrivateKey) api.PublishRequest {
	payload := Must(Must(artifacts.NewStatement(d.Release)).Encode())
	out := d.Request
	for _, k := range keys {
		out.Bundles = append(out.Bundles, Bundle(payload, k))
	}
	return out
}

// Publish publishes a draft as the pipeline "robot", or ends the test.
func (w *World) Publish(d *Draft) api.Release {
	w.T.Helper()
	out, err := w.Service.Publish(w.T.Context(), "robot", d.Signed(w.Publisher))
	if err != nil {
		w.T.Fatalf("Publish: %v", err)
	}
	return out
}

// Bundle is a Sigstore bundle of a key over a statement.
func Bundle(payload []byte, key *ecdsa.PrivateKey) []byte {
	sum := digest.Of(dsse.PAE(artifacts.PayloadType, payload))
	type object = map[string]any
	return Must(json.Marshal(object{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": object{"publicKey": object{"hint": Must(artifacts.KeyHint(&key.PublicKey))}},
		"dsseEnvelope": object{
			"payload": payload, "payloadType": artifacts.PayloadType,
			"signatures": []object{{"sig": Must(key.Sign(rand.Reader, sum[:], crypto.SHA256))}},
		},
	}, json.Deterministic(true)))
}

// UKI is a small unified kernel image; label makes it different from others.
func UKI(label string) []byte {
	return image([]section{
		{".text", bytes.Repeat([]byte("stub"), 300)},
		{".sdmagic", []byte("#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\x00")},
		{".osrel", []byte("ID=cordon\n")},
		{".cmdline", []byte("console=ttyS0 label=" + label)},
		{".linux", image([]section{{".text", bytes.Repeat([]byte("kernel code "), 900)}})},
		{".initrd", bytes.Repeat([]byte{7, 1}, 4<<10)},
	})
}

type section struct {
	name string
	data []byte
}

// image is a PE32+ file with these sections.
func image(sections []section) []byte {
	const alignment, peOffset, directories = 512, 64, 112
	const optional, optionalSize = peOffset + 24, directories + 16*8
	up := func(n int) int { return (n + alignment - 1) / alignment * alignment }
	headers := up(optional + optionalSize + 40*len(sections))
	b := make([]byte, headers)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3C:], peOffset)
	copy(b[peOffset:], "PE\x00\x00\x64\x86")
	binary.LittleEndian.PutUint16(b[peOffset+6:], uint16(len(sections)))
	binary.LittleEndian.PutUint16(b[peOffset+20:], optionalSize)
	binary.LittleEndian.PutUint16(b[optional:], 0x20B)
	binary.LittleEndian.PutUint32(b[optional+60:], uint32(headers))
	binary.LittleEndian.PutUint32(b[optional+directories-4:], 16)
	for i, s := range sections {
		row := b[optional+optionalSize+40*i:]
		copy(row[:8], s.name)
		binary.LittleEndian.PutUint32(row[8:], uint32(len(s.data)))
		binary.LittleEndian.PutUint32(row[12:], uint32(0x10000*(i+1)))
		binary.LittleEndian.PutUint32(row[16:], uint32(up(len(s.data))))
		binary.LittleEndian.PutUint32(row[20:], uint32(len(b)))
		b = append(b, s.data...)
		b = append(b, make([]byte, up(len(s.data))-len(s.data))...)
	}
	return b
}

// UploadAgain uploads what may be there already, and returns it.
func (w *World) UploadAgain(data []byte) []byte {
	w.Upload(data)
	return data
}

// ValuesOf is the document with a draft's Reference Values, SBOMOf its SBOM.
func (w *World) ValuesOf(d *Draft) []byte { return Must(d.Values.Encode()) }

// SBOMOf: see ValuesOf.
func (w *World) SBOMOf(d *Draft) []byte { return sbomOf(d.Release.Product, d.Release.Version) }

func sbomOf(product, version string) []byte {
	return []byte(`{"spdxVersion":"SPDX-2.3","name":"` + product + " " + version + `"}`)
}
