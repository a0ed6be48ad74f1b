// Package evidencetest makes labelled Evidence for tests and for the conformance suite: event logs, software attestation
// keys and quotes, good and wrong ones. Cases is the table of negative evidence: what a verifier must refuse, why, and
// what it must affirm although it looks odd.
//
// It promises that what it makes has the form of genuine evidence, and nothing else: it proves nothing about any
// device. It refuses nothing. No product code may import it; nobody trusts it.
package evidencetest

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// LogBuilder writes crypto-agile TCG event logs with the SHA-256 bank alone. It writes what it is told, valid or not:
// attacks are made with it too.
type LogBuilder struct {
	b    []byte
	pcrs map[int]digest.SHA256
}

// NewLog starts a log with its Spec ID header.
func NewLog() *LogBuilder {
	spec := []byte("Spec ID Event03\x00")
	spec = append(spec, 0, 0, 0, 0, 0, 2, 0, 2) // platform class, spec 2.0 errata 0, 64-bit UINTN
	spec = binary.LittleEndian.AppendUint32(spec, 1)
	spec = binary.LittleEndian.AppendUint16(spec, 0x000B)
	spec = binary.LittleEndian.AppendUint16(spec, digest.Size)
	spec = append(spec, 0) // no vendor information
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, eventlog.TypeNoAction)
	b = append(b, make([]byte, 20)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(spec)))
	return &LogBuilder{b: append(b, spec...), pcrs: map[int]digest.SHA256{}}
}

// Add appends one event and extends d into the PCR; EV_NO_ACTION extends nothing, but a startup locality changes where
// PCR 0 starts.
func (l *LogBuilder) Add(pcr int, typ uint32, d digest.SHA256, data []byte) {
	l.b = binary.LittleEndian.AppendUint32(l.b, uint32(pcr))
	l.b = binary.LittleEndian.AppendUint32(l.b, typ)
	l.b = binary.LittleEndian.AppendUint32(l.b, 1)
	l.b = binary.LittleEndian.AppendUint16(l.b, 0x000B)
	l.b = append(l.b, d[:]...)
	l.b = binary.LittleEndian.AppendUint32(l.b, uint32(len(data)))
	l.b = append(l.b, data...)
	if typ == eventlog.TypeNoAction {
		if locality, ok := bytes.CutPrefix(data, []byte("StartupLocality\x00")); ok && len(locality) == 1 {
			l.pcrs[0] = digest.SHA256{digest.Size - 1: locality[0]}
		}
		return
	}
	value, ok := l.pcrs[pcr]
	if !ok {
		value = eventlog.ResetValue(pcr)
	}
	l.pcrs[pcr] = eventlog.Extend(value, d)
}

// AddHashed appends an event that measures its own data.
func (l *LogBuilder) AddHashed(pcr int, typ uint32, data []byte) {
	l.Add(pcr, typ, digest.Of(data), data)
}

// Bytes returns the log so far.
func (l *LogBuilder) Bytes() []byte { return append([]byte(nil), l.b...) }

// PCRs returns all 24 registers as they stand after the events so far.
func (l *LogBuilder) PCRs() map[int]digest.SHA256 {
	out := make(map[int]digest.SHA256, eventlog.MaxPCR+1)
	for pcr := range eventlog.MaxPCR + 1 {
		out[pcr] = eventlog.ResetValue(pcr)
	}
	for pcr, value := range l.pcrs {
		out[pcr] = value
	}
	return out
}

// UTF16 returns s in little-endian UTF-16 with a zero unit at the end, as loaders write texts into logs.
func UTF16(s string) []byte {
	var out []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// efiGUIDs of variables, as they stand in a log.
var (
	globalGUID   = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	securityGUID = []byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// Variable returns UEFI_VARIABLE_DATA for one of the Secure Boot or boot option variables.
func Variable(name string, value []byte) []byte {
	guid := globalGUID
	if name == "db" || name == "dbx" {
		guid = securityGUID
	}
	out := append([]byte(nil), guid...)
	wide := UTF16(name)
	wide = wide[:len(wide)-2]
	out = binary.LittleEndian.AppendUint64(out, uint64(len(wide)/2))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
	return append(append(out, wide...), value...)
}
