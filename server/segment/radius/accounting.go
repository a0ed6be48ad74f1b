package radius

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	wire "layeh.com/radius"

	"github.com/cordon-ota/cordon/server/limit"
)

const (
	freshness    = 5 * time.Minute // how old a record may be to count
	mostStations = 1 << 16
	mostSources  = 4096 // that are told apart in complaints
	mostSameTime = 16   // records of one station with the same second
)

// session is the newest record of a station.
type session struct {
	record
	received time.Time
	source   netip.Addr // who sent it
	open     bool       // it was no Stop
	digests  [][16]byte // of all records of this station with this Event-Timestamp
}

// sessions is what accounting says about stations. It is safe for concurrent use.
type sessions struct {
	skew time.Duration

	mu       sync.Mutex
	stations map[string]*session // by link address; guarded by mu
}

// Whys of a record that does not count.
var (
	errStale  = errors.New("its Event-Timestamp is missing, too old, or ahead of our clock")
	errReplay = errors.New("a record that is as new or newer is there already")
	errFull   = errors.New("more stations than can be kept")
)

// take counts a record, or says why it does not. RADIUS accounting has no nonce: a record that was heard on the wire can
// be sent again at any time. So only records from around now count, and for each station time never goes back.
func (s *sessions) take(r record, source netip.Addr, now time.Time) error {
	if r.event.Before(now.Add(-freshness)) || r.event.After(now.Add(s.skew)) {
		return errStale
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.status == statusOn || r.status == statusOff {
		s.restarted(r, source, now)
		return nil
	}
	old := s.stations[r.station]
	next := &session{record: r, received: now, source: source, open: r.status != statusStop, digests: [][16]byte{r.digest}}
	switch {
	case old == nil:
		if len(s.stations) >= mostStations {
			s.forget(now)
		}
		if len(s.stations) >= mostStations {
			return errFull
		}
	case r.event.Before(old.event):
		return errReplay
	case r.event.Equal(old.event):
		if slices.Contains(old.digests, r.digest) || len(old.digests) >= mostSameTime {
			return errReplay
		}
		next.digests = append(next.digests, old.digests...)
	}
	s.stations[r.station] = next
	return nil
}

// restarted ends all sessions of a NAS that starts or stops accounting, as far as they are from before: sent again, the
// record ends nothing that began since.
func (s *sessions) restarted(r record, source netip.Addr, now time.Time) {
	for _, session := range s.stations {
		if session.source == source && session.nas == r.nas && session.event.Before(r.event) {
			session.open, session.received = false, now
		}
	}
}

// forget drops ended sessions that no replayed record could bring back.
func (s *sessions) forget(now time.Time) {
	for station, session := range s.stations {
		if !session.open && session.event.Before(now.Add(-freshness)) {
			delete(s.stations, station)
		}
	}
}

// of returns the newest record of a station.
func (s *sessions) of(station string) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.stations[station]
	if !ok {
		return session{}, false
	}
	return *found, true
}

// listener receives accounting.
type listener struct {
	conn    net.PacketConn
	secret  []byte
	clients []netip.Prefix
	into    *sessions
	now     func() time.Time
	log     *slog.Logger
	noise   *limit.Limiter
}

// serve answers until the context ends.
func (l *listener) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = l.conn.Close() })
	defer stop()
	b := make([]byte, wire.MaxPacketLength+1)
	for {
		n, from, err := l.conn.ReadFrom(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot receive accounting: %w", err)
		}
		if answer := l.handle(ctx, b[:n], from); answer != nil {
			_, _ = l.conn.WriteTo(answer, from) // the NAS asks again
		}
	}
}

// handle takes one packet and returns the response, nil for none. Whoever is not known, or does not know the secret, gets
// silence.
func (l *listener) handle(ctx context.Context, b []byte, from net.Addr) []byte {
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return nil
	}
	source := udp.AddrPort().Addr().Unmap().WithZone("")
	now := l.now()
	if !slices.ContainsFunc(l.clients, func(p netip.Prefix) bool { return p.Contains(source) }) {
		l.complain(ctx, "accounting from an address that may not send it", source, nil, now)
		return nil
	}
	r, answer, err := readAccounting(b, l.secret)
	if err != nil {
		l.complain(ctx, "cannot take an accounting packet", source, err, now)
		return nil
	}
	about := r.status == statusOn || r.status == statusOff ||
		r.station != "" && (r.status == statusStart || r.status == statusInterim || r.status == statusStop)
	if !about {
		return answer // tunnels, failed links, stations without link address: received, and of no use here
	}
	switch err := l.into.take(r, source, now); {
	case err == nil || errors.Is(err, errReplay):
	default:
		l.complain(ctx, "an accounting record does not count", source, err, now)
	}
	return answer
}

// complain logs, not more often than is useful.
func (l *listener) complain(ctx context.Context, what string, source netip.Addr, err error, now time.Time) {
	if ok, dropped, _ := l.noise.Allow(source.String(), now); ok {
		l.log.WarnContext(ctx, what, "source", source.String(), "error", err, "dropped", dropped)
	}
}
