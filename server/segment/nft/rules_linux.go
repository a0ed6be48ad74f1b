package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// ruleset is everything static in the table, in the form in which it is written and compared.
type ruleset struct {
	table  *nftables.Table
	orders *nftables.Set // device -> segment and epoch
	member *nftables.Set // device . place
	seal4  *nftables.Set
	seal6  *nftables.Set
	link   *nftables.Set
	road4  *nftables.Set // address . protocol . port
	road6  *nftables.Set
	chains []chain
}

// chain is a base chain with its rules in order.
type chain struct {
	*nftables.Chain
	rules []rule
}

// rule is a comment for people and what the kernel runs.
type rule struct {
	comment string
	exprs   []expr.Any
}

// sets lists all sets.
func (r *ruleset) sets() []*nftables.Set {
	return []*nftables.Set{r.orders, r.member, r.seal4, r.seal6, r.link, r.road4, r.road6}
}

// newRuleset lays out the table for a checked configuration.
func newRuleset(c Config) *ruleset {
	family := nftables.TableFamilyINet
	if c.Family == FamilyBridge {
		family = nftables.TableFamilyBridge
	}
	t := &nftables.Table{Family: family, Name: c.Table}
	service4 := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	service6 := nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService)
	pair := nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeIP6Addr)
	r := &ruleset{
		table:  t,
		orders: &nftables.Set{Table: t, Name: "orders", IsMap: true, KeyType: nftables.TypeIP6Addr, DataType: nftables.TypeIP6Addr},
		member: &nftables.Set{Table: t, Name: "members", Concatenation: true, KeyType: pair},
		seal4:  &nftables.Set{Table: t, Name: "quarantine4", KeyType: nftables.TypeIPAddr},
		seal6:  &nftables.Set{Table: t, Name: "quarantine6", KeyType: nftables.TypeIP6Addr},
		link:   &nftables.Set{Table: t, Name: "quarantine_link", KeyType: nftables.TypeEtherAddr},
		road4:  &nftables.Set{Table: t, Name: "recovery4", Concatenation: true, KeyType: service4},
		road6:  &nftables.Set{Table: t, Name: "recovery6", Concatenation: true, KeyType: service6},
	}
	for _, hook := range c.Hooks {
		rules := r.inet(hook)
		if c.Family == FamilyBridge {
			rules = r.bridge(hook)
		}
		r.chains = append(r.chains, chain{Chain: r.base(hook, c.Priority), rules: rules})
	}
	return r
}

// base is an empty base chain that accepts.
func (r *ruleset) base(hook string, priority int) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	num := map[string]*nftables.ChainHook{
		HookForward: nftables.ChainHookForward, HookInput: nftables.ChainHookInput, HookOutput: nftables.ChainHookOutput,
	}[hook]
	return &nftables.Chain{
		Table: r.table, Name: "segment_" + hook, Type: nftables.ChainTypeFilter, Hooknum: num,
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)), Policy: &accept,
	}
}

// inet are the rules for routed traffic. The order is the point: the recovery road, then the drops of both directions;
// nothing accepts an established connection before them.
func (r *ruleset) inet(hook string) []rule {
	var rules []rule
	from, to := hook != HookOutput, hook != HookInput
	if from {
		rules = append(rules,
			rule{"recovery road, from the device", join(ip4(), source4(), in(r.seal4), service4(destination), in(r.road4), accept())},
			rule{"recovery road, from the device", join(ip6(), source6(), in(r.seal6), service6(destination), in(r.road6), accept())},
			rule{"recovery road, by link address", join(ethernet(), linkSource(), in(r.link), ip4(), service4(destination), in(r.road4), accept())},
			rule{"recovery road, by link address", join(ethernet(), linkSource(), in(r.link), ip6(), service6(destination), in(r.road6), accept())},
		)
	}
	if to {
		rules = append(rules,
			rule{"recovery road, answers", join(ip4(), destination4(), in(r.seal4), service4(source), in(r.road4), answers(), accept())},
			rule{"recovery road, answers", join(ip6(), destination6(), in(r.seal6), service6(source), in(r.road6), answers(), accept())},
		)
	}
	if hook == HookInput || hook == HookOutput {
		rules = append(rules, rule{"neighbour discovery of the gateway itself", join(ip6(), neighbourDiscovery(), accept())})
	}
	if from {
		rules = append(rules,
			rule{"nothing else from a restricted device", join(ip4(), source4(), in(r.seal4), drop())},
			rule{"nothing else from a restricted device", join(ip6(), source6(), in(r.seal6), drop())},
			rule{"nothing else from a restricted device, whatever address it takes", join(ethernet(), linkSource(), in(r.link), drop())},
		)
	}
	if to {
		rules = append(rules,
			rule{"nothing else to a restricted device", join(ip4(), destination4(), in(r.seal4), drop())},
			rule{"nothing else to a restricted device", join(ip6(), destination6(), in(r.seal6), drop())},
		)
	}
	return rules
}

// bridge are the rules for traffic inside a bridge: by link address, and without connection tracking, which a bridge need
// not have. Address resolution stays open, because the recovery road needs it.
func (r *ruleset) bridge(hook string) []rule {
	var rules []rule
	directions := []struct {
		name  string
		link  []expr.Any
		far   side
		holds bool
	}{
		{"from", linkSource(), destination, hook != HookOutput},
		{"to", linkDestination(), source, hook != HookInput},
	}
	for _, d := range directions {
		if !d.holds {
			continue
		}
		rules = append(rules,
			rule{"recovery road, " + d.name + " the device", join(d.link, in(r.link), ip4Frame(), service4(d.far), in(r.road4), accept())},
			rule{"recovery road, " + d.name + " the device", join(d.link, in(r.link), ip6Frame(), service6(d.far), in(r.road6), accept())},
			rule{"address resolution", join(d.link, in(r.link), arpFrame(), accept())},
			rule{"address resolution", join(d.link, in(r.link), ip6Frame(), neighbourDiscovery(), accept())},
			rule{"nothing else " + d.name + " a restricted device", join(d.link, in(r.link), drop())},
		)
	}
	return rules
}

// side is the end of a packet that a match looks at.
type side int

const (
	source side = iota
	destination
)

// Registers as the kernel numbers them: 16 bytes each, or 4 bytes each from 8 on.
const (
	reg1      = unix.NFT_REG_1
	reg2      = unix.NFT_REG_2
	reg32Base = unix.NFT_REG32_00
)

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func metaIs(k expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: k, Register: reg1}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: value}}
}

func ip4() []expr.Any { return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}) }
func ip6() []expr.Any { return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6}) }

func ip4Frame() []expr.Any { return metaIs(expr.MetaKeyPROTOCOL, []byte{0x08, 0x00}) }
func ip6Frame() []expr.Any { return metaIs(expr.MetaKeyPROTOCOL, []byte{0x86, 0xdd}) }
func arpFrame() []expr.Any { return metaIs(expr.MetaKeyPROTOCOL, []byte{0x08, 0x06}) }

// ethernet makes sure that there is a link header to look at.
func ethernet() []expr.Any {
	return metaIs(expr.MetaKeyIIFTYPE, binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER))
}

func load(base expr.PayloadBase, offset, length, register uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func source4() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, 12, 4, reg1)}
}

func destination4() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, 16, 4, reg1)}
}

func source6() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, 8, 16, reg1)}
}

func destination6() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, 24, 16, reg1)}
}

func linkSource() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseLLHeader, 6, 6, reg1)}
}

func linkDestination() []expr.Any {
	return []expr.Any{load(expr.PayloadBaseLLHeader, 0, 6, reg1)}
}

// service4 loads address . protocol . port of one side.
func service4(s side) []expr.Any {
	address, port := uint32(12), uint32(0)
	if s == destination {
		address, port = 16, 2
	}
	return []expr.Any{
		load(expr.PayloadBaseNetworkHeader, address, 4, reg1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32Base + 1},
		load(expr.PayloadBaseTransportHeader, port, 2, reg32Base+2),
	}
}

func service6(s side) []expr.Any {
	address, port := uint32(8), uint32(0)
	if s == destination {
		address, port = 24, 2
	}
	return []expr.Any{
		load(expr.PayloadBaseNetworkHeader, address, 16, reg1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg2},
		load(expr.PayloadBaseTransportHeader, port, 2, reg32Base+5),
	}
}

func in(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: s.Name}}
}

// answers matches what belongs to a connection that the device opened: established, and in the direction of the reply. A
// connection towards the device, new or old, is none.
func answers() []expr.Any {
	const bit, reply = 1 << 1, 1 // NF_CT_STATE_BIT(IP_CT_ESTABLISHED), IP_CT_DIR_REPLY
	return []expr.Any{
		&expr.Ct{Register: reg1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bit), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
		&expr.Ct{Register: reg1, Key: expr.CtKeyDIRECTION},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{reply}},
	}
}

// neighbourDiscovery matches ICMPv6 types 133 to 136.
func neighbourDiscovery() []expr.Any {
	return append(metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_ICMPV6}),
		load(expr.PayloadBaseTransportHeader, 0, 1, reg1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg1, Data: []byte{133}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg1, Data: []byte{136}},
	)
}

func accept() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}
}

func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// comment is how nft(8) stores the comment of a rule.
func comment(text string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, text)
}

// serviceKey is the element of a recovery set; each part is padded to four bytes.
func serviceKey(s Service) []byte {
	proto := byte(unix.IPPROTO_TCP)
	if s.Proto == "udp" {
		proto = unix.IPPROTO_UDP
	}
	b := append([]byte(nil), s.Address.Addr().AsSlice()...)
	b = append(b, proto, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, s.Address.Port())
	return append(b, 0, 0)
}

// sealedIn is the set that holds a place, and the place as its key there.
func (r *ruleset) sealedIn(p place) (*nftables.Set, []byte) {
	if p.link() {
		return r.link, p[10:]
	}
	a := netip.AddrFrom16(p).Unmap()
	if a.Is4() {
		return r.seal4, a.AsSlice()
	}
	return r.seal6, a.AsSlice()
}
