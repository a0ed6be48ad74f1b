package demo

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// server is cordond as a process, with the addresses that it keeps over restarts.
type server struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // valid once ended is closed
	config string
	log    string

	devices, admin, metrics string // host:port
}

// times are short enough for a story and long enough for a slow machine.
const times = `
[times]
timestamp = "20s"
poll = "30s"
beacon_window = "2m"
lease = "5m"
grace = "10m"
challenge = "2m"
update_deadline = "1h"
enforce = "200ms"
`

// configure writes the configuration. devicesURL is what devices connect to; database and bucket are lines of it.
func (w *world) configure(ctx context.Context, devicesURL, database, bucket string) error {
	var err error
	s := &w.server
	for _, address := range []*string{&s.devices, &s.admin, &s.metrics} {
		if *address, err = parts.FreeAddress(ctx); err != nil {
			return err
		}
	}
	if len(w.opt.names) > 0 {
		database = fmt.Sprintf("names = [\"%s\"]\n", strings.Join(w.opt.names, `", "`)) + database
	}
	text := fmt.Sprintf("data_dir = %q\nek_roots_file = %q\n%s\n[listen]\ndevices = %q\nadmin = %q\nmetrics = %q\ndevice_url = %q\n%s\n%s\n%s",
		w.path("cordon-data"), w.path("ek-roots.pem"), database, s.devices, s.admin, s.metrics, devicesURL, w.times(), bucket, w.opt.config)
	s.config, s.log = w.path("cordond.toml"), w.path("cordond.log")
	return os.WriteFile(s.config, []byte(text), 0o600)
}

func (w *world) times() string {
	if w.opt.times != "" {
		return w.opt.times
	}
	return times
}

// startServer starts cordond and waits until its admin listener answers. env is added to what programs see.
func (w *world) startServer(ctx context.Context, env ...string) error {
	s := &w.server
	log, err := os.OpenFile(s.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the server's log: %w", err)
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(w.bin, "cordond"), "--config", s.config)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env = w.dir, log, log, append(w.env(), env...)
	s.cmd.SysProcAttr = childAttr()
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start cordond: %w", err)
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		s.err = cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)
	return w.waitFor(ctx, "cordond to answer", func() error {
		select {
		case <-s.ended:
			return errors.Join(errStop, fmt.Errorf("cordond ended (%v):\n%s", s.err, tail(s.log)))
		default:
		}
		_, err := w.status(ctx, "/healthz")
		return err
	})
}

// stopServer asks cordond to end, and kills it if it does not.
func (w *world) stopServer() {
	s := &w.server
	if s.cmd == nil || s.cmd.Process == nil || s.ended == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	s.cmd = nil
}

// errStop ends a wait before its time.
var errStop = errors.New("it will not happen any more")

// waitFor tries until check is content; a minute is far more than anything here takes.
func (w *world) waitFor(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if errors.Is(err, errStop) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func (w *world) adminURL() string { return "https://" + w.server.admin }

// get reads a path of the admin listener, whose CA the story knows from the server's folder.
func (w *world) get(ctx context.Context, path string) (int, []byte, error) {
	pool, err := w.serverCA()
	if err != nil {
		return 0, nil, err
	}
	return httpGet(ctx, pool, w.adminURL()+path)
}

// status asks for the status code of a path.
func (w *world) status(ctx context.Context, path string) (int, error) {
	code, _, err := w.get(ctx, path)
	return code, err
}

func (w *world) serverCA() (*x509.CertPool, error) {
	b, err := os.ReadFile(w.path("cordon-data", "keys", "server-ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("the server's CA is not PEM")
	}
	return pool, nil
}

func httpGet(ctx context.Context, pool *x509.CertPool, url string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig(pool)}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	return res.StatusCode, b, err
}

// as is the admin API as one person.
func (w *world) as(person string) (*api.Client, error) {
	b, err := os.ReadFile(w.tokenFile(person))
	if err != nil {
		return nil, fmt.Errorf("cannot read the token of %s: %w", person, err)
	}
	return api.New(api.Config{URL: w.adminURL(), CASHA256: w.pin, Token: strings.TrimSpace(string(b))})
}
