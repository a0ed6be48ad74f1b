package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/wire"
)

const (
	copyBytes  = 128 << 10
	keepBytes  = 4 << 20 // progress is made durable this often
	maxBroken  = 5       // connections in a row that broke without progress
	maxTries   = 64      // connections for one image that brought less than steadyBytes
	retryPause = time.Second
	// steadyBytes is what a connection has to bring so that the next one neither waits nor counts: a line that breaks
	// often still brings a large image, in time and in connections that grow with its length alone.
	steadyBytes = 1 << 20
)

// download brings images over connections that may break.
type download struct {
	client *Client
	ch     *channel
	atDoor bool // the door itself has to send the bytes: another server failed
	strays bool // some bytes came from another server
}

func (g *download) close() {
	if g.ch != nil {
		g.ch.close()
		g.ch = nil
	}
}

// digestOf is digest.Of, named apart from the hashers here.
func digestOf(b []byte) digest.SHA256 { return digest.Of(b) }

// hashPrefix hashes the first n bytes of a slot.
func hashPrefix(ctx context.Context, slot io.ReaderAt, n int64) (hash.Hash, error) {
	h := sha256.New()
	buf := make([]byte, copyBytes)
	for at := int64(0); at < n; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		k, err := slot.ReadAt(buf[:min(n-at, copyBytes)], at)
		h.Write(buf[:k])
		at += int64(k)
		if err != nil && at < n {
			return nil, err
		}
	}
	return h, nil
}

// into writes one image to slot, starting at offset, whose bytes before it are hashed again first. keep is called when
// more bytes are durable. Exactly the image's length is written; a byte more is refused.
func (g *download) into(ctx context.Context, slot installer.Slot, p part, offset int64, keep func(int64) error) ([]Refusal, error) {
	sum, err := hashPrefix(ctx, slot, offset)
	if err != nil {
		sum, offset = sha256.New(), 0 // the slot is shorter than the journal says
	}
	to := &sink{slot: slot, sum: sum, at: offset, kept: offset, end: p.component.Length, keep: keep}
	if err := g.all(ctx, p, to); err != nil {
		if r, ok := errors.AsType[*doorError](err); ok {
			return r.refusals, nil
		}
		if errors.Is(err, errTooLong) {
			return []Refusal{g.client.refuse(reason.ArtifactMismatch, "%s: %v", p.path, err)}, nil
		}
		return nil, errors.Join(err, to.settle())
	}
	if digest.SHA256(to.sum.Sum(nil)) != p.component.SHA256 && g.strays {
		g.client.log.Warn("another server sent wrong bytes; the door has to send them", "target", p.path)
		g.close()
		g.atDoor, g.strays = true, false
		to.restart()
		return g.into(ctx, slot, p, 0, keep)
	}
	if digest.SHA256(to.sum.Sum(nil)) != p.component.SHA256 {
		return []Refusal{g.client.refuse(reason.ArtifactMismatch, "%s does not have the signed digest", p.path)}, nil
	}
	return nil, to.settle()
}

// all fetches until the sink is full, over as many connections as it takes.
func (g *download) all(ctx context.Context, p part, to *sink) error {
	broken, tries := 0, 0
	for to.at < to.end {
		before := to.at
		err := g.once(ctx, p, to)
		if err == nil {
			continue
		}
		g.close()
		if _, refused := errors.AsType[*doorError](err); refused || errors.Is(err, errTooLong) || errors.Is(err, errSlot) || ctx.Err() != nil {
			return err
		}
		g.client.log.Info("download goes on", "target", p.path, "offset", to.at, "cause", err.Error())
		if to.at-before >= steadyBytes {
			broken = 0
			continue
		}
		tries++
		if broken++; to.at > before {
			broken = 0
		}
		if broken >= maxBroken || tries >= maxTries {
			return fmt.Errorf("cannot download %s: %w", p.path, err)
		}
		if err := g.client.cfg.Sleep(ctx, retryPause); err != nil {
			return err
		}
	}
	return nil
}

// Errors of one exchange that no other connection would cure.
var (
	errTooLong = errors.New("the server sends more bytes than the image has")
	errSlot    = errors.New("the slot cannot be written")
)

// doorError carries the refusals of the artifact door.
type doorError struct{ refusals []Refusal }

func (e *doorError) Error() string {
	return "the server refused the image: " + string(e.refusals[0].Reason)
}

// once makes one ranged request and writes what comes.
func (g *download) once(ctx context.Context, p part, to *sink) error {
	if g.ch == nil {
		ch, err := g.client.dialer.open(ctx)
		if err != nil {
			return err
		}
		g.ch = ch
	}
	header := http.Header{}
	follows := g.follows()
	if to.at > 0 || follows {
		header.Set("Range", fmt.Sprintf("bytes=%d-", to.at))
	}
	if follows {
		header.Set(wire.HeaderRedirect, "1")
	}
	path := wire.PathArtifacts + "/" + p.component.SHA256.String()
	remaining := to.end - to.at
	res, done, err := g.ch.start(ctx, http.MethodGet, path, nil, header, to.end)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case res.StatusCode == http.StatusTemporaryRedirect && follows:
		g.close() // it would only wait
		return g.redirected(ctx, p, to, res.Header.Get("Location"))
	case res.StatusCode == http.StatusPartialContent && header.Get("Range") != "":
		if want := fmt.Sprintf("bytes %d-%d/%d", to.at, to.end-1, to.end); res.Header.Get("Content-Range") != want {
			return fmt.Errorf("%w: range %.80q, want %q", ErrServer, res.Header.Get("Content-Range"), want)
		}
	case res.StatusCode == http.StatusOK:
		if to.at > 0 { // it ignored the range
			to.restart()
			remaining = to.end
		}
	default:
		return g.refused(path, res)
	}
	if res.ContentLength > remaining {
		g.close()
		return errTooLong
	}
	return g.copy(ctx, g.ch.conn, res.Body, to)
}

// refused reads a problem document.
func (g *download) refused(path string, res *http.Response) error {
	const limit = 64 << 10
	b, err := io.ReadAll(io.LimitReader(res.Body, limit))
	if err != nil {
		return fmt.Errorf("cannot read answer of %s: %w", path, err)
	}
	refusals, err := refusalOf(path, answer{status: res.StatusCode, header: res.Header, body: b})
	if err != nil {
		return err
	}
	return &doorError{refusals: refusals}
}

// copy writes the body. In every StallTimeout at least MinSpeed bytes per second must have come.
func (g *download) copy(ctx context.Context, conn net.Conn, body io.Reader, to *sink) error {
	cfg := g.client.cfg
	need := max(1, int64(cfg.StallTimeout.Seconds()*float64(cfg.MinSpeed)))
	buf := make([]byte, copyBytes)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for got := need; ; {
		if got >= need {
			if err := conn.SetDeadline(time.Now().Add(cfg.StallTimeout)); err != nil {
				return err
			}
			got = 0
		}
		if err := ctx.Err(); err != nil { // the deadline above may have come after the one of the context
			return err
		}
		n, err := body.Read(buf)
		got += int64(n)
		if err := to.write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return g.end(to)
		}
		if err != nil {
			return g.broken(err)
		}
	}
}

func (g *download) end(to *sink) error {
	if to.at < to.end {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (g *download) broken(err error) error {
	if t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && t.Timeout() {
		return fmt.Errorf("%w: %w", ErrStalled, err)
	}
	return err
}

// sink hashes and writes an image, and never more than its length.
type sink struct {
	slot installer.Slot
	sum  hash.Hash
	at   int64 // bytes written and hashed
	kept int64 // bytes that are durable
	end  int64
	keep func(int64) error
}

func (s *sink) write(b []byte) error {
	if int64(len(b)) > s.end-s.at {
		return errTooLong
	}
	if len(b) == 0 {
		return nil
	}
	n, err := s.slot.WriteAt(b, s.at)
	s.sum.Write(b[:n])
	s.at += int64(n)
	if err != nil {
		return fmt.Errorf("%w: %w", errSlot, err)
	}
	if s.at-s.kept >= keepBytes {
		return s.settle()
	}
	return nil
}

// settle makes what was written durable and notes it.
func (s *sink) settle() error {
	if err := s.slot.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errSlot, err)
	}
	if s.at == s.kept {
		return nil
	}
	crash.Here(crash.AgentSlotSynced)
	s.kept = s.at
	return s.keep(s.at)
}

func (s *sink) restart() {
	s.sum.Reset()
	s.at, s.kept = 0, 0
}
