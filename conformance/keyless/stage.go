// Package keyless sets the stage on which keyless publishing is proven: the real cordond, cordon-sign, cordon-agent and
// cordonctl as processes, a real Sigstore beside them, and policies that name publishers by certificate identity.
//
// It promises that whatever it starts ends with the test. It refuses to stand in for a component. Nobody trusts it: keys,
// identities and devices are made for one test.
package keyless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// What the stage's device is.
const (
	Product  = "gateway"
	Hardware = "board-a"
	profile  = "softpc-v1"
	Factory  = "0.9" // the release that devices leave the factory with
)

// Config says who may publish what.
type Config struct {
	Bin      string // folder of the programs, as demo.Build makes it
	Sigstore *parts.Sigstore
	// Policies are the publishers of each product, as the TOML of 'cordon-sign product set' has them. Product is needed.
	Policies map[string]string
}

// Stage is a server after its ceremony. Nothing is published yet.
type Stage struct {
	t      testing.TB
	cfg    Config
	dir    string
	images map[string]string // version of Product -> UKI
	pin    digest.SHA256

	devices, admin string // addresses
	cmd            *exec.Cmd
	ended          chan struct{}
	reference      *parts.Machine
}

// New sets the stage; everything ends with the test.
func New(t testing.TB, cfg Config) *Stage {
	t.Helper()
	s := &Stage{t: t, cfg: cfg, dir: t.TempDir(), images: map[string]string{}}
	for _, dir := range []string{"home", "tmp"} {
		s.check(os.MkdirAll(s.Path(dir), 0o700))
	}
	for i, version := range []string{Factory, "1.0", "1.1"} {
		kernels := parts.TestKernels(t)
		s.images[version] = parts.TestUKI(t, parts.UKISpec{Version: version, Kernel: kernels[i%len(kernels)]})
	}
	s.reference = parts.TestMachine(t, parts.MachineConfig{})
	s.check(s.reference.CopyToSlot(parts.SlotA, s.images[Factory]))
	t.Cleanup(s.StopServer)
	s.firstStart()
	s.accounts()
	s.ceremony()
	return s
}

func (s *Stage) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Path is a file of the stage.
func (s *Stage) Path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

// Write writes a file of the stage and returns its path.
func (s *Stage) Write(name, text string) string {
	s.t.Helper()
	s.check(os.WriteFile(s.Path(name), []byte(text), 0o600))
	return s.Path(name)
}

// times are short enough for a test and long enough for a slow machine.
const times = "[times]\ntimestamp = \"20s\"\npoll = \"30s\"\nbeacon_window = \"2m\"\nlease = \"5m\"\ngrace = \"10m\"\nchallenge = \"2m\"\nupdate_deadline = \"1h\"\n"

func (s *Stage) configure() {
	s.t.Helper()
	roots, intermediates, err := s.reference.TPM().CARoots()
	s.check(err)
	s.Write("ek-roots.pem", string(append(roots, intermediates...)))
	var addresses [3]string
	for i := range addresses {
		addresses[i], err = parts.FreeAddress(s.t.Context())
		s.check(err)
	}
	s.devices, s.admin = addresses[0], addresses[1]
	s.Write("cordond.toml", fmt.Sprintf("data_dir = %q\nek_roots_file = %q\n[listen]\ndevices = %q\nadmin = %q\nmetrics = %q\ndevice_url = %q\n%s",
		s.Path("cordon-data"), s.Path("ek-roots.pem"), s.devices, s.admin, addresses[2], "https://"+s.devices, times))
}

// firstStart chooses other ports when somebody was faster.
func (s *Stage) firstStart() {
	s.t.Helper()
	var err error
	for range 5 {
		s.configure()
		if err = s.start(); err == nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
		s.check(os.Remove(s.Path("cordond.log")))
	}
	s.check(err)
}

// StartServer starts cordond again on the same data.
func (s *Stage) StartServer() {
	s.t.Helper()
	s.check(s.start())
}

func (s *Stage) start() error {
	s.t.Helper()
	log, err := os.OpenFile(s.Path("cordond.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(s.cfg.Bin, "cordond"), "--config", s.Path("cordond.toml"))
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr, s.cmd.Env, s.cmd.SysProcAttr = s.dir, log, log, s.env(), childAttr()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}(s.cmd, s.ended)
	return s.waitFor("cordond to answer", func() error {
		conn, err := net.DialTimeout("tcp", s.admin, time.Second)
		if err == nil {
			return conn.Close()
		}
		return err
	})
}

// StopServer ends cordond.
func (s *Stage) StopServer() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(os.Interrupt)
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

// waitFor tries until check is content; a minute is far more than anything here takes.
func (s *Stage) waitFor(what string, check func() error) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w\n%s", what, err, s.Log())
		case <-s.ended:
			return fmt.Errorf("cordond ended:\n%s", s.Log())
		case <-tick.C:
		}
	}
}

// Log is cordond's log.
func (s *Stage) Log() string {
	b, err := os.ReadFile(s.Path("cordond.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Result is what a program printed and how it ended.
type Result struct {
	Code           int
	Stdout, Stderr string
}

func (s *Stage) env() []string {
	return []string{"PATH=" + s.cfg.Bin + string(os.PathListSeparator) + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + s.Path("home"), "TMPDIR=" + s.Path("tmp")}
}

// Run runs a program of ours to its end, with more environment.
func (s *Stage) Run(env []string, program string, args ...string) Result {
	s.t.Helper()
	return s.Exec(env, filepath.Join(s.cfg.Bin, program), args...)
}

// Exec runs any program in the stage's folder, where PATH finds ours.
func (s *Stage) Exec(env []string, program string, args ...string) Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env, cmd.SysProcAttr = s.dir, &stdout, &stderr, append(s.env(), env...), childAttr()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		s.t.Fatalf("%s: %v", program, errors.Join(err, ctx.Err()))
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// Must runs a program that has to end with 0, and returns what it printed.
func (s *Stage) Must(env []string, program string, args ...string) string {
	s.t.Helper()
	r := s.Run(env, program, args...)
	if r.Code != 0 {
		s.t.Fatalf("%s %s ended with %d:\n%s%s", program, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// TokenFile is the file with a person's token: alice (admin), bob (operator), dave (auditor), ci-builder.
func (s *Stage) TokenFile(person string) string { return s.Path(person + ".token") }

// Server are the flags that say which server, and who asks.
func (s *Stage) Server(person string) []string {
	return []string{"--server", s.URL(), "--ca-sha256", s.pin.String(), "--token-file", s.TokenFile(person)}
}

// URL is the admin listener; Pin the SHA-256 of its CA.
func (s *Stage) URL() string { return "https://" + s.admin }

// Pin is the SHA-256 of the server's CA.
func (s *Stage) Pin() string { return s.pin.String() }

// Ctl runs cordonctl as a person.
func (s *Stage) Ctl(person string, args ...string) string {
	s.t.Helper()
	return s.Must(nil, "cordonctl", append(args, s.Server(person)...)...)
}

// API is the admin API as a person.
func (s *Stage) API(person string) *api.Client {
	s.t.Helper()
	token, err := os.ReadFile(s.TokenFile(person))
	s.check(err)
	c, err := api.New(api.Config{URL: s.URL(), CASHA256: s.pin, Token: strings.TrimSpace(string(token))})
	s.check(err)
	return c
}

func (s *Stage) accounts() {
	s.t.Helper()
	s.check(s.waitFor("the CA's SHA-256", func() error {
		_, after, ok := strings.Cut(s.Log(), "ca_sha256=")
		if !ok || len(after) < 64 {
			return errors.New("not printed yet")
		}
		var err error
		s.pin, err = digest.Parse(after[:64])
		return err
	}))
	s.check(os.Symlink(s.Path("cordon-data", "admin.token"), s.TokenFile("bootstrap")))
	for _, p := range [][3]string{
		{"bootstrap", "alice", api.RoleAdmin}, {"bootstrap", "bob", api.RoleOperator}, {"alice", "dave", api.RoleAuditor}, {"alice", "ci-builder", api.RoleCI},
	} {
		s.Ctl(p[0], "person", "add", p[1], "--role", p[2], "--days", "7", "--token-out", s.TokenFile(p[1]))
	}
}

// ceremony signs roots, policies, baseline, the factory image as recovery release, and the Sigstore's trusted root.
func (s *Stage) ceremony() {
	s.t.Helper()
	report, err := s.reference.Boot(s.t.Context())
	s.check(err)
	var pcrs strings.Builder
	for _, index := range []int{0, 2, 3, 7} {
		fmt.Fprintf(&pcrs, "SHA256 PCR%02d %s\n", index, report.PCRs[index])
	}
	s.Write("pcrs.txt", pcrs.String())
	s.Sign("keys new --type holder --out hanna.pem", "keys new --type holder --out henry.pem", "keys new --type publisher --out publisher.pem",
		fmt.Sprintf("root init --server %s --ca-sha256 %s --dir ceremony --holder hanna.pub.pem --holder henry.pub.pem --threshold 2", s.URL(), s.pin))
	for product, publishers := range s.cfg.Policies {
		s.Policy(product, publishers)
	}
	s.Sign("product trusted-root --dir ceremony --file "+s.cfg.Sigstore.TrustedRoot(),
		"product recovery --dir ceremony --product "+Product+" --image "+s.images[Factory],
		"product baseline --dir ceremony --product "+Product+" --profile "+profile+" --pcrs pcrs.txt")
	s.Apply()
	s.Must(nil, "cordonctl", "provision", "--server", s.URL(), "--ca-sha256", s.pin.String(), "--out", s.Path("trust.json"))
}

// Sign runs commands of cordon-sign, each a line of words.
func (s *Stage) Sign(lines ...string) {
	s.t.Helper()
	for _, line := range lines {
		s.Must(nil, "cordon-sign", strings.Fields(line)...)
	}
}

// Policy sets a product's policy, which counts after Apply.
func (s *Stage) Policy(product, publishers string) {
	s.t.Helper()
	file := s.Write(product+".toml", fmt.Sprintf("product = %q\n%s", product, publishers))
	s.Sign("product set --dir ceremony --policy " + file)
}

// Apply lets both holders sign what is pending and hands it to the server.
func (s *Stage) Apply() {
	s.t.Helper()
	s.Sign("root sign --dir ceremony --key hanna.pem", "root sign --dir ceremony --key henry.pem", "root apply --dir ceremony --token-file "+s.TokenFile("alice"))
}

// Publisher is the TOML of a publisher with a certificate identity.
func Publisher(name string, id parts.Identity) string {
	return fmt.Sprintf("[[publisher]]\nname = %q\nissuer = %q\nsubject = %q\nsource_repository = %q\nrefs = [%q]\n", name, id.Issuer, id.Subject, id.SourceRepository, id.Ref)
}

// Image is the UKI of a version of Product.
func (s *Stage) Image(version string) string { return s.images[version] }

// Component is the flag --component for a version of Product.
func (s *Stage) Component(version string) string {
	return "system=" + s.images[version] + ",hw=" + Hardware + ",installer=ab"
}

// Publish runs cordon-sign publish without a key, as the pipeline whose environment env is.
func (s *Stage) Publish(env []string, product, version, component string, more ...string) Result {
	s.t.Helper()
	args := append([]string{"publish", "--product", product, "--version", version, "--component", component}, s.Server("ci-builder")...)
	return s.Run(env, "cordon-sign", append(args, more...)...)
}

// TargetPath is where the bundle of a release of Product lies.
func TargetPath(version string) string { return artifacts.TargetPath(Product, version, "system") }
