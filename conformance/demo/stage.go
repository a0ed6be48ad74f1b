package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Chapters is how many steps the story has.
var Chapters = len(chapters)

// Recovery is the version that devices leave the factory with.
const Recovery = recovery

// StageConfig says how a stage for a test differs from that of the story.
type StageConfig struct {
	Bin      string // folder of the programs, from Build or BuildTagged
	Times    string // [times] of the configuration; empty: those of the story
	Postgres string // folder of a PostgreSQL cluster; empty: SQLite
	S3       bool   // a bucket of a real S3 server instead of a directory
	Config   string // TOML tables that are added to the end of the configuration

	Names  []string                     // of the server; empty: those of this host
	Listen func() (net.Listener, error) // where devices connect to; nil: a free port of this host
	Enter  func(device string) []string // command line before that of a device's agent, for example nsenter; nil: none
}

// Stage is the story's stage for tests: a server after the ceremony, with 0.9 and 1.0 published.
type Stage struct {
	t testing.TB
	w *world
}

// NewStage plays the beginning of the story; everything ends with the test.
func NewStage(t testing.TB, c StageConfig) *Stage {
	t.Helper()
	var out bytes.Buffer
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is: agents run no hooks behind a folder that others may write
		t.Fatal(err)
	}
	opt := Options{Dir: filepath.Join(dir, "work"), Bin: c.Bin, Postgres: c.Postgres != "", postgresDir: c.Postgres, Out: &out, Log: t.Output(), times: c.Times, config: c.Config, S3: c.S3, names: c.Names, listen: c.Listen, enter: c.Enter}
	w, err := setStage(t.Context(), opt)
	if err != nil {
		t.Fatalf("setStage: %v", err)
	}
	t.Cleanup(w.close)
	for _, c := range chapters[:3] {
		if err := w.tell(t.Context(), c); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
	}
	return &Stage{t: t, w: w}
}

// Device is a machine that has booted its factory image.
type Device struct {
	t testing.TB
	d *device
}

// Step is what one run of the agent came to.
type Step = step

// NewDevice makes a machine and boots it; with claim, an operator lists it in the inventory.
func (s *Stage) NewDevice(name string, claim bool) *Device {
	s.t.Helper()
	return s.NewDeviceOn(name, System{}, claim)
}

// NewDeviceOn is NewDevice with another system than the machine's own slots.
func (s *Stage) NewDeviceOn(name string, on System, claim bool) *Device {
	s.t.Helper()
	d, err := newDeviceOn(s.t.Context(), s.w, name, on)
	if err != nil {
		s.t.Fatalf("newDevice: %v", err)
	}
	s.t.Cleanup(func() {
		if err := d.machine.Close(); err != nil {
			s.t.Errorf("machine %s: %v", name, err)
		}
	})
	if claim {
		s.Ctl("bob", "inventory", "set", d.id, "--product", product, "--hardware-id", d.system.Hardware, "--profile", profile)
	}
	if _, err := d.boot(s.t.Context()); err != nil {
		s.t.Fatalf("boot: %v", err)
	}
	return &Device{t: s.t, d: d}
}

// Updated is NewDevice that has proven 1.0.
func (s *Stage) Updated(name string) *Device {
	s.t.Helper()
	d := s.NewDevice(name, true)
	if err := d.d.update(s.t.Context(), product+"/1.0"); err != nil {
		s.t.Fatalf("update: %v", err)
	}
	return d
}

// Ctl runs cordonctl as a person and returns its output.
func (s *Stage) Ctl(person string, args ...string) string {
	s.t.Helper()
	out, err := s.w.must(s.t.Context(), "cordonctl", s.w.by(person, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// Run runs a program of ours and returns exit code, stdout and stderr.
func (s *Stage) Run(program string, args ...string) (int, string, string) {
	s.t.Helper()
	r, err := s.w.run(s.t.Context(), program, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.code, r.stdout, r.stderr
}

// By adds the flags of a person to a command line of cordonctl.
func (s *Stage) By(person string, args ...string) []string { return s.w.by(person, args...) }

// Path is a file of the stage.
func (s *Stage) Path(elements ...string) string { return s.w.path(elements...) }

// AdminURL is the admin listener.
func (s *Stage) AdminURL() string { return s.w.adminURL() }

// Client is an HTTP client that trusts the server's CA.
func (s *Stage) Client() *http.Client {
	s.t.Helper()
	pool, err := s.w.serverCA()
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Publish publishes a version.
func (s *Stage) Publish(version string) {
	s.t.Helper()
	if err := s.w.published(s.t.Context(), version); err != nil {
		s.t.Fatal(err)
	}
}

// WaitFor tries until check is content.
func (s *Stage) WaitFor(what string, check func() error) {
	s.t.Helper()
	if err := s.w.waitFor(s.t.Context(), what, check); err != nil {
		s.t.Fatal(err)
	}
}

// LoseAnswer cuts the line when the server answers a device that has sent that many bytes.
func (s *Stage) LoseAnswer(ctx context.Context, after int64) <-chan struct{} {
	return s.w.relay.loseAnswer(ctx, after)
}

// Repair gives the network back.
func (s *Stage) Repair() { s.w.relay.give() }

// StopServer and StartServer restart cordond on the same data.
func (s *Stage) StopServer() { s.w.stopServer() }

// StartServer is the other half of StopServer.
func (s *Stage) StartServer() {
	s.t.Helper()
	if err := s.w.startServer(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// Postgres is the database server, nil with SQLite.
func (s *Stage) Postgres() *parts.Postgres { return s.w.postgres }

// RestartPostgres starts the database server again over the same cluster.
func (s *Stage) RestartPostgres() {
	s.t.Helper()
	p, err := parts.StartPostgres(s.t.Context(), s.w.postgres.Dir())
	if err != nil {
		s.t.Fatal(err)
	}
	u, err := url.Parse(p.TCPDSN("any"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.w.postgres = p
	s.w.databaseRelay.connectTo(u.Host)
}

// Report checks the invariants from outside: an auditor's report verifies, from the trust bundle on.
func (s *Stage) Report() {
	s.t.Helper()
	name := s.w.path(digest.Of([]byte(s.t.Name())).String()[:8] + "-report.json")
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	s.Ctl("dave", "report", "--from", "2020-01-01", "--out", name)
	if _, err := s.w.must(s.t.Context(), "cordonctl", "verify", name, "--trust", s.w.trustFile(), "--ek-roots", s.w.path("ek-roots.pem")); err != nil {
		s.t.Error(err)
	}
}

// Probe sends one request with a key that nobody knows.
func (s *Stage) Probe(method, path string, body []byte) (int, wire.Problem) {
	s.t.Helper()
	p, err := s.w.strangerProbe(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.close()
	a, err := p.send(s.t.Context(), method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return a.status, a.problem()
}

// ImageFile is the image of a version, a UKI.
func (s *Stage) ImageFile(version string) string { return s.w.images[version] }

// Image is the digest of a version's image.
func (s *Stage) Image(version string) digest.SHA256 {
	s.t.Helper()
	d, err := fileDigest(s.w.images[version])
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// Agent runs the agent once.
func (d *Device) Agent() Step {
	d.t.Helper()
	s, err := d.d.agent(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// TryAgent runs the agent once and returns its exit code and its errors.
func (d *Device) TryAgent() (int, string) {
	d.t.Helper()
	r, err := d.d.w.run(d.t.Context(), "cordon-agent", append(d.d.agentArgs(), "--once")...)
	if err != nil {
		d.t.Fatal(err)
	}
	return r.code, r.stderr
}

// Boot restarts the machine.
func (d *Device) Boot() {
	d.t.Helper()
	if _, err := d.d.boot(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// FallsBack restarts the machine, which tries what was staged in vain.
func (d *Device) FallsBack() {
	d.t.Helper()
	report, err := d.d.system.Restart(d.t.Context(), d.d.machine)
	if err != nil || report.Tried == nil {
		d.t.Fatalf("the machine should have fallen back from a trial: %+v, %v", report, err)
	}
}

// Seen is what the server says.
func (d *Device) Seen() api.Device {
	d.t.Helper()
	v, err := d.d.seen(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

// StateDir is the agent's state directory.
func (d *Device) StateDir() string { return d.d.stateDir() }

// ID is the device id.
func (d *Device) ID() string { return d.d.id }

// Fetch asks the artifact door with the device's own key.
func (d *Device) Fetch(image digest.SHA256) (int, wire.Problem) {
	d.t.Helper()
	status, problem, err := d.d.fetch(d.t.Context(), image)
	if err != nil {
		d.t.Fatal(err)
	}
	return status, problem
}

// Send sends one request with the device's own key.
func (d *Device) Send(method, path string, body []byte) (int, wire.Problem) {
	d.t.Helper()
	a := d.send(method, path, body)
	return a.status, a.problem()
}

// Ask is Send with the whole answer.
func (d *Device) Ask(method, path string, body []byte) (int, []byte) {
	d.t.Helper()
	a := d.send(method, path, body)
	return a.status, a.body
}

func (d *Device) send(method, path string, body []byte) answer {
	d.t.Helper()
	p, err := d.d.probe(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	defer p.close()
	a, err := p.send(d.t.Context(), method, path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// Refused reports whether a step was refused for a reason, by the device or by the server.
func Refused(s Step, r reason.Reason, local bool) bool { return s.refused(r, local) }

// Args are the flags of the agent on this machine.
func (d *Device) Args() []string { return d.d.agentArgs() }

// Log is the end of cordond's log.
func (s *Stage) Log() string { return tail(s.w.server.log) }
