package demo

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
)

// RunEnv is Run with more in the environment. A program that a signal ended has exit code -1.
func (s *Stage) RunEnv(env []string, program string, args ...string) (int, string, string) {
	s.t.Helper()
	r, err := s.w.runWith(s.t.Context(), env, program, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.code, r.stdout, r.stderr
}

// StartServerEnv is StartServer with more in the environment. It returns the error of a server that ends before it
// answers.
func (s *Stage) StartServerEnv(env ...string) error {
	s.t.Helper()
	return s.w.startServer(s.t.Context(), env...)
}

// KillServer kills cordond, as a power cut would.
func (s *Stage) KillServer() {
	s.t.Helper()
	if s.w.server.cmd == nil {
		return
	}
	_ = s.w.server.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
	<-s.w.server.ended
	s.w.server.cmd = nil
}

// ServerEnded waits for the end of cordond until the time is over, and says whether a signal ended it.
func (s *Stage) ServerEnded(within time.Duration) (ended, killed bool) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-s.w.server.ended:
	case <-timer.C:
		return false, false
	}
	status, ok := s.w.server.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return true, ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// ServerLog is everything that cordond has logged on this stage.
func (s *Stage) ServerLog() string {
	s.t.Helper()
	b, err := os.ReadFile(s.w.server.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// Sign runs cordon-sign and returns its output.
func (s *Stage) Sign(args ...string) string {
	s.t.Helper()
	out, err := s.w.must(s.t.Context(), "cordon-sign", args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// Server adds the flags that name the server, and who asks, to a command line.
func (s *Stage) Server(person string, args ...string) []string { return s.w.by(person, args...) }

// Tamper puts another image into the slot that boots.
func (d *Device) Tamper(image []byte) {
	d.t.Helper()
	slot, err := d.d.machine.Active()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.d.machine.Tamper(slot, func([]byte) []byte { return image }); err != nil {
		d.t.Fatal(err)
	}
}

// AgentEnv runs the agent once with more in the environment and returns exit code, output and errors; code -1 means
// that a signal ended it. A restart that it asked for is not carried out: see Reboots.
func (d *Device) AgentEnv(env ...string) (int, string, string) {
	d.t.Helper()
	r, err := d.d.w.runWith(d.t.Context(), env, "cordon-agent", append(d.d.agentArgs(), "--once")...)
	if err != nil {
		d.t.Fatal(err)
	}
	return r.code, r.stdout, r.stderr
}

// Reboots says whether the agent has asked for a restart since the last time.
func (d *Device) Reboots() bool { return os.Remove(d.d.rebootRequest()) == nil }

// Slots is the folder of the boot slots.
func (d *Device) Slots() string { return d.d.machine.SlotsDir() }

// Claim lists the device in the inventory.
func (d *Device) Claim() {
	d.t.Helper()
	args := []string{"inventory", "set", d.d.id, "--product", product, "--hardware-id", d.d.system.Hardware, "--profile", profile}
	if _, err := d.d.w.must(d.t.Context(), "cordonctl", d.d.w.by("bob", args...)...); err != nil {
		d.t.Fatal(err)
	}
}

// As is the admin API as one person of the stage.
func (s *Stage) As(person string) (*api.Client, error) { return s.w.as(person) }

// VersionOf says which version an image is; empty for bytes that were never published.
func (s *Stage) VersionOf(image []byte) string {
	s.t.Helper()
	for version := range s.w.images {
		if s.Image(version) == digest.Of(image) {
			return version
		}
	}
	return ""
}

// Look is Seen for a server that may be away.
func (d *Device) Look() (api.Device, error) { return d.d.seen(d.t.Context()) }

// Configure replaces text in cordond's configuration, which holds from its next start on.
func (s *Stage) Configure(old, with string) {
	s.t.Helper()
	b, err := os.ReadFile(s.w.server.config)
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.Count(string(b), old) != 1 {
		s.t.Fatalf("the configuration has %q %d times", old, strings.Count(string(b), old))
	}
	if err := os.WriteFile(s.w.server.config, []byte(strings.Replace(string(b), old, with, 1)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// LineFault is what is wrong with a line.
type LineFault string

// Faults of a line.
const (
	LineWhole  LineFault = ""
	LineDown   LineFault = "down"   // connections end at once
	LineSilent LineFault = "silent" // connections stand, those from before too, and nothing comes through
	LineSlow   LineFault = "slow"   // 4 MiB per second on each connection
	LineCut    LineFault = "cut"    // each connection breaks after 200 KiB
	LineBusy   LineFault = "busy"   // every request is answered with 503
)

const (
	linePiece  = 32 << 10
	linePause  = time.Second / 128
	lineBudget = 200 << 10
)

// Line is the network between cordond and its S3 server.
type Line struct {
	listener net.Listener
	target   string
	cert     tls.Certificate // of the S3 server

	mu      sync.Mutex // guards all below
	fault   LineFault
	changed chan struct{} // closed when fault changes
	open    map[net.Conn]bool
}

// LineToS3 puts a line between cordond and its bucket, and restarts cordond. What does not move for idle counts as away.
func (s *Stage) LineToS3(idle time.Duration) *Line {
	s.t.Helper()
	u, err := url.Parse(s.w.s3.Endpoint())
	if err != nil {
		s.t.Fatal(err)
	}
	certs := filepath.Join(s.w.s3.Dir(), "certs")
	cert, err := tls.LoadX509KeyPair(filepath.Join(certs, "public.crt"), filepath.Join(certs, "private.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	l := &Line{listener: listener, target: u.Host, cert: cert, changed: make(chan struct{}), open: map[net.Conn]bool{}}
	go l.accept()
	s.t.Cleanup(func() {
		_ = listener.Close() // nothing depends on it any more
		l.Break(LineDown)
	})
	s.StopServer()
	s.Configure(fmt.Sprintf("endpoint = %q", s.w.s3.Endpoint()), fmt.Sprintf("endpoint = %q\nidle_timeout = %q", "https://"+listener.Addr().String(), idle))
	s.StartServer()
	return l
}

// Break changes what is wrong with the line. Connections from before end, but for those that fall silent.
func (l *Line) Break(f LineFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
	close(l.changed)
	l.changed = make(chan struct{})
	if f == LineSilent {
		return
	}
	for conn := range l.open {
		_ = conn.Close()
	}
}

func (l *Line) now() (LineFault, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault, l.changed
}

func (l *Line) accept() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.open[conn] = true
		l.mu.Unlock()
		go func() {
			l.serve(conn)
			_ = conn.Close() // it may be closed already
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.open, conn)
		}()
	}
}

func (l *Line) serve(conn net.Conn) {
	switch fault, changed := l.now(); fault {
	case LineDown:
	case LineSilent:
		<-changed
	case LineBusy:
		busy(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{l.cert}, MinVersion: tls.VersionTLS12}))
	default:
		l.pass(conn)
	}
}

func (l *Line) pass(conn net.Conn) {
	up, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer up.Close()
	var moved atomic.Int64
	done := make(chan struct{}, 2)
	pump := func(to, from net.Conn) {
		l.pump(to, from, &moved)
		done <- struct{}{}
	}
	go pump(up, conn)
	go pump(conn, up)
	<-done
}

// pump passes bytes on until an end of the connection goes, or the line takes them.
func (l *Line) pump(to, from net.Conn, moved *atomic.Int64) {
	b := make([]byte, linePiece)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		switch fault, changed := l.now(); fault {
		case LineSilent:
			<-changed
			return
		case LineSlow:
			select {
			case <-time.After(linePause):
			case <-changed:
			}
		case LineCut:
			if moved.Add(int64(n)) > lineBudget {
				return
			}
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// busy answers every request of a connection as an overloaded S3 server does.
func busy(conn net.Conn) {
	listener := &oneConn{conn: conn, done: make(chan struct{})}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the client may go at any time
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>`)
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				listener.end()
			}
		},
	}
	_ = server.Serve(listener) // ends with its one connection
}
