package app_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/app"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

// clock is the real clock, shifted.
type clock struct{ shift atomic.Int64 }

func (c *clock) Now() time.Time       { return time.Now().Add(time.Duration(c.shift.Load())) }
func (c *clock) Pass(d time.Duration) { c.shift.Add(int64(d)) }

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func configured(t *testing.T, dir string) config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cordon.toml")
	text := fmt.Sprintf("data_dir = %q\nnames = [\"localhost\", \"127.0.0.1\"]\n[listen]\ndevices = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n", dir)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type running struct {
	*app.App
	clock *clock
	log   *logged
	stop  func() error // ends Run and Close, and returns what Run returned
}

func start(t *testing.T, c config.Config) *running {
	t.Helper()
	r := &running{clock: &clock{}, log: &logged{}}
	var err error
	r.App, err = app.New(t.Context(), c, app.Options{Version: "1.2.3", Now: r.clock.Now, Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		r.Close()
		r.Close() // twice is once
		return err
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *running) client(t *testing.T, token string) *api.Client {
	t.Helper()
	c, err := api.New(api.Config{URL: "https://" + r.Addr(app.Admin), CASHA256: r.CASHA256(), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get asks without authentication and without looking at the certificate.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// holders makes holders who sign for the online keys that a running server shows.
func holders(t *testing.T, r *running) *repositorytest.World {
	t.Helper()
	status, err := r.client(t, "").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public := map[string]crypto.Signer{}
	for _, k := range status.Keys {
		block, _ := pem.Decode([]byte(k.PublicPEM))
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil || digest.Of(block.Bytes) != k.Fingerprint {
			t.Fatalf("key %s: %v", k.Use, err)
		}
		public[k.Use] = publicKey{key}
	}
	return repositorytest.Holding(t, repository.Keys{
		Snapshot: public[api.KeySnapshot], Timestamp: public[api.KeyTimestamp], Product: public[api.KeyProduct], Director: public[api.KeyDirector],
	}, time.Now())
}

// publicKey is a signer of which only the public half is known.
type publicKey struct{ crypto.PublicKey }

func (p publicKey) Public() crypto.PublicKey { return p.PublicKey }

func (publicKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, io.EOF }

func token(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "admin.token")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("token file: %v, %v", info, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestFirstStartThenCeremonyThenRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	r := start(t, configured(t, dir))
	admin := "https://" + r.Addr(app.Admin)
	if status, body := get(t, admin+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "uninitialised") {
		t.Errorf("readyz: got %d %q", status, body)
	}
	if status, body := get(t, admin+"/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: got %d %q", status, body)
	}
	if !strings.Contains(r.log.String(), "uninitialised") || !strings.Contains(r.log.String(), r.CASHA256().String()) {
		t.Errorf("the log does not say what to do next: %s", r.log)
	}
	once := token(t, dir)
	err := filepath.WalkDir(filepath.Join(dir, "keys"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	alice, err := r.client(t, once).CreatePerson(t.Context(), api.PersonRequest{Name: "alice", Roles: []string{api.RoleAdmin}})
	if err != nil {
		t.Fatal(err)
	}
	w := holders(t, r)
	if got, err := r.client(t, alice.Token).Ceremony(t.Context(), w.First(w.Policy("lamp"))); err != nil || !got.Changed {
		t.Fatalf("ceremony: got %+v, %v", got, err)
	}
	if status, body := get(t, admin+"/readyz"); status != http.StatusOK || !strings.HasPrefix(body, "ready\naudit log: ") {
		t.Errorf("readyz: got %d %q", status, body)
	}
	before, ca := r.status(t), r.CASHA256()
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if status, _ := get(t, admin+"/healthz"); status != 0 {
		t.Error("the listener is open after the stop")
	}
	if log := r.log.String(); strings.Contains(log, once) || strings.Contains(log, alice.Token) {
		t.Error("the log holds a token")
	}

	again := start(t, configured(t, dir))
	if again.CASHA256() != ca || token(t, dir) != once {
		t.Error("the CA or the one-time token is another one after the restart")
	}
	after := again.status(t)
	if !after.Initialised || after.Targets != 1 || after.Keys[0] != before.Keys[0] {
		t.Errorf("status after the restart: got %+v", after)
	}
	if _, err := again.client(t, alice.Token).People(t.Context(), ""); err != nil {
		t.Errorf("a person after the restart: %v", err)
	}
	if status, body := get(t, "https://"+again.Addr(app.Admin)+"/readyz"); status != http.StatusOK {
		t.Errorf("readyz: got %d %q", status, body)
	}
}

func (r *running) status(t *testing.T) api.Status {
	t.Helper()
	s, err := r.client(t, "").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestListenersKeepToTheirOwn(t *testing.T) {
	t.Parallel()
	r := start(t, configured(t, filepath.Join(t.TempDir(), "data")))
	for url, want := range map[string]int{
		"http://" + r.Addr(app.Metrics) + "/metrics":        200,
		"http://" + r.Addr(app.Metrics) + "/api/v1/status":  404,
		"https://" + r.Addr(app.Admin) + "/api/v1/status":   200,
		"https://" + r.Addr(app.Admin) + "/metrics":         404,
		"https://" + r.Addr(app.Admin) + "/device/v1/poll":  404,
		"https://" + r.Addr(app.Devices) + "/api/v1/status": 404,
		"https://" + r.Addr(app.Devices) + "/metrics":       404,
		"https://" + r.Addr(app.Devices) + "/debug/pprof/":  404,
		"http://" + r.Addr(app.Metrics) + "/debug/pprof/":   404,
		"http://" + r.Addr(app.Admin) + "/api/v1/status":    400,
	} {
		if got, body := get(t, url); got != want {
			t.Errorf("%s: got %d %s, want %d", url, got, body, want)
		}
	}
	if _, body := get(t, "http://"+r.Addr(app.Metrics)+"/metrics"); !strings.Contains(body, "cordon_requests_total") || !strings.Contains(body, "cordon_timestamp_age_seconds") {
		t.Errorf("metrics: got %.300s", body)
	}
	for _, name := range []string{app.Devices, app.Admin} {
		conn, err := tls.Dial("tcp", r.Addr(name), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		if err == nil {
			conn.Close()
			t.Errorf("%s speaks TLS 1.2", name)
		}
	}
	// The certificate is for the configured names only, and comes from the CA that a ceremony pins.
	stranger, err := api.New(api.Config{URL: "https://" + r.Addr(app.Admin), CASHA256: digest.Of([]byte("another CA")), Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Status(t.Context()); err == nil {
		t.Error("another CA was believed")
	}
}

func TestKeysThatOthersCanReadAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tuf-director.pem", "server-ca.pem", "challenge.secret"} {
		dir := filepath.Join(t.TempDir(), "data")
		a, err := app.New(t.Context(), configured(t, dir), app.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		path := filepath.Join(dir, "keys", name)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := app.New(t.Context(), configured(t, dir), app.Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%s: got %v", name, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := app.New(t.Context(), configured(t, dir), app.Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s with other content: got %v", name, err)
		}
	}
}

// Processes that start at once on one new directory end with the same keys; with SQLite only one of them may run.
func TestKeysAreMadeOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[digest.SHA256]int{}
	for range 4 {
		wg.Go(func() {
			for {
				a, err := app.New(t.Context(), configured(t, dir), app.Options{Log: slog.New(slog.DiscardHandler)})
				if err != nil && strings.Contains(err.Error(), "another cordond uses the data directory") {
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[a.CASHA256()]++
				mu.Unlock()
				a.Close()
				return
			}
		})
	}
	wg.Wait()
	a, err := app.New(t.Context(), configured(t, dir), app.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if seen[a.CASHA256()] != 4 {
		t.Errorf("got %d different CAs", len(seen))
	}
}

func TestSweeperMovesEveryDueDevice(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := configured(t, dir)
	r := start(t, c)
	if err := r.stop(); err != nil { // the sweeper is called by hand here
		t.Fatal(err)
	}
	k := &clock{}
	a, err := app.New(t.Context(), c, app.Options{Now: k.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	s, err := store.Open(t.Context(), c.Database, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := app.SweepBatch + 40
	var change store.Change
	for i := range n {
		sum := digest.Of([]byte(fmt.Sprint(i)))
		change.Writes = append(change.Writes, store.PutDevice{Device: fleet.Device{
			ID: fmt.Sprintf("device%03d", i), Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Production,
			EKSPKI: sum, TLSKey: sum, EnrolledAt: k.Now(), LeaseUntil: k.Now().Add(time.Hour), Offered: "lamp/2.0", Deadline: k.Now().Add(3 * time.Hour),
		}})
	}
	if err := s.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		pass     time.Duration
		standing fleet.Standing
		segment  fleet.Segment
		offered  string
	}{
		{time.Minute, fleet.Affirmed, fleet.Production, "lamp/2.0"},
		{time.Hour, fleet.Stale, fleet.Production, "lamp/2.0"},
		{3 * time.Hour, fleet.Stale, fleet.Production, ""}, // overdue, within grace
		{24 * time.Hour, fleet.Stale, fleet.Restricted, ""},
	} {
		k.Pass(step.pass)
		if err := a.SweepOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		devices, err := s.ListDevices(t.Context(), store.DeviceFilter{}, "", 1000)
		if err != nil || len(devices) != n {
			t.Fatalf("got %d devices, %v", len(devices), err)
		}
		for _, d := range devices {
			if d.Standing != step.standing || d.Segment != step.segment || d.Offered != step.offered {
				t.Fatalf("after %v: %s is %s in %s with %q, want %s in %s with %q", step.pass, d.ID, d.Standing, d.Segment, d.Offered, step.standing, step.segment, step.offered)
			}
		}
		before, err := s.Feed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SweepOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after, err := s.Feed(t.Context()); err != nil || after != before {
			t.Errorf("a second round wrote %d events, %v", after-before, err)
		}
	}
}

// A handler that crashes is an answer and a log line, not a lost connection.
func TestCrashOfAHandlerIsLoggedAndAnswered(t *testing.T) {
	t.Parallel()
	r := start(t, configured(t, filepath.Join(t.TempDir(), "data")))
	handler := r.Router(func(e *echo.Echo) {
		e.GET("/crash", func(echo.Context) error { panic("secret of the inside") })
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	defer server.Close()
	go server.Serve(listener)
	status, body := get(t, "http://"+listener.Addr().String()+"/crash")
	if status != http.StatusInternalServerError || !strings.Contains(body, "request_id") || strings.Contains(body, "secret of the inside") {
		t.Errorf("got %d %s", status, body)
	}
	if !strings.Contains(r.log.String(), "secret of the inside") {
		t.Error("the log does not have the crash")
	}
}
