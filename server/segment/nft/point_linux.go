package nft

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
)

// Point keeps restricted devices apart. It is safe for concurrent use, also beside other processes that work on the same
// table: who loses a race for a device reads again and decides anew.
type Point struct {
	cfg   Config
	rules *ruleset
	mu    sync.Mutex // one conversation at a time
	last  *snapshot  // never changed once it is there; nil if the next one has to read; guarded by mu

	afterRead func() // of tests: what another process does at the worst moment; nil otherwise
}

var _ segment.Point = (*Point)(nil)

// New checks the configuration. It does not talk to the kernel yet. The error wraps ErrConfig.
func New(cfg Config) (*Point, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	return &Point{cfg: cfg, rules: newRuleset(cfg)}, nil
}

// Name is the configured name.
func (p *Point) Name() string { return p.cfg.Name }

// Selector is the IP address, or the link address inside a bridge.
func (p *Point) Selector() segment.Selector {
	if p.cfg.Family == FamilyBridge {
		return segment.ByMAC
	}
	return segment.ByAddress
}

// Install makes the table as the configuration says, if it is not; restricted devices stay restricted. Apply does the same
// when it is needed. The error wraps segment.ErrRefused when the process lacks the capability.
func (p *Point) Install(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, done, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	st, err := p.read(c)
	if err != nil || st.table && st.wrong == "" {
		return err
	}
	if err := p.write(c, st); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return explain("cannot write the ruleset", err)
	}
	return nil
}

// mostTries bounds how often an order starts again because another process changed the same device.
const mostTries = 3

// Apply makes the order true in one transaction: mark, addresses, and, where they are not as they should be, the rules.
func (p *Point) Apply(ctx context.Context, o segment.Order) (segment.Receipt, error) {
	places, err := p.places(o.Target)
	if err != nil {
		return segment.Receipt{}, err
	}
	lacking := p.lacking(o.Target)
	p.mu.Lock()
	defer p.mu.Unlock()
	var last error
	for range mostTries {
		receipt, again, err := p.try(ctx, o, places)
		switch {
		case err == nil && lacking != nil:
			return segment.Receipt{}, lacking
		case !again:
			return receipt, err
		}
		last = err
	}
	return segment.Receipt{}, fmt.Errorf("cannot get in between others who change the table: %w", last)
}

// try makes one attempt; again is true when another process was faster.
func (p *Point) try(ctx context.Context, o segment.Order, places []place) (receipt segment.Receipt, again bool, err error) {
	if err := ctx.Err(); err != nil {
		return segment.Receipt{}, false, fmt.Errorf("%w: %w", segment.ErrUnreachable, err)
	}
	c, done, err := p.dial(ctx)
	if err != nil {
		return segment.Receipt{}, false, err
	}
	defer done()
	st, err := p.read(c)
	if err != nil {
		return segment.Receipt{}, false, err
	}
	device := keyOf(o.Target.Device)
	inForce, known := st.marks[device]
	if known && overtaken(inForce, o) {
		return segment.Receipt{
			Acknowledged: p.cfg.Now(), Segment: inForce.segment, Epoch: inForce.epoch,
			Detail: fmt.Sprintf("nothing changed: epoch %d is in force", inForce.epoch),
		}, false, nil
	}
	if !st.table || st.wrong != "" {
		if err := p.write(c, st); err != nil {
			return segment.Receipt{}, false, err
		}
	}
	if p.afterRead != nil {
		p.afterRead()
	}
	ch := plan(st, device, places, o.Segment == fleet.Restricted)
	if err := p.stage(c, o, st, ch); err != nil {
		return segment.Receipt{}, false, err
	}
	if err := c.Flush(); err != nil {
		return segment.Receipt{}, overtakenByAnother(err), explain("cannot carry out the order", err)
	}
	return segment.Receipt{Acknowledged: p.cfg.Now(), Segment: o.Segment, Epoch: o.Epoch, Detail: describe(o, places, ch)}, false, nil
}

// stage adds to the transaction what the change is made of. The mark goes first: adding the one that was read fails if
// another one is there by now, and with it the whole transaction.
func (p *Point) stage(c *kernel, o segment.Order, st state, ch change) error {
	device := keyOf(o.Target.Device)
	next := mark{segment: o.Segment, epoch: o.Epoch}
	var steps []func() error
	if was, known := st.marks[device]; known {
		steps = append(steps,
			func() error { return c.SetAddElements(p.rules.orders, p.markElement(o.Target.Device, was)) },
			func() error { return c.SetDeleteElements(p.rules.orders, p.markElement(o.Target.Device, was)) })
	}
	steps = append(steps,
		func() error { return c.SetAddElements(p.rules.orders, p.markElement(o.Target.Device, next)) },
		func() error { return some(c.SetDeleteElements, p.rules.member, memberElements(o, ch.dropMembers)) },
		func() error { return some(c.SetAddElements, p.rules.member, memberElements(o, ch.addMembers)) })
	for _, at := range ch.unseal {
		steps = append(steps, func() error {
			set, k := p.rules.sealedIn(at)
			return c.SetDeleteElements(set, []nftables.SetElement{{Key: k}})
		})
	}
	for _, at := range ch.seal {
		steps = append(steps, func() error {
			set, k := p.rules.sealedIn(at)
			return c.SetAddElements(set, []nftables.SetElement{{Key: k, Comment: label(o)}})
		})
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("cannot put the transaction together: %w", err)
		}
	}
	return nil
}

func some(do func(*nftables.Set, []nftables.SetElement) error, s *nftables.Set, elements []nftables.SetElement) error {
	if len(elements) == 0 {
		return nil
	}
	return do(s, elements)
}

func (p *Point) markElement(device string, m mark) []nftables.SetElement {
	k, v := keyOf(device), m.value()
	return []nftables.SetElement{{Key: k[:], Val: v[:], Comment: text("device=%s segment=%s epoch=%d", device, m.segment, m.epoch)}}
}

func memberElements(o segment.Order, members []member) []nftables.SetElement {
	elements := make([]nftables.SetElement, 0, len(members))
	for _, m := range members {
		elements = append(elements, nftables.SetElement{Key: append(m.device[:], m.place[:]...), Comment: label(o)})
	}
	return elements
}

// label is what nft shows beside an element.
func label(o segment.Order) string {
	return text("device=%s epoch=%d", o.Target.Device, o.Epoch)
}

// text is a comment of at most as many bytes as nft reads back.
func text(format string, args ...any) string {
	const most = 120
	s := fmt.Sprintf(format, args...)
	return s[:min(len(s), most)]
}

func describe(o segment.Order, places []place, ch change) string {
	var words []string
	for _, at := range places {
		words = append(words, at.String())
	}
	detail := fmt.Sprintf("%s: %s", o.Segment, strings.Join(words, ", "))
	if len(ch.shared) > 0 {
		words = nil
		for _, at := range ch.shared {
			words = append(words, at.String())
		}
		detail += "; still restricted for another device: " + strings.Join(words, ", ")
	}
	return detail
}

// Observe reads rules and sets from the kernel and says what holds for the device.
func (p *Point) Observe(ctx context.Context, t segment.Target) (segment.Observation, error) {
	places, err := p.places(t)
	if err == nil {
		err = p.lacking(t)
	}
	if err != nil {
		return segment.Observation{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return segment.Observation{}, fmt.Errorf("%w: %w", segment.ErrUnreachable, err)
	}
	c, done, err := p.dial(ctx)
	if err != nil {
		return segment.Observation{}, err
	}
	defer done()
	st, err := p.read(c)
	if err != nil {
		return segment.Observation{}, err
	}
	o := observe(st, keyOf(t.Device), places)
	if o.Known {
		o.At = p.cfg.Now()
	}
	return o, nil
}

// lacking says that the target has nothing that this point finds a device by, or an address that is never restricted. Apply
// frees what it holds for the device, or restricts its other addresses, all the same.
func (p *Point) lacking(t segment.Target) error {
	road := slices.IndexFunc(t.Addresses, p.cfg.serves)
	switch {
	case p.cfg.Family == FamilyInet && road >= 0:
		return fmt.Errorf("%w: a recovery service is at %s: restricting that would cut every device off from it", segment.ErrRefused, t.Addresses[road])
	case p.cfg.Family == FamilyInet && len(t.Addresses) == 0:
		return fmt.Errorf("%w: an IP address is needed", segment.ErrNoAddress)
	case p.cfg.Family == FamilyBridge && len(t.MACs) == 0:
		return fmt.Errorf("%w: a link address is needed", segment.ErrNoAddress)
	}
	return nil
}

// places are where the target is found here. In family inet a device has IP addresses, and its link addresses are matched
// as well; in a bridge only link addresses count. The error is about an address that no device can have.
func (p *Point) places(t segment.Target) ([]place, error) {
	var places []place
	if p.cfg.Family == FamilyInet {
		for _, a := range t.Addresses {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
				return nil, fmt.Errorf("%w: cannot use the address %s", segment.ErrNoAddress, a)
			}
			if !p.cfg.serves(a) {
				places = append(places, placeOf(a.WithZone("")))
			}
		}
	}
	for _, text := range t.MACs {
		m, err := net.ParseMAC(text)
		if err != nil || len(m) != 6 || m[0]&1 != 0 {
			return nil, fmt.Errorf("%w: cannot use the link address %q", segment.ErrNoAddress, text)
		}
		places = append(places, placeOfMAC([6]byte(m)))
	}
	return places, nil
}
