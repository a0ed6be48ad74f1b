package reference_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// grubLogs are the logs of the corpus in which GRUB measured something: a test fails when one is gone, or is not described.
var grubLogs = []string{"cos-85", "cos-93", "cos-101", "cos-121", "cos-125", "cs251200tpm", "confidential-gke", "rhel8-uefi",
	"ubuntu-1804", "ubuntu-2104-no-dbx", "ubuntu-2104-no-secure-boot", "ubuntu-2404-amd-sevsnp", "ubuntu-2404-intel-tdx",
	"coreos_36", "gdc-host"}

// The description taken from each genuine log with GRUB in it, written and read again, leads to the values that the log
// leads to in PCRs 4, 8 and 9.
func TestChainsOfGenuineLogsLeadToTheirRegisters(t *testing.T) {
	t.Parallel()
	described := map[string]bool{}
	for _, l := range eventlogtest.All(t) {
		log, err := eventlog.Parse(l.Bytes)
		if err != nil {
			continue // SHA-1 only: corpus_test of eventlog says which
		}
		chain, err := reference.ExtractChain(log)
		if err != nil {
			if !errors.Is(err, reference.ErrUnpredictable) {
				t.Errorf("%s: %v", l.Name, err)
			}
			if ranGRUB(log) {
				t.Errorf("%s: GRUB measured something, and nothing describes it: %v", l.Name, err)
			}
			continue
		}
		for _, name := range grubLogs {
			described[name] = described[name] || strings.Contains(l.Name, name)
		}
		v := predictChain(t, encoded(t, chain))
		quoted := log.Replay()
		if diffs := v.Match(log, quoted); len(diffs) > 0 {
			t.Errorf("%s: %+v", l.Name, diffs)
		}
		if len(quoted) == 0 || v.PCRs[1].Index != 8 || v.PCRs[1].Value != quoted[8] {
			t.Errorf("%s: PCR 8 is not that of the log", l.Name)
		}
	}
	for _, name := range grubLogs {
		if !described[name] {
			t.Errorf("no log %s was described", name)
		}
	}
}

// ranGRUB reports whether the log holds a text of GRUB.
func ranGRUB(l eventlog.Log) bool {
	for _, e := range l.Events {
		if e.PCR == 8 && (bytes.HasPrefix(e.Data, []byte("grub_")) || bytes.HasPrefix(e.Data, []byte("kernel_cmdline"))) {
			return true
		}
	}
	return false
}

func chain() reference.Chain {
	file := func(name string) reference.ChainFile {
		return reference.ChainFile{Name: name, SHA256: digest.Of([]byte(name))}
	}
	program := func(name string) reference.ChainStart {
		return reference.ChainStart{Name: name, SHA256: digest.Of([]byte(name))}
	}
	return reference.Chain{
		Version: reference.ChainVersion,
		Starts: []reference.ChainStart{{Action: "Calling EFI Application from Boot Option"}, {Separator: true},
			program("shim"), program("grub"), program("kernel")},
		Commands: []string{"grub_cmd: set default=0", "grub_cmd set default=0", "kernel_cmdline: /vmlinuz ro", "grub_kernel_cmdline /vmlinuz ro"},
		Files:    []reference.ChainFile{file("(hd0,gpt1)/boot/grub.cfg"), file("/vmlinuz")},
	}
}

func predictChain(t testing.TB, document []byte) reference.Values {
	t.Helper()
	source := reference.SourceOf(document)
	v, err := reference.Predict(reference.SourceOf([]byte("disk image")), reference.Boot{Chain: &source})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestChainMeasuresWhatGRUBHashes(t *testing.T) {
	t.Parallel()
	c := chain()
	doc := encoded(t, c)
	v := predictChain(t, doc)
	want := map[int][]digest.SHA256{
		4: {digest.Of([]byte("Calling EFI Application from Boot Option")), digest.Of(make([]byte, 4)),
			c.Starts[2].SHA256, c.Starts[3].SHA256, c.Starts[4].SHA256},
		8: {digest.Of([]byte("set default=0")), digest.Of([]byte("set default=0\x00")), digest.Of([]byte("/vmlinuz ro")), digest.Of([]byte("/vmlinuz ro"))},
		9: {c.Files[0].SHA256, c.Files[1].SHA256},
	}
	for pcr, digests := range want {
		if diff := cmp.Diff(digests, events(v, pcr)); diff != "" {
			t.Errorf("PCR %d (-want +got)\n%s", pcr, diff)
		}
	}
	if v.Boot != reference.BootChain || v.Image != digest.Of([]byte("disk image")) || len(v.Inputs) != 1 || v.Inputs[0].SHA256 != digest.Of(doc) {
		t.Errorf("got %+v", v)
	}
	again, err := reference.PredictAgain(v, reference.SourceOf([]byte("disk image")), func(reference.Input) (reference.Source, error) {
		return reference.SourceOf(doc), nil
	})
	if err != nil || !cmp.Equal(v, again) {
		t.Errorf("predicted again: %v\n%s", err, cmp.Diff(v, again))
	}
	if _, ok := v.BootDigest(); ok {
		t.Error("a chain names a program as if it were the image's alone")
	}
}

// One command, one file or one program more, less or otherwise is no match.
func TestAnyChangeOfTheChainIsNoMatch(t *testing.T) {
	t.Parallel()
	v := predictChain(t, encoded(t, chain()))
	for name, change := range map[string]func(*reference.Chain){
		"a command changed":    func(c *reference.Chain) { c.Commands[2] += " init=/bin/sh" },
		"a command more":       func(c *reference.Chain) { c.Commands = append(c.Commands, "grub_cmd: boot") },
		"commands swapped":     func(c *reference.Chain) { c.Commands[0], c.Commands[2] = c.Commands[2], c.Commands[0] },
		"a file less":          func(c *reference.Chain) { c.Files = c.Files[1:] },
		"a program replaced":   func(c *reference.Chain) { c.Starts[3].SHA256 = digest.Of(nil) },
		"no announcement":      func(c *reference.Chain) { c.Starts = c.Starts[1:] },
		"the kernel unstarted": func(c *reference.Chain) { c.Starts = c.Starts[:4] },
	} {
		c := chain()
		change(&c)
		quoted := map[int]digest.SHA256{}
		for _, p := range predictChain(t, encoded(t, c)).PCRs {
			quoted[p.Index] = p.Value
		}
		if len(v.Match(eventlog.Log{}, quoted)) != 1 {
			t.Errorf("%s: got %+v, want one difference", name, v.Match(eventlog.Log{}, quoted))
		}
	}
}

func TestDecodeChainIsStrict(t *testing.T) {
	t.Parallel()
	good := string(encoded(t, chain()))
	replace := func(old, text string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the document has no %q", old)
		}
		return strings.Replace(good, old, text, 1)
	}
	for name, text := range map[string]string{
		"empty":              "",
		"trailing bytes":     good + "{}",
		"unknown member":     replace(`"version"`, `"x":1,"version"`),
		"repeated member":    replace(`"version"`, `"version":1,"version"`),
		"version 2":          replace(`"version": 1`, `"version": 2`),
		"another prefix":     replace("grub_cmd: ", "module_cmdline: "),
		"no prefix":          replace("grub_cmd: ", ""),
		"a zero byte":        replace("set default=0", `set\u0000`),
		"an empty name":      replace(`"name": "shim"`, `"name": ""`),
		"control characters": replace(`"name": "shim"`, `"name": "\u001b[2J"`),
		"a zero digest":      replace(digest.Of([]byte("shim")).String(), strings.Repeat("0", 64)),
		"an empty action":    replace(`"Calling EFI Application from Boot Option"`, `""`),
		"a long command":     replace("set default=0", strings.Repeat("x", 17<<10)),
		"too many commands":  replace(`"grub_cmd: set default=0"`, strings.Repeat(`"grub_cmd: x",`, 1100)+`"grub_cmd: x"`),
		"too large":          good + strings.Repeat(" ", reference.MaxChainBytes),
	} {
		if _, err := reference.DecodeChain([]byte(text)); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
	for name, change := range map[string]func(*reference.Chain){
		"no program": func(c *reference.Chain) { c.Starts = c.Starts[:2] }, "no separator": func(c *reference.Chain) { c.Starts = c.Starts[2:] },
		"two separators":           func(c *reference.Chain) { c.Starts[0] = c.Starts[1] },
		"an action with a digest":  func(c *reference.Chain) { c.Starts[0].SHA256 = digest.Of(nil) },
		"a separator with a name":  func(c *reference.Chain) { c.Starts[1].Name = "x" },
		"a program without digest": func(c *reference.Chain) { c.Starts[2].SHA256 = digest.SHA256{} },
		"no command":               func(c *reference.Chain) { c.Commands = nil },
	} {
		c := chain()
		change(&c)
		if _, err := c.Encode(); !errors.Is(err, reference.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
	source := reference.Source{R: bytes.NewReader(nil), Size: 1 << 40}
	if _, err := reference.Predict(reference.SourceOf([]byte("image")), reference.Boot{Chain: &source}); !errors.Is(err, reference.ErrMalformed) {
		t.Errorf("a chain of 1 TiB: got %v, want ErrMalformed", err)
	}
}

// A log whose texts do not lead to its digests describes nothing: the description would be somebody's invention.
func TestExtractRefusesWhatDoesNotFollow(t *testing.T) {
	t.Parallel()
	var genuineLog eventlog.Log
	for _, l := range eventlogtest.All(t) {
		if strings.Contains(l.Name, "ubuntu-2104-no-secure-boot") {
			log, err := eventlog.Parse(l.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			genuineLog = log
		}
	}
	for name, change := range map[string]func(*eventlog.Event) bool{
		"another text": func(e *eventlog.Event) bool {
			e.Data = []byte("grub_cmd: set default=1\x00")
			return e.PCR == 8
		},
		"another type in PCR 8": func(e *eventlog.Event) bool { e.Type = eventlog.TypeAction; return e.PCR == 8 },
		"a program as an action": func(e *eventlog.Event) bool {
			e.Type = eventlog.TypeEFIAction
			return e.PCR == 4 && len(e.Data) > 100
		},
		"a failed firmware": func(e *eventlog.Event) bool {
			e.Digest = digest.Of([]byte{0xFF, 0xFF, 0xFF, 0xFF})
			return e.PCR == 4 && e.Type == eventlog.TypeSeparator
		},
	} {
		log := eventlog.Log{}
		log.Events = append(log.Events, genuineLog.Events...)
		for i := range log.Events {
			e := log.Events[i]
			if change(&e) {
				log.Events[i] = e
				break
			}
		}
		if _, err := reference.ExtractChain(log); !errors.Is(err, reference.ErrUnpredictable) {
			t.Errorf("%s: got %v, want ErrUnpredictable", name, err)
		}
	}
	if _, err := reference.ExtractChain(eventlog.Log{}); !errors.Is(err, reference.ErrUnpredictable) {
		t.Errorf("an empty log: got %v, want ErrUnpredictable", err)
	}
	l, _ := genuine(t, "sdboot-ab-1-v1")
	if _, err := reference.ExtractChain(l); !errors.Is(err, reference.ErrUnpredictable) {
		t.Errorf("a boot without GRUB: got %v, want ErrUnpredictable", err)
	}
}

func TestChainsTakeBoundedMemory(t *testing.T) {
	text := fmt.Sprintf(`{"version":1,"starts":[],"commands":[%s""],"files":[]}`, strings.Repeat(`"",`, reference.MaxChainBytes/3-64))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := reference.DecodeChain([]byte(text)); !errors.Is(err, reference.ErrMalformed) {
		t.Fatalf("got %v, want ErrMalformed", err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("a document of %d bytes took %d bytes of memory", len(text), got)
	}
}

func FuzzDecodeChain(f *testing.F) {
	f.Add(encoded(f, chain()))
	for _, l := range eventlogtest.All(f) {
		log, err := eventlog.Parse(l.Bytes)
		if err != nil {
			continue
		}
		if c, err := reference.ExtractChain(log); err == nil {
			f.Add(encoded(f, c))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() { _, _ = reference.DecodeChain(b) })
		c, err := reference.DecodeChain(b)
		if err != nil {
			return
		}
		doc, err := c.Encode()
		if err != nil {
			return // indented it may be too long
		}
		source := reference.SourceOf(doc)
		v, err := reference.Predict(reference.SourceOf([]byte("image")), reference.Boot{Chain: &source})
		if err != nil {
			t.Fatalf("a chain that cannot be used: %v", err)
		}
		if text, err := v.Encode(); err == nil {
			if _, err := reference.Decode(text); err != nil {
				t.Fatalf("a prediction that cannot be read again: %v", err)
			}
		}
	})
}

func FuzzExtractChain(f *testing.F) {
	for _, l := range eventlogtest.All(f) {
		f.Add(l.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		evidencetest.Bounded(t, len(b), func() {
			if log, err := eventlog.Parse(b); err == nil {
				_, _ = reference.ExtractChain(log)
			}
		})
		log, err := eventlog.Parse(b)
		if err != nil {
			return
		}
		c, err := reference.ExtractChain(log)
		if err != nil {
			return
		}
		doc, err := c.Encode()
		if err != nil {
			return
		}
		if diffs := predictChain(t, doc).Match(log, log.Replay()); len(diffs) > 0 && len(c.Files) > 0 {
			t.Fatalf("a description that does not lead to the log: %+v", diffs)
		}
	})
}
