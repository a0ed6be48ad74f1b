package demo

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// relay is the network between devices and server: it passes bytes on, until somebody takes it over.
type relay struct {
	listener net.Listener

	mu     sync.Mutex // guards all below
	target string
	handle func(net.Conn) // nil: pass on
	open   map[net.Conn]bool
}

func newRelay() (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot make the network: %w", err)
	}
	return newRelayOn(l), nil
}

func newRelayOn(l net.Listener) *relay {
	r := &relay{listener: l, open: map[net.Conn]bool{}}
	go r.accept()
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) connectTo(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

func (r *relay) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.open[conn] = true
		handle, target := r.handle, r.target
		r.mu.Unlock()
		go func() {
			defer r.forget(conn)
			if handle != nil {
				handle(conn)
				return
			}
			pass(conn, target)
		}()
	}
}

func (r *relay) forget(conn net.Conn) {
	_ = conn.Close() // it may be closed already
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

// pass connects both ends until one of them ends.
func pass(conn net.Conn, target string) {
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	done := make(chan struct{}, 2)
	copyAll := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // either end may go at any time
		done <- struct{}{}
	}
	go copyAll(up, conn)
	go copyAll(conn, up)
	<-done
}

// take gives every new connection to handle, until give.
func (r *relay) take(handle func(net.Conn)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle = handle
}

func (r *relay) give() { r.take(nil) }

// impersonate answers devices with handler and the server's own TLS key: what somebody can do who stole it.
func (r *relay) impersonate(cert tls.Certificate, handler http.Handler) {
	r.take(func(conn net.Conn) {
		config := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
		l := &oneConn{conn: tls.Server(conn, config), done: make(chan struct{})}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				l.end()
			}
		}}
		_ = server.Serve(l) // ends with its one connection
	})
}

// oneConn is a listener that accepts one connection and ends with it.
type oneConn struct {
	conn net.Conn
	once sync.Once
	stop sync.Once
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	var conn net.Conn
	l.once.Do(func() { conn = l.conn })
	if conn != nil {
		return conn, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) end()           { l.stop.Do(func() { close(l.done) }) }
func (l *oneConn) Close() error   { l.end(); return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// loseAnswer passes bytes on until the device has sent more than a handshake, and cuts the line when the server answers
// that. lost is closed when it has happened.
func (r *relay) loseAnswer(ctx context.Context, afterBytes int64) (lost <-chan struct{}) {
	happened := make(chan struct{})
	var once sync.Once
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	r.take(func(conn net.Conn) {
		up, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
		if err != nil {
			return
		}
		defer up.Close()
		sent := make(chan struct{})
		go func() {
			if _, err := io.CopyN(up, conn, afterBytes); err != nil {
				return
			}
			close(sent)
			_, _ = io.Copy(up, conn) // ends when the line is cut
		}()
		b := make([]byte, 32<<10)
		for {
			n, err := up.Read(b)
			if err != nil {
				return
			}
			select {
			case <-sent:
				once.Do(func() { close(happened) })
				return
			default:
			}
			if _, err := conn.Write(b[:n]); err != nil {
				return
			}
		}
	})
	return happened
}

func (r *relay) close() {
	_ = r.listener.Close() // nothing depends on it any more
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.open {
		_ = conn.Close()
	}
}
