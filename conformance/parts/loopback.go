package parts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// loopback is an HTTP server of this process on a loopback port that it keeps over a stop and a restart.
type loopback struct {
	address string
	handler http.Handler
	server  *http.Server
}

// listenLoopback serves handler on a free port. Routes may still be added to handler until its address is told.
func listenLoopback(handler http.Handler) (*loopback, error) {
	l := &loopback{address: "127.0.0.1:0", handler: handler}
	if err := l.start(context.Background()); err != nil {
		return nil, err
	}
	return l, nil
}

// start listens, at the same port as before if there was one.
func (l *loopback) start(ctx context.Context) error {
	var lc net.ListenConfig
	var listener net.Listener
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		var err error
		listener, err = lc.Listen(ctx, "tcp", l.address)
		if l.server != nil && errors.Is(err, syscall.EADDRINUSE) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("cannot listen on loopback: %w", err)
	}
	l.address = listener.Addr().String()
	l.server = &http.Server{Handler: l.handler, ReadHeaderTimeout: 10 * time.Second}
	go func(server *http.Server) { _ = server.Serve(listener) }(l.server)
	return nil
}

func (l *loopback) url() string { return "http://" + l.address }

// stop cuts every connection.
func (l *loopback) stop() { _ = l.server.Close() }
