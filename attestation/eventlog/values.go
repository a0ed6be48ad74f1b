package eventlog

import (
	"encoding/binary"
	"fmt"
)

// GUID is an EFI_GUID as it stands in a log.
type GUID [16]byte

// String renders g as people write it: three little-endian fields, then eight bytes.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%x", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// Vendor GUIDs of the variables that decide about Secure Boot.
var (
	efiGlobal   = GUID{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	efiSecurity = GUID{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// Variable is UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile, section 10.2.6).
type Variable struct {
	GUID  GUID
	Name  string
	Data  []byte // a view of the event's data
	Exact bool   // nothing follows the variable
}

// parseVariable reads UEFI_VARIABLE_DATA; ok is false when the lengths in it do not fit into b.
func parseVariable(b []byte) (v Variable, ok bool) {
	const fixed = 32
	if len(b) < fixed {
		return Variable{}, false
	}
	copy(v.GUID[:], b)
	name := binary.LittleEndian.Uint64(b[16:])
	data := binary.LittleEndian.Uint64(b[24:])
	rest := uint64(len(b) - fixed)
	if name > rest/2 || data > rest-2*name {
		return Variable{}, false
	}
	v.Name = fromUTF16(b[fixed : fixed+2*name])
	v.Data = b[fixed+2*name : fixed+2*name+data]
	v.Exact = 2*name+data == rest
	return v, true
}

// Variable reads the firmware variable that e is about; ok is false for other types and for data that does not parse.
func (e Event) Variable() (v Variable, ok bool) {
	switch e.Type {
	case TypeEFIVariableConfig, TypeEFIVariableBoot, TypeEFIVariableBoot2, TypeEFIAuthority, TypeSPDMPolicy, TypeSPDMAuthority:
		return parseVariable(e.Data)
	default:
		return Variable{}, false
	}
}

// BootOption is EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3): what a Boot#### variable holds.
type BootOption struct {
	Attributes  uint32
	Description string
	Paths       [][]PathNode // the first names what is started
}

// BootOption reads the boot option that v holds.
func (v Variable) BootOption() (o BootOption, ok bool) {
	if len(v.Data) < 6 || !isBootOption(v.Name) {
		return BootOption{}, false
	}
	o.Attributes = binary.LittleEndian.Uint32(v.Data)
	n := int(binary.LittleEndian.Uint16(v.Data[4:]))
	description, rest := cutUTF16(v.Data[6:])
	if n > len(rest) {
		return BootOption{}, false
	}
	o.Description = description
	o.Paths, ok = parsePaths(rest[:n])
	return o, ok
}

// Image is UEFI_IMAGE_LOAD_EVENT (section 10.2.3): a program or driver that the firmware loaded. Its digest is that of
// the image; none of these fields is measured.
type Image struct {
	Address, Size, LinkAddress uint64
	Path                       []PathNode // empty when the image came from memory
}

// Image reads the image that e is about; ok is false for other types, and when lengths or device path do not fit.
func (e Event) Image() (i Image, ok bool) {
	paths, ok := e.imagePaths()
	if !ok {
		return Image{}, false
	}
	i.Address = binary.LittleEndian.Uint64(e.Data)
	i.Size = binary.LittleEndian.Uint64(e.Data[8:])
	i.LinkAddress = binary.LittleEndian.Uint64(e.Data[16:])
	if parsed, _ := parsePaths(paths); len(parsed) == 1 {
		i.Path = parsed[0]
	}
	return i, true
}

// imagePaths cuts the device path out of an image's description: none, or one. It allocates nothing.
func (e Event) imagePaths() (b []byte, ok bool) {
	const fixed = 32
	if e.Type != TypeEFIApplication && e.Type != TypeEFIBootDriver && e.Type != TypeEFIRuntimeDriver || len(e.Data) < fixed {
		return nil, false
	}
	n := binary.LittleEndian.Uint64(e.Data[24:])
	if n > uint64(len(e.Data)-fixed) {
		return nil, false
	}
	b = e.Data[fixed : fixed+n]
	count, ok := countPaths(b)
	return b, ok && count <= 1
}

// PartitionTable is UEFI_GPT_DATA (section 10.2.7).
type PartitionTable struct {
	Disk       GUID
	Partitions []Partition
}

// Partition is one entry of a PartitionTable that is in use.
type Partition struct {
	Type, ID    GUID
	First, Last uint64 // blocks
	Name        string
}

// PartitionTable reads the table that e is about; ok is false for other types, for data that is no table, and for a
// number of partitions that the data does not hold.
func (e Event) PartitionTable() (t PartitionTable, ok bool) {
	entries, ok := e.partitions()
	if !ok {
		return PartitionTable{}, false
	}
	copy(t.Disk[:], e.Data[56:])
	for ; len(entries) > 0; entries = entries[partitionEntry:] {
		b := entries[:partitionEntry]
		one := Partition{Type: GUID(b), ID: GUID(b[16:]), First: binary.LittleEndian.Uint64(b[32:]), Last: binary.LittleEndian.Uint64(b[40:])}
		one.Name, _ = cutUTF16(b[56:])
		t.Partitions = append(t.Partitions, one)
	}
	return t, true
}

// partitionEntry is the length of one entry of a partition table.
const partitionEntry = 128

// partitions cuts the entries out of a partition table: as many as it states. It allocates nothing.
func (e Event) partitions() (entries []byte, ok bool) {
	const header = 92
	b := e.Data
	if e.Type != TypeEFIGPT && e.Type != TypeEFIGPT2 || len(b) < header+8 || string(b[:8]) != "EFI PART" {
		return nil, false
	}
	count, rest := binary.LittleEndian.Uint64(b[header:]), b[header+8:]
	if count > uint64(len(rest)/partitionEntry) {
		return nil, false
	}
	return rest[:count*partitionEntry], true
}

// Tag is TCG_PCClientTaggedEvent (section 10.4.2.1).
type Tag struct {
	ID   uint32
	Data []byte // a view of the event's data
}

// Tag reads the tagged event that e is; ok is false for other types and for a length that does not fit.
func (e Event) Tag() (t Tag, ok bool) {
	if e.Type != TypeEventTag || len(e.Data) < 8 {
		return Tag{}, false
	}
	n := binary.LittleEndian.Uint32(e.Data[4:])
	if uint64(n) > uint64(len(e.Data)-8) {
		return Tag{}, false
	}
	return Tag{ID: binary.LittleEndian.Uint32(e.Data), Data: e.Data[8 : 8+n]}, true
}
