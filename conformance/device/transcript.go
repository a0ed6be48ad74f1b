package device

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Event is one line that the machine's first process wrote for machines to read.
type Event struct {
	Boot   int               // counted from 1 over the machine's whole life; boots that never came to its first process are not counted
	Uptime float64           // seconds since the kernel started
	Name   string            // boot, firmware, pcrs, disk, agent, memory, leave, fatal, ...
	Fields map[string]string // see conformance/device/init
}

// Line is one line of the serial transcript: an event, or the text of a program ("agent: ...").
type Line struct {
	Text  string
	Event *Event
}

func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "boot %d, %6.2f s: %s", e.Boot, e.Uptime, e.Name)
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		fmt.Fprintf(&b, " %s=%q", k, e.Fields[k])
	}
	return b.String()
}

// transcript is everything that a machine ever said on its serial line. It is read as it grows.
type transcript struct {
	file   string
	parser parser
	read   int64 // bytes of file that parser has seen
}

var (
	eventLine  = regexp.MustCompile(`device\[([0-9.]+)\] ([a-z]+)((?: [a-z0-9_]+="(?:[^"\\]|\\.)*")*)$`)
	eventField = regexp.MustCompile(` ([a-z0-9_]+)=("(?:[^"\\]|\\.)*")`)
)

// maxTranscript bounds what is read of a serial line.
const maxTranscript = 64 << 20

// lines returns all lines so far. An unfinished last line is left out.
func (t *transcript) lines() ([]Line, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the serial transcript: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, t.read, maxTranscript+1-t.read))
	if err != nil {
		return nil, fmt.Errorf("cannot read the serial transcript: %w", err)
	}
	if t.read += int64(len(b)); t.read > maxTranscript {
		return nil, fmt.Errorf("cannot read the serial transcript: more than %d bytes", maxTranscript)
	}
	t.parser.add(b)
	return t.parser.lines, nil
}

// parser splits what a machine says into lines and events.
type parser struct {
	lines []Line
	rest  []byte // an unfinished line
	boot  int
}

func (p *parser) add(b []byte) {
	p.rest = append(p.rest, b...)
	end := bytes.LastIndexByte(p.rest, '\n') + 1
	for raw := range bytes.Lines(p.rest[:end]) {
		l := Line{Text: strings.TrimRight(string(raw), "\r\n")}
		if e, ok := parseEvent(l.Text); ok {
			if e.Name == "boot" {
				p.boot++
			}
			e.Boot = p.boot
			l.Event = &e
		}
		p.lines = append(p.lines, l)
	}
	p.rest = bytes.Clone(p.rest[end:])
}

// parseEvent reads an event. What the firmware wrote last may stand in front of it on the same line.
func parseEvent(text string) (Event, bool) {
	m := eventLine.FindStringSubmatch(text)
	if m == nil {
		return Event{}, false
	}
	uptime, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return Event{}, false
	}
	e := Event{Uptime: uptime, Name: m[2], Fields: map[string]string{}}
	for _, f := range eventField.FindAllStringSubmatch(m[3], -1) {
		value, err := strconv.Unquote(f[2])
		if err != nil {
			return Event{}, false
		}
		e.Fields[f[1]] = value
	}
	return e, true
}

// listens reports whether the first process of the last boot takes commands from the console.
func (t *transcript) listens() (bool, error) {
	lines, err := t.lines()
	for _, l := range slices.Backward(lines) {
		if l.Event != nil && (l.Event.Name == "agent" || l.Event.Name == "boot" || l.Event.Name == "leave") {
			return l.Event.Name == "agent", err
		}
		if strings.Contains(l.Text, "BdsDxe: ") { // firmware, after a life that ended without a word
			break
		}
	}
	return false, err
}

// tail is the end of the transcript, for errors.
func (t *transcript) tail() string {
	lines, err := t.lines()
	if err != nil {
		return err.Error()
	}
	var texts []string
	for _, l := range lines[max(0, len(lines)-25):] {
		texts = append(texts, "  | "+l.Text)
	}
	return strings.Join(texts, "\n")
}

// Lines is everything that the machine said so far.
func (m *Machine) Lines() ([]Line, error) { return m.log.lines() }

// Boots is how often the machine came to its first process so far.
func (m *Machine) Boots() (int, error) {
	_, err := m.log.lines()
	return m.log.parser.boot, err
}

// Mark is a place in the transcript, for Wait to begin at.
type Mark int

// Mark is the end of what the machine has said so far.
func (m *Machine) Mark() (Mark, error) {
	lines, err := m.log.lines()
	return Mark(len(lines)), err
}

// Wait waits until a line after a mark is what is wanted, and returns it. It fails when the machine ends before, with the
// end of the transcript in the error; bound it with ctx.
func (m *Machine) Wait(ctx context.Context, after Mark, what string, wanted func(Line) bool) (Line, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for seen := int(after); ; {
		on := m.On() // before reading: what it said last is read
		lines, err := m.log.lines()
		if err != nil {
			return Line{}, err
		}
		for ; seen < len(lines); seen++ {
			if wanted(lines[seen]) {
				return lines[seen], nil
			}
		}
		if !on {
			return Line{}, fmt.Errorf("the machine ended (%v) before %s:\n%s", m.why(), what, m.log.tail())
		}
		select {
		case <-ctx.Done():
			return Line{}, fmt.Errorf("waited in vain for %s: %w\n%s", what, ctx.Err(), m.log.tail())
		case <-tick.C:
		}
	}
}

func (m *Machine) why() error {
	if m.vm == nil {
		return nil
	}
	return m.vm.Err()
}

// WaitEvent waits for an event of a name.
func (m *Machine) WaitEvent(ctx context.Context, after Mark, name string) (Event, error) {
	l, err := m.Wait(ctx, after, "event "+name, func(l Line) bool { return l.Event != nil && l.Event.Name == name })
	if err != nil {
		return Event{}, err
	}
	return *l.Event, nil
}

// WaitText waits for a line that contains text.
func (m *Machine) WaitText(ctx context.Context, after Mark, text string) (string, error) {
	l, err := m.Wait(ctx, after, fmt.Sprintf("a line with %q", text), func(l Line) bool { return strings.Contains(l.Text, text) })
	return l.Text, err
}

// PCRs reads an event "pcrs".
func (e Event) PCRs() (map[int]digest.SHA256, error) {
	values := map[int]digest.SHA256{}
	for k, v := range e.Fields {
		index, err := strconv.Atoi(k)
		if err != nil {
			return nil, fmt.Errorf("cannot read PCR %q: %w", k, err)
		}
		if values[index], err = digest.Parse(v); err != nil {
			return nil, fmt.Errorf("cannot read PCR %d: %w", index, err)
		}
	}
	return values, nil
}
