package parts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The servers of a Sigstore, each built from its Go module at the newest version that Go 1.26 builds.
func fulcio() goTool {
	return goTool{name: "fulcio", pkg: "github.com/sigstore/fulcio", version: "v1.8.8"}
}

func rekor() goTool {
	return goTool{name: "rekor-posix", pkg: "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix", version: "v2.3.0"}
}

func timestampServer() goTool {
	return goTool{name: "timestamp-server", pkg: "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server", version: "v2.1.3"}
}

// FulcioVersion is the version of Fulcio.
func FulcioVersion() string { return fulcio().version }

// RekorVersion is the version of Rekor.
func RekorVersion() string { return rekor().version }

// TimestampVersion is the version of the timestamp authority.
func TimestampVersion() string { return timestampServer().version }

const (
	// sigstoreAudience is the audience that Fulcio accepts.
	sigstoreAudience = "sigstore"
	// rekorOrigin is the log's name. Every Sigstore that the parts start has the same one.
	rekorOrigin = "rekor.cordon.example"
)

// SigstoreConfig says how a Sigstore is started. The zero value works.
type SigstoreConfig struct {
	// Dir keeps keys, log and logs. Optional: empty means a temporary folder that goes with the Sigstore.
	Dir string
	// OIDC is the token service whose identities are certified. Optional: one of its own by default. With the one of
	// another Sigstore, this one certifies the same identities, under the same names, with other keys.
	OIDC *OIDC
}

// Sigstore is a whole Sigstore on loopback: Fulcio, a Rekor v2 log and a timestamp authority as processes of their own,
// the write side of a CT log, and the token service of two CI systems.
type Sigstore struct {
	OIDC *OIDC

	dir     string
	run     string // sockets; removed by Stop, or after a crash by the watchdog of keeper
	ownOIDC bool
	pki     *sigstorePKI

	keeper                  *process
	fulcio, rekor, tsa      *process
	fulcioPath              string // of the programs
	rekorPath, tsaPath      string
	fulcioPorts, rekorPorts [3]int // HTTP, gRPC, metrics
	ctLog, timestamps       *loopback
}

// StartSigstore starts a Sigstore that keeps its files in dir; an empty dir means a temporary folder that goes with it.
// The first call on a machine builds the servers, which takes minutes and needs the Go module proxy; the results stay in
// the cache. It needs network namespaces, because the timestamp authority insists on port 2112 of all interfaces for its
// metrics: it gets a network of its own, which nobody reaches.
func StartSigstore(ctx context.Context, dir string) (*Sigstore, error) {
	return StartSigstoreWith(ctx, SigstoreConfig{Dir: dir})
}

// StartSigstoreWith is StartSigstore with choices.
func StartSigstoreWith(ctx context.Context, cfg SigstoreConfig) (*Sigstore, error) {
	s := &Sigstore{OIDC: cfg.OIDC, dir: cfg.Dir}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	var err error
	for range 3 {
		if err = s.choosePorts(ctx); err != nil {
			break
		}
		if err = s.launch(ctx); err == nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
		// A free port may be taken before its server binds it.
	}
	if err == nil {
		err = s.writeTrust()
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// prepare builds the programs, makes folders and keys, and starts what runs in this process.
func (s *Sigstore) prepare(ctx context.Context) error {
	for _, tool := range []struct {
		goTool
		path *string
	}{{fulcio(), &s.fulcioPath}, {rekor(), &s.rekorPath}, {timestampServer(), &s.tsaPath}} {
		var err error
		if *tool.path, err = tool.build(ctx); err != nil {
			return err
		}
	}
	var err error
	if s.run, err = os.MkdirTemp("", "csg"); err != nil {
		return fmt.Errorf("cannot make folder for the Sigstore: %w", err)
	}
	if s.dir == "" {
		s.dir = filepath.Join(s.run, "sigstore")
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return fmt.Errorf("cannot use folder for the Sigstore: %w", err)
	}
	if err := os.MkdirAll(s.path("rekor"), 0o700); err != nil {
		return fmt.Errorf("cannot make folder for the Sigstore: %w", err)
	}
	// The servers outlast each other's ends, so the folder has a process of its own that it goes with.
	if s.keeper, err = startProcess(processConfig{Argv: []string{"sleep", "infinity"}, Log: os.DevNull, Stop: "TERM", Clean: s.run}); err != nil {
		return err
	}
	if s.OIDC == nil {
		if s.OIDC, err = StartOIDC(); err != nil {
			return err
		}
		s.ownOIDC = true
	}
	if s.pki, err = makeSigstorePKI(s.dir); err != nil {
		return err
	}
	front, err := newCTFront(s.pki.ctKey)
	if err != nil {
		return err
	}
	if s.ctLog, err = listenLoopback(front.handler()); err != nil {
		return err
	}
	if s.timestamps, err = listenLoopback(socketProxy(s.socket("tsa"))); err != nil {
		return err
	}
	return writeFile(s.path("fulcio.yaml"), fulcioConfig(s.OIDC), 0o644)
}

func (s *Sigstore) path(name string) string   { return filepath.Join(s.dir, name) }
func (s *Sigstore) socket(name string) string { return filepath.Join(s.run, name) }

// socketProxy passes requests on to a server behind a Unix socket.
func socketProxy(socket string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "timestamps" },
		ErrorLog: log.New(io.Discard, "", 0), // the caller sees 502
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
	}
}

func (s *Sigstore) choosePorts(ctx context.Context) error {
	for _, ports := range []*[3]int{&s.fulcioPorts, &s.rekorPorts} {
		for i := range ports {
			var err error
			if ports[i], err = FreePort(ctx, "127.0.0.1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// launch starts the three servers and waits until each of them answers.
func (s *Sigstore) launch(ctx context.Context) error {
	err := errors.Join(s.launchFulcio(), s.launchRekor(), s.launchTimestamps())
	if err == nil {
		err = errors.Join(
			s.fulcio.waitReady(ctx, "Fulcio", answers(s.FulcioURL()+"/api/v2/configuration", "application/json")),
			s.rekor.waitReady(ctx, "Rekor", answers(s.RekorURL()+"/healthz", "application/json")),
			s.tsa.waitReady(ctx, "the timestamp authority", answers(s.timestamps.url()+"/api/v1/timestamp/certchain", "application/pem-certificate-chain")),
		)
	}
	if err != nil {
		s.stopProcesses()
	}
	return err
}

func (s *Sigstore) launchFulcio() (err error) {
	if err := os.RemoveAll(s.socket("fulcio")); err != nil {
		return fmt.Errorf("cannot remove the socket of Fulcio: %w", err)
	}
	http, grpc, metrics := strconv.Itoa(s.fulcioPorts[0]), strconv.Itoa(s.fulcioPorts[1]), strconv.Itoa(s.fulcioPorts[2])
	s.fulcio, err = startProcess(processConfig{
		Argv: []string{s.fulcioPath, "serve", "--host", "127.0.0.1", "--port", http, "--grpc-host", "127.0.0.1", "--grpc-port", grpc,
			"--metrics-port", metrics, "--legacy-unix-domain-socket", s.socket("fulcio"), "--config-path", s.path("fulcio.yaml"),
			"--ca", "fileca", "--fileca-cert", s.path("fulcio-chain.pem"), "--fileca-key", s.path("fulcio-key.pem"), "--fileca-key-passwd", "", "--fileca-watch=false",
			"--ct-log-url", s.ctLog.url() + ctPrefix, "--ct-log-public-key-path", s.path("ct-pub.pem")},
		Env: []string{"HOME=" + s.run}, Log: s.path("fulcio.log"), Stop: "KILL",
	})
	return err
}

func (s *Sigstore) launchRekor() (err error) {
	http, grpc, metrics := strconv.Itoa(s.rekorPorts[0]), strconv.Itoa(s.rekorPorts[1]), strconv.Itoa(s.rekorPorts[2])
	s.rekor, err = startProcess(processConfig{
		Argv: []string{s.rekorPath, "serve", "--hostname", rekorOrigin, "--storage-dir", s.path("rekor"), "--signer-filepath", s.path("rekor-key.pem"),
			"--http-address", "127.0.0.1", "--http-port", http, "--grpc-address", "127.0.0.1", "--grpc-port", grpc, "--http-metrics-port", metrics,
			// An entry is answered once a checkpoint covers it, so these bound the time that signing takes.
			"--checkpoint-interval", "200ms", "--batch-max-age", "50ms"},
		Env: []string{"HOME=" + s.run}, Log: s.path("rekor.log"), Stop: "KILL",
	})
	return err
}

func (s *Sigstore) launchTimestamps() (err error) {
	unshare := []string{"unshare", "--net"}
	if os.Geteuid() != 0 {
		unshare = []string{"unshare", "--map-root-user", "--net"}
	}
	if err := os.RemoveAll(s.socket("tsa")); err != nil {
		return fmt.Errorf("cannot remove the socket of the timestamp authority: %w", err)
	}
	s.tsa, err = startProcess(processConfig{
		Argv: append(unshare, s.tsaPath, "serve", "--scheme", "unix", "--socket-path", s.socket("tsa"), "--timestamp-signer", "file",
			"--file-signer-key-path", s.path("tsa-key.pem"), "--file-signer-passwd", "", "--certificate-chain-path", s.path("tsa-chain.pem"),
			"--disable-ntp-monitoring"),
		Env: []string{"HOME=" + s.run}, Log: s.path("tsa.log"), Stop: "KILL",
	})
	return err
}

// answers asks for a URL. An answer of another kind is that of a stranger who has taken the port: pages of metrics say yes to
// every path.
func answers(url, kind string) func() error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func() error {
		r, err := client.Get(url)
		if err != nil {
			return err
		}
		if got := r.Header.Get("Content-Type"); r.StatusCode >= http.StatusBadRequest || !strings.HasPrefix(got, kind) {
			err = fmt.Errorf("%s: %s, %s", url, r.Status, got)
		}
		return errors.Join(err, r.Body.Close())
	}
}

// FulcioURL is the certificate authority.
func (s *Sigstore) FulcioURL() string { return fmt.Sprintf("http://127.0.0.1:%d", s.fulcioPorts[0]) }

// RekorURL is the write side of the log.
func (s *Sigstore) RekorURL() string { return fmt.Sprintf("http://127.0.0.1:%d", s.rekorPorts[0]) }

// TimestampURL is where the authority answers RFC 3161 requests.
func (s *Sigstore) TimestampURL() string { return s.timestamps.url() + "/api/v1/timestamp" }

// RekorDir is the log's folder: checkpoint and tiles, as a monitor reads them.
func (s *Sigstore) RekorDir() string { return s.path("rekor") }

// SigningConfig is the path of the signing config that names the services.
func (s *Sigstore) SigningConfig() string { return s.path("signing_config.json") }

// TrustedRoot is the path of the trusted root that verifies what the services signed.
func (s *Sigstore) TrustedRoot() string { return s.path("trusted_root.json") }

// PIDs are the processes of Fulcio, Rekor and the timestamp authority.
func (s *Sigstore) PIDs() []int { return []int{s.fulcio.pid, s.rekor.pid, s.tsa.pid} }

// StopServices ends Fulcio, Rekor, the timestamp authority and the CT log at once. The token service goes on: it
// belongs to the CI system. Do this to a Sigstore of your own, not to the one that tests share.
func (s *Sigstore) StopServices() {
	s.stopProcesses()
	s.ctLog.stop()
	s.timestamps.stop()
}

// Restart brings the services back, with the same keys, log and addresses.
func (s *Sigstore) Restart(ctx context.Context) error {
	if err := errors.Join(s.ctLog.start(ctx), s.timestamps.start(ctx)); err != nil {
		return err
	}
	return s.launch(ctx)
}

// Stop ends everything. It may be called twice.
func (s *Sigstore) Stop() error {
	s.stopProcesses()
	for _, l := range []*loopback{s.ctLog, s.timestamps} {
		if l != nil {
			l.stop()
		}
	}
	if s.ownOIDC {
		s.OIDC.Stop()
	}
	if s.keeper != nil {
		s.keeper.stop()
	}
	if s.run == "" {
		return nil
	}
	return os.RemoveAll(s.run)
}

func (s *Sigstore) stopProcesses() {
	for _, p := range []*process{s.fulcio, s.rekor, s.tsa} {
		if p != nil {
			p.stop()
		}
	}
}
