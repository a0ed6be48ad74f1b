package nft

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
)

// key is how the kernel knows a device: the beginning of the SHA-256 of its id, shown by nft as an IPv6 address; the
// comment of the element holds the id itself.
type key [16]byte

func keyOf(device string) key {
	sum := sha256.Sum256([]byte(device))
	return key(sum[:16])
}

// place is where a device is found: an IP address (IPv4 as IPv4-mapped) or a link address (in 100::/64, the discard
// prefix, where no device lives).
type place [16]byte

func placeOf(a netip.Addr) place { return a.As16() }

var linkPrefix = []byte{0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func placeOfMAC(m [6]byte) place {
	var p place
	copy(p[:], linkPrefix)
	copy(p[10:], m[:])
	return p
}

// link reports whether the place is a link address.
func (p place) link() bool { return bytes.HasPrefix(p[:], linkPrefix) }

func (p place) String() string {
	if p.link() {
		m := p[10:]
		return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
	}
	return netip.AddrFrom16(p).Unmap().String()
}

// mark is what is in force for a device.
type mark struct {
	segment fleet.Segment
	epoch   int64
}

// value is the mark as the kernel keeps it: the segment, then the epoch.
func (m mark) value() [16]byte {
	var v [16]byte
	if m.segment == fleet.Restricted {
		v[7] = 1
	}
	binary.BigEndian.PutUint64(v[8:], uint64(m.epoch))
	return v
}

// markOf reads a value back.
func markOf(v []byte) (mark, error) {
	if len(v) != 16 || !bytes.Equal(v[:7], make([]byte, 7)) || v[7] > 1 || v[8] > 127 {
		return mark{}, fmt.Errorf("cannot read the mark %x of a device: not one that cordon wrote", v)
	}
	m := mark{segment: fleet.Production, epoch: int64(binary.BigEndian.Uint64(v[8:]))}
	if v[7] == 1 {
		m.segment = fleet.Restricted
	}
	return m, nil
}

// member says that a place belongs to a restricted device.
type member struct {
	device key
	place  place
}

// state is what the kernel holds.
type state struct {
	table   bool     // there is one
	wrong   string   // "" if chains, rules and recovery services are as this package writes them
	missing []string // sets
	marks   map[key]mark
	members map[member]struct{}
	sealed  map[place]struct{} // what the rules drop
}

// overtaken reports whether an order must change nothing, because what is in force is newer.
func overtaken(inForce mark, o segment.Order) bool {
	return o.Epoch < inForce.epoch || o.Epoch == inForce.epoch && o.Segment != inForce.segment
}

// change is the difference between what the kernel holds and what an order asks for.
type change struct {
	addMembers, dropMembers []member
	seal, unseal            []place
	shared                  []place // places of the device that stay sealed, because another restricted device has them too
}

// plan computes the change. The device's members become exactly its places when it is restricted, and none otherwise;
// of what the rules drop only places that the device has or had are touched, and none that another restricted device has.
func plan(st state, device key, places []place, restricted bool) change {
	var c change
	others, own := map[place]bool{}, slices.Clone(places)
	for m := range st.members {
		switch {
		case m.device != device:
			others[m.place] = true
		case !restricted || !slices.Contains(places, m.place):
			c.dropMembers = append(c.dropMembers, m)
			own = append(own, m.place)
		}
	}
	slices.SortFunc(own, func(a, b place) int { return bytes.Compare(a[:], b[:]) })
	for _, p := range slices.Compact(own) {
		mine := restricted && slices.Contains(places, p)
		_, sealed := st.sealed[p]
		if m := (member{device: device, place: p}); mine {
			if _, ok := st.members[m]; !ok {
				c.addMembers = append(c.addMembers, m)
			}
		}
		switch {
		case !sealed && (mine || others[p]):
			c.seal = append(c.seal, p)
		case sealed && !mine && !others[p]:
			c.unseal = append(c.unseal, p)
		case !mine && others[p]:
			c.shared = append(c.shared, p)
		}
	}
	return c
}

// observe says what holds for a device that has these places now and may hold others in the kernel.
func observe(st state, device key, places []place) segment.Observation {
	if !st.table {
		return segment.Observation{Segment: fleet.Production, Known: true, Detail: "the table is not there: nothing is restricted"}
	}
	inForce := st.marks[device]
	all := slices.Clone(places)
	for m := range st.members {
		if m.device == device && !slices.Contains(all, m.place) {
			all = append(all, m.place)
		}
	}
	var closed, open []string
	for _, p := range all {
		if _, ok := st.sealed[p]; ok {
			closed = append(closed, p.String())
			continue
		}
		open = append(open, p.String())
	}
	slices.Sort(closed)
	slices.Sort(open)
	o := segment.Observation{Segment: fleet.Production, Known: true}
	var half string // what is neither the one nor the other
	switch {
	case len(closed) == 0:
		o.Detail = "no address of the device is restricted"
	case len(open) > 0:
		half = "restricted only in part: " + strings.Join(closed, ", ") + ", but not " + strings.Join(open, ", ")
	case st.wrong != "":
		half = "the ruleset is not the one that cordon wrote: " + st.wrong
	default:
		o.Segment, o.Detail = fleet.Restricted, "restricted: "+strings.Join(closed, ", ")
	}
	switch {
	case half != "":
		return halfway(inForce.segment, half)
	case inForce.segment == o.Segment:
		o.Epoch = inForce.epoch
	case o.Segment == fleet.Restricted && inForce.segment == fleet.Production:
		o.Detail += "; released, but another restricted device has the same address, or somebody wrote it there"
	}
	return o
}

// halfway is the observation of a device that is neither restricted nor free: whatever is in force for it, it is not that.
func halfway(inForce fleet.Segment, detail string) segment.Observation {
	switch inForce {
	case fleet.Restricted:
		return segment.Observation{Segment: fleet.Production, Known: true, Detail: detail}
	case fleet.Production:
		return segment.Observation{Segment: fleet.Restricted, Known: true, Detail: detail}
	}
	return segment.Observation{Detail: detail}
}
