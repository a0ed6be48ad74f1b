package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// maxNodes bounds how many nodes the device paths of one event may have; real ones have fewer than thirty.
const maxNodes = 64

// PathNode is one node of an EFI_DEVICE_PATH (UEFI 2.10, section 10).
type PathNode struct {
	Type, Subtype byte
	Data          []byte // a view of the event's data
}

// Types of nodes that end a path, or one path of several.
const (
	nodeEnd      = 0x7F
	endOfPath    = 0xFF
	endOfOnePath = 0x01
)

// parsePaths reads device paths that follow each other. No bytes are no path; otherwise every node lies inside b, and b
// ends with the node that ends the last path.
func parsePaths(b []byte) (paths [][]PathNode, ok bool) {
	count, ok := countPaths(b)
	if !ok {
		return nil, false
	}
	var path []PathNode
	for len(paths) < count {
		n, rest, _ := cutNode(b)
		if n.endsPath() {
			paths, path = append(paths, path), nil
		} else {
			path = append(path, n)
		}
		b = rest
	}
	return paths, true
}

// countPaths reports how many device paths b is, and whether it is nothing else. It allocates nothing.
func countPaths(b []byte) (paths int, ok bool) {
	open := false // the path has not ended
	for nodes := 0; len(b) > 0; nodes++ {
		n, rest, ok := cutNode(b)
		if !ok || nodes == maxNodes {
			return 0, false
		}
		if open = !n.endsPath(); !open {
			paths++
		}
		b = rest
	}
	return paths, !open
}

// cutNode cuts the first node off b; ok is false when b does not hold as much as the node states.
func cutNode(b []byte) (n PathNode, rest []byte, ok bool) {
	const header = 4
	if len(b) < header {
		return PathNode{}, nil, false
	}
	size := int(binary.LittleEndian.Uint16(b[2:]))
	if size < header || size > len(b) {
		return PathNode{}, nil, false
	}
	return PathNode{Type: b[0], Subtype: b[1], Data: b[header:size]}, b[size:], true
}

func (n PathNode) endsPath() bool { return n.Type == nodeEnd && n.Subtype == endOfPath }

// knownGUIDs are GUIDs in device paths that stand for something a reader knows.
var knownGUIDs = map[string]string{
	"55c5d1f8-04cd-46b5-8a20-e56cbb3052d0": "the kernel inside the unified kernel image",
	"7c04a583-9e3e-4f1c-ad65-e05268d0b4d1": "the firmware's shell",
	"462caa21-7614-4503-836e-8ab6f4662331": "the firmware's setup menu",
	"5568e427-68fc-4f3d-ac74-ca555231cc68": "the initial file system that the loader gives to Linux",
}

// place renders the part of a device path that tells a reader where a program came from: the file, or the partition,
// firmware file, network address or device. Of several paths in one it renders the first.
func place(path []PathNode) string {
	var file, place string
	for _, node := range path {
		if node.Type == nodeEnd && node.Subtype == endOfOnePath {
			break
		}
		f, p := pathNode(node.Type, node.Subtype, node.Data)
		if f != "" {
			file = joinPath(file, f)
		}
		if p != "" {
			place = p
		}
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
			return "", fmt.Sprintf("partition %d (%s)", binary.LittleEndian.Uint32(data), GUID(data[20:]))
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
	id := GUID(data).String()
	if name, ok := knownGUIDs[id]; ok {
		return name
	}
	return what + id
}

// maxPartitions bounds how many partitions one explanation names.
const maxPartitions = 16

// explainGPT speaks about a partition table.
func (e Event) explainGPT() string {
	t, ok := e.PartitionTable()
	if !ok {
		return Unexplained + ": a partition table that cannot be read"
	}
	var names []string
	for _, p := range t.Partitions[:min(len(t.Partitions), maxPartitions)] {
		name := clean(p.Name)
		if name == "" {
			name = "unnamed"
		}
		names = append(names, name)
	}
	return fmt.Sprintf("partition table of disk %s (%d of its entries in use): %s", t.Disk, len(t.Partitions), strings.Join(names, ", "))
}
