package parts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgresGlob finds the server program of any packaged PostgreSQL.
const postgresGlob = "/usr/lib/postgresql/*/bin/initdb"

const postgresUser = "cordon" // the database's superuser, not a Unix user

// Postgres is a running PostgreSQL server with a cluster of its own, fsync on.
type Postgres struct {
	dir      string
	sockets  string
	port     int
	password string
	proc     *process
	temp     string // removed by Stop; empty when the caller named the folder
}

// StartPostgres starts a server over the cluster in dir, which it makes first if there is none. Run as root, the server
// runs as user postgres, because PostgreSQL refuses root; dir then becomes that user's. An empty dir means a temporary
// folder that goes with the server.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	if err := Require(ctx, os.Stderr, "postgresql-15"); err != nil {
		return nil, err
	}
	cred, err := postgresCredential()
	if err != nil {
		return nil, err
	}
	for range 3 {
		p := &Postgres{}
		if err = p.start(ctx, dir, cred); err == nil {
			return p, nil
		}
		p.removeFolders()
		// The free port may be taken before the server binds it.
		if !strings.Contains(err.Error(), "could not bind") {
			break
		}
	}
	return nil, err
}

func (p *Postgres) start(ctx context.Context, dir string, cred *syscall.Credential) error {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	if dir == "" {
		if p.temp, err = os.MkdirTemp("", "cpg"); err != nil {
			return fmt.Errorf("cannot make folder for PostgreSQL: %w", err)
		}
		dir = p.temp
	}
	dir, err = prepareDir(dir, cred)
	if err != nil {
		return err
	}
	p.dir = dir
	if p.password, err = makeCluster(ctx, bin, dir, cred); err != nil {
		return err
	}
	// An empty p.temp stands for the system's temporary folder: the socket's path must stay short.
	if p.sockets, err = os.MkdirTemp(p.temp, "cpgs"); err != nil {
		return fmt.Errorf("cannot make socket folder: %w", err)
	}
	if err := giveTo(p.sockets, cred); err != nil {
		return err
	}
	return p.launch(ctx, bin, dir, cred)
}

func (p *Postgres) launch(ctx context.Context, bin, dir string, cred *syscall.Credential) error {
	var err error
	if p.port, err = FreePort(ctx, "127.0.0.1"); err != nil {
		return err
	}
	clean := p.sockets
	if p.temp != "" {
		clean = p.temp
	}
	// The process is the postmaster itself: INT is its fast shutdown, the same as pg_ctl -m fast stop.
	p.proc, err = startProcess(processConfig{
		Argv: []string{filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"), "-p", strconv.Itoa(p.port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + p.sockets, "-c", "max_connections=200",
			"-c", "fsync=on", "-c", "log_line_prefix=%m [%p] "},
		Log: filepath.Join(dir, "postgres.log"), Stop: "INT", Clean: clean, User: cred,
	})
	if err != nil {
		return err
	}
	err = p.proc.waitReady(ctx, "PostgreSQL", func() error {
		conn, err := pgx.Connect(ctx, p.DSN("postgres"))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		p.proc.stop()
	}
	return err
}

// PID is the process id of the postmaster.
func (p *Postgres) PID() int { return p.proc.pid }

// Dir is the folder of the cluster, which also holds the server's log.
func (p *Postgres) Dir() string { return p.dir }

// DSN names a database of the server, reached through its unix socket.
func (p *Postgres) DSN(database string) string {
	q := url.Values{"host": {p.sockets}, "port": {strconv.Itoa(p.port)}, "user": {postgresUser}, "sslmode": {"disable"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// TCPDSN names a database of the server, reached through its loopback port with a password.
func (p *Postgres) TCPDSN(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(postgresUser, p.password),
		Host: "127.0.0.1:" + strconv.Itoa(p.port), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// NewDatabase makes an empty database with a name that no other has, and returns its name.
func (p *Postgres) NewDatabase(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return "", fmt.Errorf("cannot reach PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	name := "t" + strings.ToLower(rand.Text())
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("cannot make a database: %w", err)
	}
	return name, nil
}

// Stop is the fast shutdown: open transactions are rolled back, what was committed is on disk. It may be called twice.
func (p *Postgres) Stop() error {
	p.proc.stop()
	p.removeFolders()
	return nil
}

// Kill ends the server and all its workers at once, as a power failure would; its next start recovers from the log.
func (p *Postgres) Kill() {
	workers := children(p.proc.pid) // in sessions of their own, so no signal to a group reaches them
	p.proc.kill()
	for _, pid := range workers {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	_ = poll(ctx, 5*time.Millisecond, func() (bool, error) {
		gone := !slices.ContainsFunc(workers, func(pid int) bool { return syscall.Kill(pid, 0) == nil })
		return gone, nil
	})
	os.RemoveAll(p.sockets)
}

// children lists the child processes of a process (proc(5)).
func children(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(field); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// removeFolders removes what this process made outside the folder that the caller named.
func (p *Postgres) removeFolders() {
	for _, dir := range []string{p.sockets, p.temp} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
}

func postgresBin() (string, error) {
	found, err := filepath.Glob(postgresGlob)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%w: PostgreSQL server programs", ErrMissing)
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// postgresCredential is the user that the server runs as: nil for the current one.
func postgresCredential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("cannot run PostgreSQL as root: %w", err)
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, fmt.Errorf("cannot read user postgres: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func giveTo(dir string, cred *syscall.Credential) error {
	if cred == nil {
		return nil
	}
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		return fmt.Errorf("cannot give folder to user postgres: %w", err)
	}
	return nil
}

// prepareDir makes dir, gives it to the server's user and checks that this user can reach it.
func prepareDir(dir string, cred *syscall.Credential) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot use folder for PostgreSQL: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make folder for PostgreSQL: %w", err)
	}
	if cred == nil {
		return dir, nil
	}
	for parent := filepath.Dir(dir); parent != "/"; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return "", fmt.Errorf("cannot use folder for PostgreSQL: %w", err)
		}
		owner := info.Sys().(*syscall.Stat_t).Uid
		if info.Mode().Perm()&0o001 == 0 && owner != cred.Uid {
			return "", fmt.Errorf("cannot use %s for PostgreSQL: user postgres may not pass through %s", dir, parent)
		}
	}
	return dir, giveTo(dir, cred)
}

// makeCluster makes the cluster in dir/data unless there is one, and returns its superuser's password.
func makeCluster(ctx context.Context, bin, dir string, cred *syscall.Credential) (string, error) {
	pwfile := filepath.Join(dir, "password")
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err == nil {
		b, err := os.ReadFile(pwfile)
		if err != nil {
			return "", fmt.Errorf("cannot read PostgreSQL password: %w", err)
		}
		return string(b), nil
	}
	password := rand.Text()
	if err := writeFile(pwfile, []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("cannot write PostgreSQL password: %w", err)
	}
	if err := giveTo(pwfile, cred); err != nil {
		return "", err
	}
	making := filepath.Join(dir, ".making")
	if err := os.RemoveAll(making); err != nil {
		return "", fmt.Errorf("cannot make PostgreSQL cluster: %w", err)
	}
	// Only the sockets' folder, which nobody else may enter, gives access without a password.
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", making, "--auth-local=trust", "--auth-host=scram-sha-256",
		"--pwfile="+pwfile, "-U", postgresUser, "-E", "UTF8", "--locale=C", "--no-sync")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot make PostgreSQL cluster: %w: %s", err, tail(out))
	}
	if err := os.Rename(making, filepath.Join(dir, "data")); err != nil {
		return "", fmt.Errorf("cannot make PostgreSQL cluster: %w", err)
	}
	return password, nil
}
