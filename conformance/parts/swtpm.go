package parts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/google/go-tpm/legacy/tpm2"
	"github.com/google/go-tpm/tpmutil"
)

// TPMConfig says where a software TPM keeps its state and how it is reached.
type TPMConfig struct {
	Dir  string // state; made and provisioned when it holds none. At most one running TPM per Dir
	CA   string // Optional: folder of the CA that issues the EK certificates; default: one per user, in the cache
	Name string // Optional: subject of the EK certificates; default: name of Dir

	// Stock, counted from 1, takes a new TPM's state from a stock of manufactured ones in the cache instead of
	// manufacturing one, which costs 0.6 s of CPU. It excludes CA and Name. Two running TPMs of one number are clones
	// of each other: a program that starts many gives each its own number.
	Stock int

	// TCPAddr makes the TPM listen for raw commands on "host:port" (port 0: a free one) instead of a unix socket.
	TCPAddr string
}

// TPM is a running swtpm, started up as firmware does.
type TPM struct {
	dir, ca string
	network string // unix or tcp
	addr    string
	control string

	mu      sync.Mutex // guards proc; one power transition at a time
	proc    *process
	stopped bool
}

// stateFile is what swtpm keeps a TPM in.
const stateFile = "tpm2-00.permall"

// StartTPM provisions the TPM in cfg.Dir if that is its first start, then starts it.
func StartTPM(ctx context.Context, cfg TPMConfig) (*TPM, error) {
	if err := Require(ctx, os.Stderr, "swtpm", "swtpm-tools"); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, fmt.Errorf("cannot start TPM in folder %q: %w", cfg.Dir, errors.Join(err, errNoFolder(cfg.Dir)))
	}
	if cfg.Stock < 0 || cfg.Stock > 0 && (cfg.CA != "" || cfg.Name != "") {
		return nil, fmt.Errorf("cannot take TPM %d of the stock with CA %q and name %q: the stock has its own", cfg.Stock, cfg.CA, cfg.Name)
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(dir)
	}
	ca, err := tpmCA(ctx, cfg.CA)
	if err != nil {
		return nil, err
	}
	if cfg.Stock > 0 {
		err = takeFromStock(ctx, dir, ca, cfg.Stock)
	} else {
		err = provision(ctx, dir, ca, cfg.Name)
	}
	if err != nil {
		return nil, err
	}
	return launch(ctx, dir, ca, cfg.TCPAddr)
}

func errNoFolder(dir string) error {
	if dir == "" {
		return errors.New("no folder named")
	}
	return nil
}

// launch starts swtpm over provisioned state. A TCP port that was taken meanwhile is chosen again.
func launch(ctx context.Context, dir, ca, tcpAddr string) (*TPM, error) {
	var err error
	for range 3 {
		var t *TPM
		if t, err = launchOnce(ctx, dir, ca, tcpAddr); err == nil {
			return t, nil
		}
		if tcpAddr == "" || ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func launchOnce(ctx context.Context, dir, ca, tcpAddr string) (*TPM, error) {
	swtpm, err := command("swtpm")
	if err != nil {
		return nil, err
	}
	// A unix socket path holds 107 bytes, and test folders are longer than that.
	sockets, err := os.MkdirTemp("", "ct")
	if err != nil {
		return nil, fmt.Errorf("cannot make socket folder: %w", err)
	}
	t := &TPM{dir: dir, ca: ca, network: "unix", addr: filepath.Join(sockets, "s"), control: filepath.Join(sockets, "c")}
	server := "type=unixio,path=" + t.addr
	if tcpAddr != "" {
		t.network = "tcp"
		if t.addr, err = freeAddr(ctx, tcpAddr); err != nil {
			os.RemoveAll(sockets)
			return nil, err
		}
		host, port, _ := net.SplitHostPort(t.addr)
		server = "type=tcp,port=" + port + ",bindaddr=" + host
	}
	t.proc, err = startProcess(processConfig{
		Argv: []string{swtpm, "socket", "--tpm2", "--tpmstate", "dir=" + filepath.Join(dir, "state"),
			"--server", server, "--ctrl", "type=unixio,path=" + t.control, "--flags", "startup-clear"},
		Log: filepath.Join(dir, "swtpm.log"), Stop: "TERM", Clean: sockets,
	})
	if err != nil {
		os.RemoveAll(sockets)
		return nil, err
	}
	if err := t.proc.waitReady(ctx, "swtpm", t.answers); err != nil {
		t.proc.kill()
		return nil, err
	}
	return t, nil
}

// answers reports whether the TPM takes commands.
func (t *TPM) answers() error {
	rw, err := t.Open()
	if err != nil {
		return err
	}
	defer rw.Close()
	_, _, err = tpm2.ReadClock(rw)
	return err
}

// freeAddr replaces port 0 by a port that nobody listens on at this moment.
func freeAddr(ctx context.Context, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("cannot use TPM address %q: %w", addr, err)
	}
	if port != "0" {
		return addr, nil
	}
	n, err := FreePort(ctx, host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// Socket is the path of the TPM's unix socket, which tpmutil.OpenTPM opens; empty when it listens on TCP.
func (t *TPM) Socket() string {
	if t.network != "unix" {
		return ""
	}
	return t.addr
}

// Addr is what the agent's --tpm flag takes: the socket's path, or host:port for a TPM on TCP.
func (t *TPM) Addr() string { return t.addr }

// Control is the path of the control socket, for swtpm_ioctl and for the swtpm TCTI of tpm2-tools.
func (t *TPM) Control() string { return t.control }

// PID is the process id of swtpm.
func (t *TPM) PID() int { return t.proc.pid }

// Open returns a channel that carries one command at a time, each over a connection of its own, so that it keeps
// nobody else out. It does not fail while the TPM is down; the commands do.
func (t *TPM) Open() (io.ReadWriteCloser, error) {
	return &channel{network: t.network, addr: t.addr}, nil
}

// Reset is a reboot as an operating system makes it: TPM2_Shutdown, power cycle of the TPM, TPM2_Startup(CLEAR).
// Afterwards the PCRs are at their start values and resetCount has grown by one.
func (t *TPM) Reset(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.shutdown(); err != nil {
		return err
	}
	return t.powerCycle(ctx)
}

// PowerCut is a reboot without TPM2_Shutdown: the TPM reports its clock as unsafe, and where objects under
// dictionary-attack protection were in use, it counts a failed try.
func (t *TPM) PowerCut(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.powerCycle(ctx)
}

func (t *TPM) shutdown() error {
	rw, err := t.Open()
	if err != nil {
		return err
	}
	defer rw.Close()
	if err := tpm2.Shutdown(rw, tpm2.StartupClear); err != nil {
		return fmt.Errorf("cannot shut down the TPM: %w", err)
	}
	return nil
}

func (t *TPM) powerCycle(ctx context.Context) error {
	if _, err := run(ctx, "swtpm_ioctl", "--unix", t.control, "-i"); err != nil {
		return err
	}
	rw, err := t.Open()
	if err != nil {
		return err
	}
	defer rw.Close()
	if err := tpm2.Startup(rw, tpm2.StartupClear); err != nil {
		return fmt.Errorf("cannot start up the TPM: %w", err)
	}
	return nil
}

// Stop shuts the TPM down in order, so that its dictionary-attack counter stays where it is, and ends swtpm. The state
// stays in its folder. Stopping twice is no error.
func (t *TPM) Stop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil
	}
	t.stopped = true
	err := t.shutdown()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if _, ioctlErr := run(ctx, "swtpm_ioctl", "--unix", t.control, "-s"); ioctlErr != nil {
		err = errors.Join(err, ioctlErr)
	}
	t.proc.stop()
	return err
}

// Kill ends swtpm as a power failure would.
func (t *TPM) Kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	t.stopped = true
	t.proc.kill()
}

// CloneState copies the TPM's persistent state into dir, where StartTPM finds a TPM with the same keys, counters and
// certificates: what an attacker has who could copy a software TPM.
func (t *TPM) CloneState(dir string) error {
	return copyState(t.dir, dir)
}

// CARoots returns the root certificates and the intermediates, both PEM, that the TPM's EK certificates chain to.
func (t *TPM) CARoots() (roots, intermediates []byte, err error) { return CARoots(t.ca) }

// Extend extends a PCR of the SHA-256 bank.
func (t *TPM) Extend(pcr int, d digest.SHA256) error {
	rw, err := t.Open()
	if err != nil {
		return err
	}
	defer rw.Close()
	if err := tpm2.PCRExtend(rw, tpmutil.Handle(pcr), tpm2.AlgSHA256, d[:], ""); err != nil {
		return fmt.Errorf("cannot extend PCR %d: %w", pcr, err)
	}
	return nil
}

// PCRs reads PCR 0 to 15, those that only a restart of the machine takes back, of the SHA-256 bank.
func (t *TPM) PCRs() (map[int]digest.SHA256, error) {
	rw, err := t.Open()
	if err != nil {
		return nil, err
	}
	defer rw.Close()
	values := map[int]digest.SHA256{}
	for pcr := range 16 {
		b, err := tpm2.ReadPCR(rw, pcr, tpm2.AlgSHA256)
		if err != nil {
			return nil, fmt.Errorf("cannot read PCR %d: %w", pcr, err)
		}
		if values[pcr], err = digest.FromBytes(b); err != nil {
			return nil, fmt.Errorf("cannot read PCR %d: %w", pcr, err)
		}
	}
	return values, nil
}
