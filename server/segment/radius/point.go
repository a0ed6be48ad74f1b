package radius

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	wire "layeh.com/radius"
	"layeh.com/radius/rfc3576"

	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/limit"
	"github.com/cordon-ota/cordon/server/segment"
)

// Point moves devices at a NAS. It is safe for concurrent use.
type Point struct {
	cfg      Config
	secret   []byte
	acctKey  []byte
	pace     *rate.Limiter
	sessions *sessions
	seed     maphash.Seed
	turns    []chan struct{} // a device's orders go one after the other: a late retry must not undo what came after it

	mu       sync.Mutex
	sent     map[string]sent // by device; guarded by mu
	listener *listener       // nil before Listen; guarded by mu
}

var _ segment.Point = (*Point)(nil)

// mark is what an order says.
type mark struct {
	segment fleet.Segment
	epoch   int64
}

// sent is the newest order that went to the NAS, whether it was answered or not.
type sent struct {
	mark
	at     time.Time       // of its first packet
	absent map[string]bool // link addresses for which the NAS has said that it has no session
}

const (
	stripes  = 256
	mostSent = 1 << 17

	noiseBurst = 5
	noiseEvery = time.Minute
)

// New checks the configuration and reads the secrets. It sends and listens to nothing yet. The error wraps ErrConfig or says
// which secret cannot be read.
func New(cfg Config) (*Point, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	p := &Point{
		cfg: cfg, pace: rate.NewLimiter(rate.Limit(cfg.Rate), max(1, int(cfg.Rate/10))), seed: maphash.MakeSeed(),
		sent:     map[string]sent{},
		sessions: &sessions{skew: cfg.ClockSkew, stations: map[string]*session{}},
	}
	for range stripes {
		p.turns = append(p.turns, make(chan struct{}, 1))
	}
	if p.secret, err = readSecret(cfg.SecretFile); err != nil {
		return nil, err
	}
	if cfg.AccountingListen != "" {
		p.acctKey, err = readSecret(cfg.AccountingSecretFile)
	}
	return p, err
}

// Name is the configured name.
func (p *Point) Name() string { return p.cfg.Name }

// Selector is the link address.
func (p *Point) Selector() segment.Selector { return segment.ByMAC }

// Listen opens the socket for accounting, if there is one to open, and returns its address. Run does it too.
func (p *Point) Listen(ctx context.Context) (net.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.AccountingListen == "" {
		return nil, nil
	}
	if p.listener == nil {
		conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", p.cfg.AccountingListen)
		if err != nil {
			return nil, fmt.Errorf("cannot listen for accounting: %w", err)
		}
		p.listener = &listener{
			conn: conn, secret: p.acctKey, clients: p.cfg.AccountingClients, into: p.sessions, now: p.cfg.Now,
			log: p.cfg.Log.With("point", p.cfg.Name), noise: limit.New(noiseBurst, noiseEvery, mostSources),
		}
	}
	return p.listener.conn.LocalAddr(), nil
}

// Close gives the socket for accounting back. Run does so when its context ends: Close is for a point that never ran.
func (p *Point) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return nil
	}
	if err := p.listener.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("cannot close the socket for accounting: %w", err)
	}
	return nil
}

// Run receives accounting until the context ends. Without accounting it only waits.
func (p *Point) Run(ctx context.Context) error {
	if _, err := p.Listen(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	l := p.listener
	p.mu.Unlock()
	if l == nil {
		<-ctx.Done()
		return nil
	}
	return l.serve(ctx)
}

// Apply asks the NAS to move the device, once for each of its link addresses. The receipt says that the NAS has agreed for
// at least one of them, and has no session for the others.
func (p *Point) Apply(ctx context.Context, o segment.Order) (segment.Receipt, error) {
	stations, err := p.stations(o.Target)
	if err != nil {
		return segment.Receipt{}, err
	}
	turn := p.turns[maphash.String(p.seed, o.Target.Device)%stripes]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return segment.Receipt{}, fmt.Errorf("%w: %w", segment.ErrUnreachable, ctx.Err())
	}
	next := mark{o.Segment, o.Epoch}
	if inForce := p.inForce(o.Target.Device, stations); o.Epoch < inForce.epoch || o.Epoch == inForce.epoch && o.Segment != inForce.segment {
		return segment.Receipt{
			Acknowledged: p.cfg.Now(), Segment: inForce.segment, Epoch: inForce.epoch,
			Detail: fmt.Sprintf("nothing sent: order %d came first", inForce.epoch),
		}, nil
	}
	if p.cfg.Mode == ModeDisconnect && p.isThere(o, stations) {
		return segment.Receipt{Acknowledged: p.cfg.Now(), Segment: o.Segment, Epoch: o.Epoch, Detail: "nothing sent: the session is there already"}, nil
	}
	p.remember(o.Target.Device, next)
	return p.ask(ctx, o, stations)
}

// stations are the link addresses of the target.
func (p *Point) stations(t segment.Target) ([]string, error) {
	var stations []string
	for _, m := range t.MACs {
		station := parseMAC(m)
		if station == "" {
			return nil, fmt.Errorf("%w: cannot use the link address %q", segment.ErrNoAddress, m)
		}
		stations = append(stations, station)
	}
	if len(stations) == 0 {
		return nil, fmt.Errorf("%w: a link address is needed", segment.ErrNoAddress)
	}
	return stations, nil
}

// inForce is the newest order that was sent or that a record names.
func (p *Point) inForce(device string, stations []string) mark {
	p.mu.Lock()
	newest := p.sent[device].mark
	p.mu.Unlock()
	for _, station := range stations {
		s, ok := p.sessions.of(station)
		if !ok {
			continue
		}
		if m, ok := markOf(s.class, device); ok && m.epoch > newest.epoch {
			newest = m
		}
	}
	return newest
}

// isThere reports whether accounting shows the device where the order wants it.
func (p *Point) isThere(o segment.Order, stations []string) bool {
	seen := p.look(o.Target.Device, stations)
	return seen.Known && seen.Segment == o.Segment
}

// remember notes that an order goes out now. The same order sent again keeps its first time: what it has moved since
// stays proven.
func (p *Point) remember(device string, m mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent[device].mark == m {
		return
	}
	if _, known := p.sent[device]; !known && len(p.sent) >= mostSent {
		clear(p.sent) // as after a restart: the store's order of epochs remains
	}
	p.sent[device] = sent{mark: m, at: p.cfg.Now(), absent: map[string]bool{}}
}

func (p *Point) noteAbsent(device, station string, absent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sent[device]; ok {
		s.absent[station] = absent
	}
}

// ask sends the order for every link address.
func (p *Point) ask(ctx context.Context, o segment.Order, stations []string) (segment.Receipt, error) {
	var agreed, absent []string
	for _, station := range stations {
		r, err := p.exchange(ctx, p.request(o, station))
		if err != nil {
			return segment.Receipt{}, err
		}
		noSession := r.cause == rfc3576.ErrorCause_Value_SessionContextNotFound
		p.noteAbsent(o.Target.Device, station, noSession)
		switch {
		case r.code == wire.CodeCoAACK || r.code == wire.CodeDisconnectACK:
			agreed = append(agreed, station)
		case noSession:
			absent = append(absent, station)
		default:
			return segment.Receipt{}, fmt.Errorf("%w: %s: %s", segment.ErrRefused, station, explain(r.cause))
		}
	}
	if len(agreed) == 0 {
		return segment.Receipt{}, fmt.Errorf("%w: %s: %s", segment.ErrRefused, strings.Join(absent, ", "), explain(rfc3576.ErrorCause_Value_SessionContextNotFound))
	}
	detail := "acknowledged for " + strings.Join(agreed, ", ")
	if len(absent) > 0 {
		detail += "; no session for " + strings.Join(absent, ", ")
	}
	if p.cfg.AccountingListen == "" {
		detail += "; without accounting nobody can say whether the NAS did it"
	}
	return segment.Receipt{Acknowledged: p.cfg.Now(), Segment: o.Segment, Epoch: o.Epoch, Detail: detail}, nil
}

func (p *Point) request(o segment.Order, station string) request {
	r := request{
		code: wire.CodeCoARequest, station: formatMAC(station, p.cfg.MACFormat), nasID: p.cfg.NASIdentifier, nasAddress: p.cfg.NASAddress,
		attributes: p.cfg.Production,
	}
	switch {
	case p.cfg.Mode == ModeDisconnect:
		r.code, r.attributes = wire.CodeDisconnectRequest, Attributes{} // RFC 5176 section 3.6: it identifies, no more
		return r
	case o.Segment == fleet.Restricted:
		r.attributes = p.cfg.Restricted
	}
	if p.cfg.SendClass {
		r.class = classOf(o.Target.Device, mark{o.Segment, o.Epoch})
	}
	return r
}

// explain puts an Error-Cause (RFC 5176 section 3.5) into words for the operator.
func explain(c rfc3576.ErrorCause) string {
	words := map[rfc3576.ErrorCause]string{
		0: "the NAS said no, and gave no reason",
		rfc3576.ErrorCause_Value_UnsupportedAttribute:       "the NAS does not know an attribute of the request: check filter, VLAN and Class against its manual",
		rfc3576.ErrorCause_Value_MissingAttribute:           "the NAS misses an attribute: it may want NAS-Identifier or NAS-IP-Address",
		rfc3576.ErrorCause_Value_NASIdentificationMismatch:  "the request names another NAS: check NAS-Identifier and NAS-IP-Address",
		rfc3576.ErrorCause_Value_InvalidRequest:             "the NAS does not understand the request, or finds an attribute's value wrong",
		rfc3576.ErrorCause_Value_UnsupportedService:         "the NAS does not do this for this kind of session",
		rfc3576.ErrorCause_Value_UnsupportedExtension:       "the NAS does not do this: try the other mode",
		rfc3576.ErrorCause_Value_AdministrativelyProhibited: "the NAS is configured not to let us do this",
		rfc3576.ErrorCause_Value_ProxyRequestNotRoutable:    "the proxy does not know the way to the NAS",
		rfc3576.ErrorCause_Value_SessionContextNotFound:     "the NAS has no session for this link address: the device is not connected there, or the format of the address is another one",
		rfc3576.ErrorCause_Value_SessionContextNotRemovable: "the NAS cannot end this session",
		rfc3576.ErrorCause_Value_ProxyProcessingError:       "the proxy could not handle the request",
		rfc3576.ErrorCause_Value_ResourcesUnavailable:       "the NAS has no room for the change now",
		rfc3576.ErrorCause_Value_RequestInitiated:           "the NAS has only begun: it will ask the RADIUS server again",
	}
	if text, ok := words[c]; ok {
		if c != 0 {
			text += fmt.Sprintf(" (Error-Cause %d)", uint32(c))
		}
		return text
	}
	return fmt.Sprintf("the NAS said no (Error-Cause %d)", uint32(c))
}

// Observe says what accounting shows. It asks nobody: a NAS reports by itself.
func (p *Point) Observe(ctx context.Context, t segment.Target) (segment.Observation, error) {
	stations, err := p.stations(t)
	if err != nil {
		return segment.Observation{}, err
	}
	if err := ctx.Err(); err != nil {
		return segment.Observation{}, fmt.Errorf("%w: %w", segment.ErrUnreachable, err)
	}
	if p.cfg.AccountingListen == "" {
		return segment.Observation{Detail: "no accounting is configured: what the NAS did is not known"}, nil
	}
	return p.look(t.Device, stations), nil
}

// look joins what is known of all link addresses: a device is somewhere only if every one of them is there or has no session.
func (p *Point) look(device string, stations []string) segment.Observation {
	p.mu.Lock()
	last := p.sent[device]
	absent := make(map[string]bool, len(last.absent))
	for station, is := range last.absent {
		absent[station] = is
	}
	p.mu.Unlock()
	var all segment.Observation
	for _, station := range stations {
		one, connected := p.lookAt(device, station, last)
		switch {
		case !connected && absent[station] && len(stations) > 1:
			continue // the NAS itself has said that it has no session
		case !one.Known:
			return one
		case !all.Known:
			all = one
		case one.Segment != all.Segment || one.Epoch != all.Epoch:
			return segment.Observation{Detail: "the link addresses of the device are in different segments: " + all.Detail + "; " + one.Detail}
		case one.At.Before(all.At):
			all.At = one.At // no better than the oldest proof
		}
	}
	if !all.Known && all.Detail == "" {
		all.Detail = "the device has no session"
	}
	return all
}

// lookAt says what the newest record of one link address shows. connected is false if there is no session.
func (p *Point) lookAt(device, station string, last sent) (o segment.Observation, connected bool) {
	s, ok := p.sessions.of(station)
	switch {
	case !ok:
		return segment.Observation{Detail: "no accounting for " + station + " yet"}, false
	case !s.open:
		return segment.Observation{Detail: "the session of " + station + " has ended"}, false
	}
	named, byClass := markOf(s.class, device)
	where, ok := p.segmentOf(s.record)
	shown := fmt.Sprintf("%s: Filter-Id %q, VLAN %q", station, strings.Join(s.filters, " "), strings.Join(s.vlans, " "))
	switch {
	case !ok:
		return segment.Observation{Detail: shown + ": neither of the two segments"}, true
	case byClass:
		return segment.Observation{Segment: where, Epoch: named.epoch, At: s.received, Known: true, Detail: shown}, true
	case s.received.Before(last.at) || s.event.Before(last.at.Truncate(time.Second).Add(-p.cfg.ClockSkew)):
		return segment.Observation{Detail: shown + ": older than the last order"}, true
	}
	return segment.Observation{Segment: where, At: s.received, Known: true, Detail: shown}, true
}

// segmentOf tells the segments apart by what a record shows. Every attribute that a segment has must be there, and none of
// the other segment's.
func (p *Point) segmentOf(r record) (fleet.Segment, bool) {
	has := func(a, other Attributes) bool {
		return (a.FilterID == "" || slices.Contains(r.filters, a.FilterID)) && (a.VLAN == "" || slices.Contains(r.vlans, a.VLAN)) &&
			(other.FilterID == "" || other.FilterID == a.FilterID || !slices.Contains(r.filters, other.FilterID)) &&
			(other.VLAN == "" || other.VLAN == a.VLAN || !slices.Contains(r.vlans, other.VLAN))
	}
	switch {
	case has(p.cfg.Restricted, p.cfg.Production):
		return fleet.Restricted, true
	case has(p.cfg.Production, p.cfg.Restricted):
		return fleet.Production, true
	}
	return "", false
}

// errNoAnswer is the explanation of silence.
var errNoAnswer = errors.New("no acceptable answer: the NAS is down, the way is blocked, it does not take orders from this address, or the shared secret is wrong (RADIUS is silent about that)")
