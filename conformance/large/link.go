// Package large takes an image of 1 GiB over every road of the real programs - publish, serve, download, verify, install -
// and measures what each process held in memory and how many bytes crossed the link.
//
// It promises that its link breaks as often as it says and counts every byte, and that memory is what the kernel counted
// for the process itself. It refuses to measure time: a slow machine is not a fault. Nobody trusts it.
package large

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Link is a network path that breaks: it passes a number of bytes per connection, both directions together, and then
// closes both ends.
type Link struct {
	listener net.Listener
	target   string
	limit    int64
	bytes    atomic.Int64
	broken   atomic.Int64
	running  sync.WaitGroup
}

// NewLink makes a link to target (host:port) whose connections break after limit bytes.
func NewLink(target string, limit int64) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot make the link: %w", err)
	}
	link := &Link{listener: l, target: target, limit: limit}
	link.running.Add(1)
	go link.accept()
	return link, nil
}

// Addr is the address of its near end.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Bytes is what has crossed the link so far, in both directions; Broken is how often it broke.
func (l *Link) Bytes() int64 { return l.bytes.Load() }

// Broken is how many connections it broke.
func (l *Link) Broken() int64 { return l.broken.Load() }

// Close ends the link after its open connections.
func (l *Link) Close() {
	_ = l.listener.Close() // nothing depends on it any more
	l.running.Wait()
}

func (l *Link) accept() {
	defer l.running.Done()
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.running.Add(1)
		go func() {
			defer l.running.Done()
			l.pass(conn)
		}()
	}
}

// pass carries one connection to its end.
func (l *Link) pass(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	var left atomic.Int64
	left.Store(l.limit)
	done := make(chan struct{}, 2)
	for _, d := range [][2]net.Conn{{far, near}, {near, far}} {
		go func() {
			l.copy(d[0], d[1], &left)
			done <- struct{}{}
		}()
	}
	<-done // one direction ended: so does the connection
	near.Close()
	far.Close()
	<-done
	if left.Load() <= 0 {
		l.broken.Add(1)
	}
}

func (l *Link) copy(to io.Writer, from io.Reader, left *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if over := left.Add(-int64(n)); over < 0 {
			n = max(0, n+int(over))
		}
		if n > 0 {
			m, writeErr := to.Write(buf[:n])
			l.bytes.Add(int64(m))
			if writeErr != nil {
				return
			}
		}
		if err != nil || left.Load() <= 0 {
			return
		}
	}
}
