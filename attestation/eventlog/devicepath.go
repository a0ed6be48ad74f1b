package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// maxNodes bounds how many nodes of a device path are looked at; real ones have fewer than ten.
const maxNodes = 32

// knownGUIDs are GUIDs in device paths that stand for something a reader knows.
var knownGUIDs = map[string]string{
	"55c5d1f8-04cd-46b5-8a20-e56cbb3052d0": "the kernel inside the unified kernel image",
	"7c04a583-9e3e-4f1c-ad65-e05268d0b4d1": "the firmware's shell",
	"462caa21-7614-4503-836e-8ab6f4662331": "the firmware's setup menu",
	"5568e427-68fc-4f3d-ac74-ca555231cc68": "the initial file system that the loader gives to Linux",
}

// devicePath renders the part of an EFI_DEVICE_PATH that tells a reader where a program came from (UEFI 2.10, section
// 10): the file, or the partition, firmware file, network address or device.
func devicePath(b []byte) string {
	var file, place string
	for range maxNodes {
		if len(b) < 4 || b[0] == 0x7F {
			break
		}
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			break
		}
		f, p := pathNode(b[0], b[1], b[4:n])
		if f != "" {
			file = joinPath(file, f)
		}
		if p != "" {
			place = p
		}
		b = b[n:]
	}
	switch {
	case file != "" && place != "":
		return clean(file) + " on " + place
	case file != "":
		return clean(file)
	case place != "":
		return place
	default:
		return "memory"
	}
}

// joinPath joins consecutive file nodes, which together make one path.
func joinPath(dir, name string) string {
	if len(dir) > 4*maxText {
		return dir
	}
	if dir == "" || strings.HasSuffix(dir, `\`) || strings.HasPrefix(name, `\`) {
		return dir + name
	}
	return dir + `\` + name
}

// pathNode renders one node as a file name or as a place.
func pathNode(typ, sub byte, data []byte) (file, place string) {
	switch [2]byte{typ, sub} {
	case [2]byte{4, 4}:
		text, _ := cutUTF16(data)
		return text, ""
	case [2]byte{4, 1}:
		if len(data) >= 36 {
			return "", fmt.Sprintf("partition %d (%s)", binary.LittleEndian.Uint32(data), guid(data[20:]))
		}
	case [2]byte{4, 3}, [2]byte{4, 6}:
		return "", nameGUID("firmware file ", data)
	case [2]byte{4, 7}:
		return "", nameGUID("firmware volume ", data)
	case [2]byte{4, 8}:
		return "", "an option ROM"
	case [2]byte{3, 24}:
		return "", "network address " + clean(string(data))
	case [2]byte{3, 11}:
		return "", "a network card"
	case [2]byte{1, 1}:
		if len(data) == 2 {
			return "", fmt.Sprintf("PCI device %02x.%x", data[1], data[0])
		}
	case [2]byte{1, 3}:
		return "", "memory"
	}
	return "", ""
}

func nameGUID(what string, data []byte) string {
	if len(data) < 16 {
		return ""
	}
	id := guid(data)
	if name, ok := knownGUIDs[id]; ok {
		return name
	}
	return what + id
}

// explainGPT speaks about UEFI_GPT_DATA: the partition table header, the number of partitions, their entries.
func explainGPT(b []byte) string {
	const header, entry = 92, 128
	if len(b) < header+8 || string(b[:8]) != "EFI PART" {
		return Unexplained + ": a partition table that cannot be read"
	}
	disk := guid(b[56:])
	count := binary.LittleEndian.Uint64(b[header:])
	rest := b[header+8:]
	if count > uint64(len(rest)/entry) {
		return Unexplained + ": a partition table with more partitions than it describes"
	}
	var names []string
	for i := 0; i < int(count) && len(names) < 16; i++ {
		name, _ := cutUTF16(rest[i*entry+56 : (i+1)*entry])
		if name == "" {
			name = "unnamed"
		}
		names = append(names, clean(name))
	}
	return fmt.Sprintf("partition table of disk %s (%d of its entries in use): %s", disk, count, strings.Join(names, ", "))
}
