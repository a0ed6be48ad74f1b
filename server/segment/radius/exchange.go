package radius

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	wire "layeh.com/radius"

	"github.com/cordon-ota/cordon/server/segment"
)

// exchange sends the request and waits for an answer to any of its tries. Every try is a packet of its own, with a new
// identifier and the time of now, so that an old one is nothing to a NAS that checks Event-Timestamp.
func (p *Point) exchange(ctx context.Context, r request) (reply, error) {
	if err := p.pace.Wait(ctx); err != nil {
		return reply{}, fmt.Errorf("%w: cannot wait for the next request: %w", segment.ErrUnreachable, err)
	}
	// A connected socket with a port of its own: the kernel drops what does not come from the NAS's address and port.
	conn, err := new(net.Dialer).DialContext(ctx, "udp", p.cfg.Server)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", segment.ErrUnreachable, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	first := randomByte()
	asked := map[byte][]byte{}
	var why error
	for try := range p.cfg.Tries {
		if try > 0 {
			if err := p.pace.Wait(ctx); err != nil {
				break
			}
		}
		r.at = p.cfg.Now()
		packet, err := r.encode(first+byte(try), p.secret)
		if err != nil {
			return reply{}, fmt.Errorf("%w: %w", segment.ErrRefused, err)
		}
		asked[packet[1]] = packet
		answer, err := p.once(ctx, conn, packet, asked)
		if err == nil {
			return answer, nil
		}
		why = err
		if ctx.Err() != nil {
			break
		}
	}
	return reply{}, fmt.Errorf("%w: %s after %d tries: %w: %w", segment.ErrUnreachable, p.cfg.Server, len(asked), errNoAnswer, errors.Join(ctx.Err(), why))
}

// once sends one packet and waits for the end of its time. An answer that is not acceptable does not end the waiting: the
// right one may still come.
func (p *Point) once(ctx context.Context, conn net.Conn, packet []byte, asked map[byte][]byte) (reply, error) {
	if err := conn.SetDeadline(time.Now().Add(p.cfg.Timeout)); err != nil {
		return reply{}, err
	}
	if ctx.Err() != nil {
		return reply{}, ctx.Err() // its end may have come before the new deadline
	}
	if _, err := conn.Write(packet); err != nil {
		return reply{}, p.pause(ctx, err)
	}
	var why error
	b := make([]byte, wire.MaxPacketLength+1)
	for {
		n, err := conn.Read(b)
		if err != nil {
			if why != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				return reply{}, why
			}
			return reply{}, p.pause(ctx, err)
		}
		if n < headerLen || asked[b[1]] == nil {
			why = fmt.Errorf("%w: it answers nothing that was asked", errPacket)
			continue
		}
		answer, err := readReply(b[:n], asked[b[1]], p.secret, p.cfg.StrictReplies)
		if err == nil {
			return answer, nil
		}
		why = err
	}
}

// pause waits out the time of a try whose socket failed at once (nobody listens there), so that tries are apart.
func (p *Point) pause(ctx context.Context, why error) error {
	if errors.Is(why, os.ErrDeadlineExceeded) {
		return why
	}
	timer := time.NewTimer(p.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return why
}
