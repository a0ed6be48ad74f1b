package parts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to end by itself before it is killed.
const stopTimeout = 10 * time.Second

// watchdog runs "$@" and ends it with $SIG when the pipe on its standard input closes, which happens at the latest
// when the process that started it dies, however it dies. It then removes $CLEAN. The first line it prints is the pid.
const watchdog = `exec 3<&0 </dev/null
"$@" 3<&- >>"$LOG" 2>&1 &
p=$!
( exec >/dev/null 2>&1; read -r _ <&3; kill -"$SIG" $p ) &
w=$!
exec 3<&-
echo $p
exec >/dev/null 2>&1
wait $p
rc=$?
kill $w
[ -z "$CLEAN" ] || rm -rf "$CLEAN"
exit $rc
`

// process is a child that does not outlive this process.
type process struct {
	pid   int      // of the component itself, not of its watchdog
	leash *os.File // closing it asks the component to end
	ended chan struct{}
	err   error // valid once ended is closed
	log   string
}

// processConfig says how a component runs.
type processConfig struct {
	Argv  []string
	Env   []string // beside PATH and the locale
	Log   string   // absolute; the component appends to it
	Stop  string   // signal name that asks for a clean end: TERM, INT
	Clean string   // Optional: folder removed after the end
	User  *syscall.Credential
}

func startProcess(cfg processConfig) (*process, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make pipe: %w", err)
	}
	defer read.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", watchdog, "watchdog"}, cfg.Argv...)...)
	cmd.Stdin = read
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "LOG=" + cfg.Log, "SIG=" + cfg.Stop, "CLEAN=" + cfg.Clean}, cfg.Env...)
	cmd.Dir = "/"
	// Its own session: an interrupt typed at the terminal reaches this process, and through the leash the component.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cfg.User}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("cannot start %s: %w", cfg.Argv[0], err)
	}
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, fmt.Errorf("cannot start %s: %w", cfg.Argv[0], err)
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("cannot start %s: %w", cfg.Argv[0], errors.Join(readErr, err, cmd.Wait()))
	}
	p := &process{pid: pid, leash: write, ended: make(chan struct{}), log: cfg.Log}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// waitReady polls ready until it returns nil. The error of a component that ended meanwhile holds the end of its log.
func (p *process) waitReady(ctx context.Context, what string, ready func() error) error {
	var last error
	err := poll(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("it ended: %v", p.err)
		default:
		}
		last = ready()
		return last == nil, nil
	})
	if err == nil {
		return nil
	}
	log, _ := os.ReadFile(p.log)
	return fmt.Errorf("cannot start %s: %w (last: %v)\n%s", what, err, last, tail(log))
}

// stop lets go of the leash and waits for the end; what does not end in time is killed.
func (p *process) stop() {
	p.leash.Close()
	if p.wait(stopTimeout) {
		return
	}
	p.kill()
}

// kill ends the component without giving it a chance to tidy up.
func (p *process) kill() {
	select {
	case <-p.ended: // its pid may belong to somebody else by now
	default:
		// The watchdog runs as the same user and has not reaped it, so the pid is still ours.
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	p.wait(stopTimeout)
	p.leash.Close()
}

func (p *process) wait(most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		return false
	}
}
