package vectors

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"time"

	"github.com/go-json-experiment/json"
)

// ErrVerifier is returned when a verifier could not be asked: it did not start, it ended too early, or its answer is
// none.
var ErrVerifier = errors.New("cannot ask the verifier")

// ErrWrong is returned by Run when something was wrongly accepted or wrongly refused.
var ErrWrong = errors.New("the verifier is wrong")

const maxAnswerBytes = 64 << 10

// Verifier answers questions.
type Verifier func(Question) (Answer, error)

// Ours is cordon's verifier in process.
func Ours(q Question) (Answer, error) {
	a, _, err := Ask(q)
	return a, err
}

// Run asks about every vector, writes a line for each that was not right and a line with the counts, and returns
// ErrWrong, or what the verifier's error was.
func Run(all []Vector, ask Verifier, out io.Writer) error {
	return run(all, ask, out, func() uint64 { return 0 })
}

// RunOurs is Run for cordon's own verifier in process. An answer that costs more memory than its vector allows is wrong,
// too.
func RunOurs(all []Vector, out io.Writer) error {
	return run(all, Ours, out, func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	})
}

func run(all []Vector, ask Verifier, out io.Writer, allocated func() uint64) error {
	count := map[Judgement]int{}
	large := 0
	for _, v := range all {
		before := allocated()
		a, err := ask(v.Question)
		if err != nil {
			return err
		}
		if n := allocated() - before; n > uint64(v.MaxAlloc) {
			large++
			fmt.Fprintf(out, "too much memory: %s: %d bytes, at most %d\n", v.Question.Name, n, v.MaxAlloc)
		}
		how := v.Judge(a)
		count[how]++
		if how != Right {
			fmt.Fprintf(out, "%s: %s: %s %v, want %s %v: %s\n", how, v.Question.Name, a.Outcome, a.Reasons, v.Answer.Outcome, v.Answer.Reasons, v.About)
		}
	}
	fmt.Fprintf(out, "%d vectors: %d right, %d with other reasons, %d undecided, %d wrongly refused, %d wrongly accepted\n",
		len(all), count[Right], count[OtherReasons], count[Undecided], count[WronglyRefused], count[WronglyAccepted])
	if n := count[WronglyAccepted] + count[WronglyRefused] + large; n > 0 {
		return fmt.Errorf("%w about %d vectors", ErrWrong, n)
	}
	return nil
}

// Start runs a command that reads one question per line on its standard input and writes one answer per line on its
// standard output; what it writes to standard error goes to log. stop ends it. The command is ended, too, when ctx is
// done. Errors of the Verifier are ErrVerifier.
func Start(ctx context.Context, log io.Writer, name string, args ...string) (ask Verifier, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr, cmd.WaitDelay = log, time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%w: %w", ErrVerifier, err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%w: %w", ErrVerifier, err)
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%w: %w", ErrVerifier, err)
	}
	answers := bufio.NewScanner(pipe)
	answers.Buffer(nil, maxAnswerBytes)
	stop = func() { // the command is killed, so how it ended says nothing
		_ = in.Close()
		cancel()
		_ = cmd.Wait()
	}
	return func(q Question) (Answer, error) { return exchange(q, in, answers) }, stop, nil
}

// exchange writes one question and reads its answer.
func exchange(q Question, in io.Writer, answers *bufio.Scanner) (Answer, error) {
	b, err := json.Marshal(q, json.Deterministic(true))
	if err != nil {
		return Answer{}, fmt.Errorf("cannot encode question: %w", err)
	}
	if _, err := in.Write(append(b, '\n')); err != nil {
		return Answer{}, fmt.Errorf("%w about %s: %w", ErrVerifier, q.Name, err)
	}
	if !answers.Scan() {
		return Answer{}, fmt.Errorf("%w about %s: no answer (%w)", ErrVerifier, q.Name, errors.Join(answers.Err(), io.EOF))
	}
	var a Answer
	if err := json.Unmarshal(answers.Bytes(), &a); err != nil {
		return Answer{}, fmt.Errorf("%w about %s: %w", ErrVerifier, q.Name, err)
	}
	known := a.Outcome == Affirmed || a.Outcome == Refused || a.Outcome == Undecidable
	if a.Name != q.Name || !known {
		return Answer{}, fmt.Errorf("%w about %s: the answer is %q about %q", ErrVerifier, q.Name, a.Outcome, a.Name)
	}
	return a, nil
}

// Serve is the other side of Start for cordon's own verifier: it answers the questions on in until they end.
func Serve(in io.Reader, out io.Writer) error { return ServeAs(Ours, in, out) }

// ServeAs is Serve for any verifier.
func ServeAs(ask Verifier, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("cannot read question: %w", err)
		}
		var q Question
		if err := json.Unmarshal(line, &q, json.RejectUnknownMembers(true)); err != nil {
			return fmt.Errorf("cannot read question: %w", err)
		}
		a, err := ask(q)
		if err != nil {
			return err
		}
		b, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("cannot encode answer: %w", err)
		}
		if _, err := out.Write(append(b, '\n')); err != nil {
			return fmt.Errorf("cannot write answer: %w", err)
		}
	}
}
