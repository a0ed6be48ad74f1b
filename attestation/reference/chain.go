package reference

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// Limits on a Chain document.
const (
	MaxChainBytes  = 256 << 10
	maxCommandText = 16 << 10
)

// pcrCommands is where GRUB measures the commands that it runs and the command lines that it passes on.
const pcrCommands = 8

// ChainVersion is the version of the Chain document.
const ChainVersion = 1

// Chain describes a boot by GRUB, with or without shim: what the firmware starts, what GRUB runs and what it reads, each in
// the order in which it is measured. It says nothing of Secure Boot, whose state PCR 7 and the baseline hold.
type Chain struct {
	Version  int          `json:"version"`
	Starts   []ChainStart `json:"starts"`   // PCR 4: what the firmware announces and starts
	Commands []string     `json:"commands"` // PCR 8: as GRUB logs them, prefix and all
	Files    []ChainFile  `json:"files"`    // PCR 9: what GRUB reads, and what the kernel's EFI stub adds
}

// ChainStart is one of three: an announcement of the firmware, its separator, of which there is one, or a program that it
// starts, such as shim, GRUB and kernel as far as the firmware starts them.
type ChainStart struct {
	Action    string        `json:"action,omitempty"`
	Separator bool          `json:"separator,omitzero"`
	Name      string        `json:"name,omitempty"`
	SHA256    digest.SHA256 `json:"sha256,omitzero"` // of a program: its Authenticode digest
}

// ChainFile is one file that is measured by its digest.
type ChainFile struct {
	Name   string        `json:"name"` // in plain words, or the path
	SHA256 digest.SHA256 `json:"sha256"`
}

// commandForms are the texts that GRUB measures: what follows the prefix is hashed. Older versions, as in RHEL 8, wrote
// no colon, and hashed commands with the zero byte at their end. The order matters.
var commandForms = []struct {
	prefix string
	end    string // hashed behind the text
}{
	{"grub_cmd: ", ""}, {"kernel_cmdline: ", ""},
	{"grub_cmd ", "\x00"}, {"grub_kernel_cmdline ", ""},
}

// commandDigest is what a command measures; ok is false for a text that GRUB is not known to measure.
func commandDigest(text string) (d digest.SHA256, ok bool) {
	for _, f := range commandForms {
		if rest, ok := strings.CutPrefix(text, f.prefix); ok {
			return digest.Of([]byte(rest + f.end)), true
		}
	}
	return digest.SHA256{}, false
}

// DecodeChain reads a Chain. It returns ErrMalformed for anything that is not one.
func DecodeChain(b []byte) (Chain, error) {
	var c Chain
	if len(b) > MaxChainBytes {
		return Chain{}, malformed("%d bytes, at most %d", len(b), MaxChainBytes)
	}
	if err := json.Unmarshal(b, &c, json.RejectUnknownMembers(true)); err != nil {
		return Chain{}, malformed("%v", err)
	}
	return c, c.validate()
}

// Encode writes c as JSON with one entry per line. It returns ErrMalformed for what DecodeChain refuses.
func (c Chain) Encode() ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(c, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	if len(b) >= MaxChainBytes {
		return nil, malformed("%d bytes, at most %d", len(b), MaxChainBytes)
	}
	return append(b, '\n'), nil
}

func (c Chain) validate() error {
	switch {
	case c.Version != ChainVersion:
		return malformed("version %d of a boot chain", c.Version)
	case len(c.Commands) == 0:
		return malformed("the boot chain has no command of GRUB")
	case max(len(c.Starts), len(c.Commands), len(c.Files)) > maxEvents:
		return malformed("the boot chain has more than %d entries for one PCR", maxEvents)
	}
	if err := c.validateStarts(); err != nil {
		return err
	}
	for i, text := range c.Commands {
		if len(text) > maxCommandText || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return malformed("commands[%d] is long or not text", i)
		}
		if _, ok := commandDigest(text); !ok {
			return malformed("commands[%d] begins like nothing that GRUB measures; known are %q", i, commandPrefixes())
		}
	}
	for i, f := range c.Files {
		if f.SHA256.IsZero() || f.Name == "" || !plain(f.Name) {
			return malformed("files[%d] has no digest, or its name is empty, long or not text", i)
		}
	}
	return nil
}

func (c Chain) validateStarts() error {
	separators, programs := 0, 0
	for i, s := range c.Starts {
		switch {
		case s.Separator && s == ChainStart{Separator: true}:
			separators++
		case s.Action != "" && plain(s.Action) && s == ChainStart{Action: s.Action}:
		case s.Name != "" && plain(s.Name) && !s.SHA256.IsZero() && s == ChainStart{Name: s.Name, SHA256: s.SHA256}:
			programs++
		default:
			return malformed("starts[%d] is not one of: an action, a separator, a program with name and sha256", i)
		}
	}
	if separators != 1 || programs == 0 {
		return malformed("the boot chain has %d separators, want one, and %d programs, want at least one", separators, programs)
	}
	return nil
}

func commandPrefixes() (out []string) {
	for _, f := range commandForms {
		out = append(out, f.prefix)
	}
	return out
}

// registers lists what the chain measures.
func (c Chain) registers() []PCR {
	starts := make([]Event, 0, len(c.Starts))
	for _, s := range c.Starts {
		starts = append(starts, s.event())
	}
	commands := make([]Event, 0, len(c.Commands))
	for _, text := range c.Commands {
		d, _ := commandDigest(text) // validate has seen that it is known
		commands = append(commands, Event{Digest: d, What: clip([]byte(text))})
	}
	files := make([]Event, 0, len(c.Files))
	for _, f := range c.Files {
		files = append(files, Event{Digest: f.SHA256, What: "file: " + clip([]byte(f.Name))})
	}
	return []PCR{register(pcrPrograms, starts), register(pcrCommands, commands), register(pcrKernelInput, files)}
}

func (s ChainStart) event() Event {
	switch {
	case s.Separator:
		return Event{Digest: digest.Of(make([]byte, 4)), What: "separator"}
	case s.Action != "":
		return Event{Digest: digest.Of([]byte(s.Action)), What: "the firmware announces: " + clip([]byte(s.Action))}
	default:
		return Event{Digest: s.SHA256, What: "program: " + clip([]byte(s.Name))}
	}
}

// predictChain makes the Reference Values of an image that a Chain boots. Of the image nothing but its digest is known: the
// description is the publisher's word.
func predictChain(im, document Source) (Values, error) {
	if document.Size < 1 || document.Size > MaxChainBytes {
		return Values{}, fmt.Errorf("%w: %w", ErrChain, malformed("it has %d bytes, want 1 to %d", document.Size, MaxChainBytes))
	}
	b, err := readAt(document.R, 0, int(document.Size))
	if err != nil {
		return Values{}, err
	}
	c, err := DecodeChain(b)
	if err != nil {
		return Values{}, fmt.Errorf("%w: %w", ErrChain, err)
	}
	file, err := hashAll(im.R, im.Size)
	if err != nil {
		return Values{}, err
	}
	return Values{Version: VersionShapes, Image: file, Boot: BootChain, PCRs: c.registers(),
		Inputs: []Input{{Kind: InputChain, SHA256: digest.Of(b), Length: document.Size, What: "boot chain of GRUB"}}}, nil
}

// ExtractChain describes the boot that a log tells of, as of a golden machine. It returns ErrUnpredictable, with the event,
// for a boot that GRUB did not make and for measurements that do not follow from what the log says.
func ExtractChain(log eventlog.Log) (Chain, error) {
	c := Chain{Version: ChainVersion, Starts: []ChainStart{}, Commands: []string{}, Files: []ChainFile{}}
	for _, e := range log.Events {
		if !e.Extends() {
			continue
		}
		ok := true
		switch e.PCR {
		case pcrPrograms:
			ok = c.start(e)
		case pcrCommands:
			ok = c.command(e)
		case pcrKernelInput:
			c.Files = append(c.Files, ChainFile{Name: fileName(e), SHA256: e.Digest})
		}
		if !ok {
			return Chain{}, fmt.Errorf("%w: event %d in PCR %d is not of a boot by GRUB that is known: %s", ErrUnpredictable, e.Index, e.PCR, e.Explain())
		}
	}
	if len(c.Commands) == 0 {
		return Chain{}, fmt.Errorf("%w: the log tells of no boot by GRUB", ErrUnpredictable)
	}
	if err := c.validate(); err != nil {
		return Chain{}, fmt.Errorf("%w: %w", ErrUnpredictable, err)
	}
	return c, nil
}

// start takes an event of PCR 4.
func (c *Chain) start(e eventlog.Event) bool {
	switch {
	case e.Type == eventlog.TypeEFIAction && digest.Of(e.Data) == e.Digest:
		c.Starts = append(c.Starts, ChainStart{Action: string(e.Data)})
	case e.Type == eventlog.TypeSeparator && e.Digest == digest.Of(make([]byte, 4)):
		c.Starts = append(c.Starts, ChainStart{Separator: true})
	case e.Type == eventlog.TypeEFIApplication:
		c.Starts = append(c.Starts, ChainStart{Name: clip([]byte(e.Explain())), SHA256: e.Digest})
	default:
		return false
	}
	return true
}

// command takes an event of PCR 8.
func (c *Chain) command(e eventlog.Event) bool {
	text := string(bytes.TrimSuffix(e.Data, []byte{0}))
	if d, ok := commandDigest(text); !ok || e.Type != eventlog.TypeIPL || d != e.Digest {
		return false
	}
	c.Commands = append(c.Commands, text)
	return true
}

// fileName is the path that GRUB logs, or what the event is otherwise.
func fileName(e eventlog.Event) string {
	text := string(bytes.TrimSuffix(e.Data, []byte{0}))
	if e.Type == eventlog.TypeIPL && text != "" && plain(text) {
		return clip([]byte(text))
	}
	return clip([]byte(e.Explain()))
}

// clipped is how much of a text a description keeps.
const clipped = 160

// clip makes short printable text of anything.
func clip(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, string(b[:min(len(b), clipped)]))
}

// SourceOf is a Source of bytes in memory.
func SourceOf(b []byte) Source { return Source{R: bytes.NewReader(b), Size: int64(len(b))} }
