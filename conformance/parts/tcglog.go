package parts

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Event types of the TCG PC Client Platform Firmware Profile 1.05, section 10.4.1.
const (
	evNoAction       = 0x00000003
	evSeparator      = 0x00000004
	evEventTag       = 0x00000006
	evSCRTMVersion   = 0x00000008
	evIPL            = 0x0000000d
	evVariableDriver = 0x80000001
	evVariableBoot   = 0x80000002
	evBootServices   = 0x80000003
	evGPT            = 0x80000006
	evEFIAction      = 0x80000007
	evFirmwareBlob   = 0x80000008
)

// tagInitrd and tagLoadOptions are the tagged events of the Linux EFI stub (drivers/firmware/efi/libstub/efistub.h).
const (
	tagInitrd      = 0x8f3b22ec
	tagLoadOptions = 0x8f3b22ed
)

// algSHA256 is TPM_ALG_SHA256.
const algSHA256 = 0x000b

// measurement is one event: what the log says, and what goes into the PCR.
type measurement struct {
	pcr    int
	kind   uint32
	digest digest.SHA256
	data   []byte
}

// measured is an event whose digest is over its own data.
func measured(pcr int, kind uint32, data []byte) measurement {
	return measurement{pcr: pcr, kind: kind, digest: digest.Of(data), data: data}
}

// encodeLog writes a crypto-agile log with the SHA-256 bank: the Spec ID event in the old format, then the events.
func encodeLog(events []measurement) []byte {
	var b bytes.Buffer
	spec := specID()
	put(&b, uint32(0), uint32(evNoAction), [20]byte{}, uint32(len(spec)))
	b.Write(spec)
	for _, e := range events {
		put(&b, uint32(e.pcr), e.kind, uint32(1), uint16(algSHA256), e.digest, uint32(len(e.data)))
		b.Write(e.data)
	}
	return b.Bytes()
}

// specID is TCG_EfiSpecIDEvent: version 2.0, 64-bit UINTN, one algorithm, no vendor information.
func specID() []byte {
	var b bytes.Buffer
	b.WriteString("Spec ID Event03\x00")
	put(&b, uint32(0), uint8(0), uint8(2), uint8(0), uint8(2), uint32(1), uint16(algSHA256), uint16(digest.Size), uint8(0))
	return b.Bytes()
}

// variable is UEFI_VARIABLE_DATA.
func variable(guid [16]byte, name string, content []byte) []byte {
	wide := utf16.Encode([]rune(name))
	var b bytes.Buffer
	put(&b, guid, uint64(len(wide)), uint64(len(content)), wide, content)
	return b.Bytes()
}

// imageLoad is UEFI_IMAGE_LOAD_EVENT without a link-time address.
func imageLoad(address uint64, size int, devicePath []byte) []byte {
	var b bytes.Buffer
	put(&b, address, uint64(size), uint64(0), uint64(len(devicePath)), devicePath)
	return b.Bytes()
}

// tagged is TCG_PCClientTaggedEvent holding a NUL-terminated text.
func tagged(tag uint32, text string) []byte {
	var b bytes.Buffer
	put(&b, tag, uint32(len(text)+1))
	b.WriteString(text + "\x00")
	return b.Bytes()
}

// wideText is s in UTF-16LE with a terminating zero.
func wideText(s string) []byte {
	var b bytes.Buffer
	put(&b, utf16.Encode([]rune(s)), uint16(0))
	return b.Bytes()
}

// loadOptions is the command line as systemd-stub hands it over: each byte widened to 16 bits, and a terminating zero.
func loadOptions(cmdline []byte) []byte {
	wide := make([]byte, 0, 2*len(cmdline)+2)
	for _, c := range cmdline {
		wide = append(wide, c, 0)
	}
	return append(wide, 0, 0)
}

// put appends fixed-size values in little-endian order; bytes.Buffer takes them all.
func put(b *bytes.Buffer, values ...any) {
	for _, v := range values {
		_ = binary.Write(b, binary.LittleEndian, v)
	}
}
