package installer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Bounds on the programs of others.
const (
	maxAnswer   = 1 << 20          // bytes of standard output that are read as an answer
	maxSaid     = 400              // bytes of its last words that go into an error
	askTimeout  = time.Minute      // to answer a question
	workTimeout = 2 * time.Hour    // to write an image
	endTimeout  = 10 * time.Second // to end after it was killed
	exitBusy    = 75               // EX_TEMPFAIL of sysexits.h: a trial is running
	exitRefused = 65               // EX_DATAERR: a hook will never take this image
)

// tool is a program of others that does an installer's work. It runs in a process group of its own, which is killed when
// its time is up or the caller gives up, with whatever it has started.
type tool struct {
	path  string
	args  []string // before those of each call
	cause string   // how the line of its output begins that says what went wrong; empty: its last words say it
}

// findTool looks a program up, in PATH if it is no path.
func findTool(name string) (tool, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return tool{}, fmt.Errorf("cannot find %s: %w", name, err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return tool{}, fmt.Errorf("cannot find %s: %w", name, err)
	}
	return tool{path: path}, nil
}

func (t tool) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.path, append(append([]string(nil), t.args...), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endTimeout
	return cmd
}

// ask runs the program to its end and returns what it printed.
func (t tool) ask(ctx context.Context, limit time.Duration, stdin []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := t.command(ctx, args)
	answer, said := &bounded{limit: maxAnswer}, &lastWords{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), io.MultiWriter(answer, said), said
	err := cmd.Run()
	if err != nil {
		return nil, t.failed(ctx, err, limit, args, said)
	}
	if answer.over {
		return nil, fmt.Errorf("%s printed more than %d bytes", t.call(args), maxAnswer)
	}
	return answer.Bytes(), nil
}

// watch runs the program until judge says that it is done, and then kills it: some programs stay when their work is over.
func (t tool) watch(ctx context.Context, limit time.Duration, judge func(line string) (done bool, err error), args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := t.command(ctx, args)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		return fmt.Errorf("cannot start %s: %w", t.call(args), err)
	}
	stop := context.AfterFunc(ctx, func() { r.Close() }) // a child of it may hold the pipe open
	defer stop()
	said := &lastWords{}
	done, verdict := false, error(nil)
	for lines := bufio.NewReaderSize(r, 4096); !done && verdict == nil; {
		line, _, err := lines.ReadLine()
		if err != nil {
			break
		}
		said.line(line)
		done, verdict = judge(string(line))
	}
	if done || verdict != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		slow := time.AfterFunc(endTimeout, cancel)
		defer slow.Stop()
	}
	err = cmd.Wait()
	switch {
	case verdict != nil:
		return fmt.Errorf("%s: %w: %s", t.call(args), verdict, said)
	case done:
		return nil
	case err == nil:
		err = errors.New("it ended without saying that it was done")
	}
	return t.failed(ctx, err, limit, args, said)
}

// failed says what went wrong, with the last words of the program.
func (t tool) failed(ctx context.Context, err error, limit time.Duration, args []string, said *lastWords) error {
	said.only(t.cause)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s took longer than %v and was killed: %w: %s", t.call(args), limit, ctx.Err(), said)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was killed: %w", t.call(args), ctx.Err())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == exitBusy {
		return fmt.Errorf("%s: %w", t.call(args), ErrBusy)
	}
	return fmt.Errorf("%s: %w: %s", t.call(args), err, said)
}

// ended reports whether err says that a program came to its own end: one that was killed, or never started, has said nothing
// about the image.
func ended(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, ErrBusy) {
		return false
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	return errors.Is(err, errSWUpdate) || ok && exit.Exited()
}

// passing are what programs say of trouble that may pass by itself: a disk that is full, a service that is not there, a clock
// that is wrong. Whoever sets a device's clock must not bring it to give up a good image for good.
var passing = []string{"No space left on device", "Not enough free space", "Disk quota exceeded", "Read-only file system", "Cannot allocate memory",
	"D-Bus error", "GDBus.Error", "Error creating proxy", atWork, "not yet valid", "certificate has expired"}

// atWork is what a service says that goes on with an installation of before.
const atWork = "Already processing"

// judge tells an image that is refused for good, in one of the texts of refusals, from an installation that went wrong and from
// trouble that passes.
func judge(err error, refusals []string) error {
	if !ended(err) || errors.Is(err, errUntold) || says(err, passing) {
		return err
	}
	if says(err, refusals) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrFailed, err)
}

func says(err error, texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(err.Error(), text) })
}

func (t tool) call(args []string) string {
	return strings.TrimSpace(filepath.Base(t.path) + " " + strings.Join(args, " "))
}

// bounded keeps the first bytes and drops the rest.
type bounded struct {
	bytes.Buffer
	limit int
	over  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - b.Len()
	if len(p) > room {
		b.over = true
	}
	b.Buffer.Write(p[:min(len(p), room)])
	return len(p), nil
}

// lastWords keeps the end of what a program printed.
type lastWords struct{ b []byte }

func (l *lastWords) Write(p []byte) (int, error) {
	l.b = append(l.b, p[max(0, len(p)-maxSaid):]...)
	l.b = l.b[max(0, len(l.b)-maxSaid):]
	return len(p), nil
}

func (l *lastWords) line(p []byte) { _, _ = l.Write(append(p[:len(p):len(p)], '\n')) }

// only forgets all but the last line that begins with cause. Where there is none, it forgets what GLib logs, with the time of
// each: the same trouble is to be told once, so it has to be one text.
func (l *lastWords) only(cause string) {
	if cause == "" {
		return
	}
	lines := bytes.Split(l.b, []byte("\n"))
	for _, line := range slices.Backward(lines) {
		if bytes.HasPrefix(line, []byte(cause)) {
			l.b = line
			return
		}
	}
	l.b = bytes.Join(slices.DeleteFunc(lines, func(line []byte) bool {
		return bytes.Contains(line, []byte("-Message: ")) || bytes.Contains(line, []byte("-WARNING **: ")) || bytes.Contains(line, []byte("-CRITICAL **: "))
	}), []byte("\n"))
}

// String is what may be printed of it, on one line.
func (l *lastWords) String() string {
	text := strings.Map(func(r rune) rune {
		if r == '\n' {
			return ';'
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(string(l.b), "?")))
	if text == "" {
		return "it said nothing"
	}
	return text
}
