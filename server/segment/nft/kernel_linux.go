package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cordon-ota/cordon/server/segment"
)

// namespaceDir is where ip-netns(8) keeps named namespaces.
const namespaceDir = "/run/netns"

// dial opens a conversation with the kernel in the configured namespace; done ends it.
func (p *Point) dial(ctx context.Context) (c *kernel, done func(), err error) {
	deadline := time.Now().Add(p.cfg.Timeout) // the kernel's clock, whatever Config.Now says
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	var raw *netlink.Conn
	options := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw = c
		return c.SetDeadline(deadline)
	})}
	var namespace uint64
	if p.cfg.Namespace != "" {
		ns, err := openNamespace(p.cfg.Namespace)
		if err != nil {
			return nil, nil, err
		}
		defer ns.Close() // the socket stays in its namespace
		var info unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &info); err != nil {
			return nil, nil, fmt.Errorf("%w: cannot look at the network namespace: %w", segment.ErrUnreachable, err)
		}
		namespace = info.Ino
		options = append(options, nftables.WithNetNSFd(int(ns.Fd())))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return nil, nil, explain("cannot talk to nftables", err)
	}
	return &kernel{Conn: conn, raw: raw, namespace: namespace}, func() { _ = conn.CloseLasting() }, nil
}

// kernel is a conversation with the kernel about one network namespace.
type kernel struct {
	*nftables.Conn
	raw       *netlink.Conn // the same socket
	namespace uint64        // its inode; 0 for the process's own
}

// generation is the number of the namespace's ruleset, which the library does not ask for.
func (k *kernel) generation() (uint32, error) {
	const getGen, genID = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, 1 // NFTA_GEN_ID
	answer, err := k.raw.Execute(netlink.Message{
		Header: netlink.Header{Type: getGen, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, err
	}
	const header = 4
	for _, m := range answer {
		if len(m.Data) < header {
			continue
		}
		attributes, err := netlink.UnmarshalAttributes(m.Data[header:])
		if err != nil {
			return 0, err
		}
		for _, a := range attributes {
			if a.Type == genID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, errors.New("the kernel did not say")
}

func openNamespace(name string) (*os.File, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(namespaceDir, name)
	}
	ns, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot open the network namespace: %w", segment.ErrUnreachable, err)
	}
	return ns, nil
}

// snapshot is what was read, and the generation of the namespace's ruleset then. The kernel counts every transaction of
// anybody, and our sets change by transactions only: while the number stands, what was read is what there is.
type snapshot struct {
	namespace  uint64
	generation uint32
	state      state
}

// read returns everything that the kernel holds for the table, read now or known by the kernel's own word to be unchanged.
func (p *Point) read(c *kernel) (state, error) {
	before, err := c.generation()
	if err != nil {
		return state{}, explain("cannot ask for the generation of the ruleset", err)
	}
	if p.last != nil && p.last.namespace == c.namespace && p.last.generation == before {
		return p.last.state, nil
	}
	p.last = nil
	st, err := p.readAll(c)
	if err != nil {
		return state{}, err
	}
	if after, err := c.generation(); err == nil && after == before {
		p.last = &snapshot{namespace: c.namespace, generation: before, state: st}
	}
	return st, nil
}

// explain turns an error of the kernel into one that says what to do.
func explain(what string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: %s: the process needs CAP_NET_ADMIN (and CAP_SYS_ADMIN to enter another network namespace): %w", segment.ErrRefused, what, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %s: the kernel did not answer in time: %w", segment.ErrUnreachable, what, err)
	case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EPROTONOSUPPORT):
		return fmt.Errorf("%w: %s: this kernel lacks nf_tables or a part of it: %w", segment.ErrUnsupported, what, err)
	}
	return fmt.Errorf("%w: %s: %w", segment.ErrUnreachable, what, err)
}

func (p *Point) readAll(c *kernel) (state, error) {
	st := state{marks: map[key]mark{}, members: map[member]struct{}{}, sealed: map[place]struct{}{}}
	tables, err := c.ListTablesOfFamily(p.rules.table.Family)
	if err != nil {
		return st, explain("cannot list the tables", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == p.rules.table.Name })
	if i < 0 {
		return st, nil
	}
	st.table = true
	if tables[i].Flags != 0 {
		st.wrong = "the table is dormant, or somebody's own"
	}
	sets, err := c.GetSets(p.rules.table)
	if err != nil {
		return st, explain("cannot list the sets", err)
	}
	for _, s := range p.rules.sets() {
		if !slices.ContainsFunc(sets, func(k *nftables.Set) bool { return k.Name == s.Name }) {
			st.note("set " + s.Name + " is missing")
			st.missing = append(st.missing, s.Name)
			continue
		}
		elements, err := c.GetSetElements(s)
		if err != nil {
			return st, explain("cannot read set "+s.Name, err)
		}
		if err := p.take(&st, s, elements); err != nil {
			return st, err
		}
	}
	return st, p.compare(c, &st)
}

// note keeps the first thing that is not as it should be.
func (s *state) note(what string) {
	if s.wrong == "" {
		s.wrong = what
	}
}

// take sorts the elements of one set into the state.
func (p *Point) take(st *state, s *nftables.Set, elements []nftables.SetElement) error {
	r := p.rules
	switch s {
	case r.orders:
		return takeMarks(st, elements)
	case r.member:
		for _, e := range elements {
			if len(e.Key) != 32 {
				return fmt.Errorf("%w: cannot read set %s: an element has %d bytes", segment.ErrUnreachable, s.Name, len(e.Key))
			}
			st.members[member{device: key(e.Key[:16]), place: place(e.Key[16:])}] = struct{}{}
		}
	case r.road4, r.road6:
		want := p.roads(s)
		have := make([][]byte, 0, len(elements))
		for _, e := range elements {
			have = append(have, e.Key)
		}
		slices.SortFunc(have, bytes.Compare)
		if !slices.EqualFunc(want, have, bytes.Equal) {
			st.note("set " + s.Name + " lists other services")
		}
	default:
		for _, e := range elements {
			at, ok := sealedPlace(e.Key)
			if !ok {
				return fmt.Errorf("%w: cannot read set %s: an element has %d bytes", segment.ErrUnreachable, s.Name, len(e.Key))
			}
			st.sealed[at] = struct{}{}
		}
	}
	return nil
}

func takeMarks(st *state, elements []nftables.SetElement) error {
	for _, e := range elements {
		if len(e.Key) != 16 {
			return fmt.Errorf("%w: cannot read an order in force: its key has %d bytes", segment.ErrUnreachable, len(e.Key))
		}
		m, err := markOf(e.Val)
		if err != nil {
			return fmt.Errorf("%w: cannot read an order in force: %w", segment.ErrUnreachable, err)
		}
		st.marks[key(e.Key)] = m
	}
	return nil
}

// sealedPlace is the place that an element of one of the quarantine sets names.
func sealedPlace(b []byte) (place, bool) {
	switch len(b) {
	case 4:
		p := place{10: 0xff, 11: 0xff}
		copy(p[12:], b)
		return p, true
	case 16:
		return place(b), true
	case 6, 8: // a link address, perhaps padded
		return placeOfMAC([6]byte(b[:6])), true
	}
	return place{}, false
}

// roads are the elements that a recovery set has to hold, sorted.
func (p *Point) roads(s *nftables.Set) [][]byte {
	var keys [][]byte
	for _, service := range p.cfg.Recovery {
		if service.Address.Addr().Is4() == (s == p.rules.road4) {
			keys = append(keys, serviceKey(service))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

// compare holds the kernel's chains and rules against those that this package writes.
func (p *Point) compare(c *kernel, st *state) error {
	chains, err := c.ListChainsOfTableFamily(p.rules.table.Family)
	if err != nil {
		return explain("cannot list the chains", err)
	}
	for _, want := range p.rules.chains {
		i := slices.IndexFunc(chains, func(k *nftables.Chain) bool { return k.Table.Name == want.Table.Name && k.Name == want.Name })
		if i < 0 || !sameBase(chains[i], want.Chain) {
			st.note("chain " + want.Name + " is missing or stands elsewhere")
			continue
		}
		have, err := c.GetRules(p.rules.table, want.Chain)
		if err != nil {
			return explain("cannot read chain "+want.Name, err)
		}
		if !slices.EqualFunc(have, want.rules, sameRule) {
			st.note("chain " + want.Name + " has other rules")
		}
	}
	return nil
}

func sameBase(have, want *nftables.Chain) bool {
	return have.Type == want.Type && have.Hooknum != nil && *have.Hooknum == *want.Hooknum &&
		have.Priority != nil && *have.Priority == *want.Priority && have.Policy != nil && *have.Policy == *want.Policy
}

// sameRule compares what a rule does; what it has counted does not matter.
func sameRule(have *nftables.Rule, want rule) bool {
	text, _ := userdata.GetString(have.UserData, userdata.TypeComment)
	return text == want.comment && slices.EqualFunc(have.Exprs, want.exprs, func(a, b expr.Any) bool { return reflect.DeepEqual(plain(a), plain(b)) })
}

// plain is the expression without what the kernel adds to it.
func plain(e expr.Any) expr.Any {
	switch e := e.(type) {
	case *expr.Counter:
		return &expr.Counter{}
	case *expr.Lookup:
		return &expr.Lookup{SourceRegister: e.SourceRegister, SetName: e.SetName, Invert: e.Invert, DestRegister: e.DestRegister, IsDestRegSet: e.IsDestRegSet}
	}
	return e
}

// write adds to the conversation what makes the table, its chains, rules and recovery services as they should be.
// Nothing is sent yet: it becomes part of the transaction. Devices that are restricted stay so.
func (p *Point) write(c *kernel, st state) error {
	r := p.rules
	c.AddTable(r.table)
	for _, s := range r.sets() {
		if st.table && !slices.Contains(st.missing, s.Name) {
			continue // restored by nft(8) it may have other flags, and adding it again would fail
		}
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("cannot lay out set %s: %w", s.Name, err)
		}
	}
	for _, s := range []*nftables.Set{r.road4, r.road6} {
		if st.table {
			c.FlushSet(s)
		}
		var elements []nftables.SetElement
		for _, k := range p.roads(s) {
			elements = append(elements, nftables.SetElement{Key: k})
		}
		if len(elements) > 0 {
			if err := c.SetAddElements(s, elements); err != nil {
				return fmt.Errorf("cannot lay out set %s: %w", s.Name, err)
			}
		}
	}
	for _, ch := range r.chains {
		c.AddChain(ch.Chain)
		c.FlushChain(ch.Chain)
		for _, rule := range ch.rules {
			c.AddRule(&nftables.Rule{Table: r.table, Chain: ch.Chain, Exprs: rule.exprs, UserData: comment(rule.comment)})
		}
	}
	return nil
}

// overtakenByAnother reports whether a transaction failed because somebody else changed the same device.
func overtakenByAnother(err error) bool {
	return errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOENT)
}
