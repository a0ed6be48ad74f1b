package eventlog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

const vectors = "../../conformance/vectors/measured-boot"

// cases are the recorded boots; see the README beside them.
var cases = []string{
	"direct-uki-v1-no-secureboot", "sdboot-ab-1-v1", "sdboot-ab-2-v2-after-update", "sdboot-secureboot-snakeoil-v1",
}

func read(t testing.TB, name, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name, file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func genuine(t testing.TB, name string) eventlog.Log {
	t.Helper()
	l, err := eventlog.Parse(read(t, name, "eventlog.bin"))
	if err != nil {
		t.Fatalf("genuine log %s: %v", name, err)
	}
	return l
}

// registers reads the PCRs that the machine had after its boot.
func registers(t testing.TB, name string) map[int]digest.SHA256 {
	t.Helper()
	out := map[int]digest.SHA256{}
	for line := range strings.Lines(string(read(t, name, "pcrs.txt"))) {
		var pcr int
		var hex string
		if _, err := fmt.Sscanf(line, "SHA256 PCR%d %s", &pcr, &hex); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		d, err := digest.Parse(hex)
		if err != nil {
			t.Fatal(err)
		}
		out[pcr] = d
	}
	return out
}

func TestReplayOfGenuineLogsGivesTheRegisters(t *testing.T) {
	t.Parallel()
	for _, name := range cases {
		got, want := genuine(t, name).Replay(), registers(t, name)
		for pcr := range eventlog.MaxPCR + 1 {
			if pcr == 10 {
				continue // IMA measures there after the firmware log has ended
			}
			value, ok := got[pcr]
			if !ok {
				value = eventlog.ResetValue(pcr)
			}
			if value != want[pcr] {
				t.Errorf("%s: PCR %d: got %s, want %s", name, pcr, value, want[pcr])
			}
		}
		if len(got) < 10 {
			t.Errorf("%s: only %d PCRs replayed", name, len(got))
		}
	}
}

var (
	yamlEvent  = regexp.MustCompile(`^- EventNum: (\d+)$`)
	yamlPCR    = regexp.MustCompile(`^  PCRIndex: (\d+)$`)
	yamlType   = regexp.MustCompile(`^  EventType: (\w+)$`)
	yamlDigest = regexp.MustCompile(`^    Digest: "([0-9a-f]{64})"$`)
)

// fromYAML reads what tpm2_eventlog made of the same log: "index pcr type digest" per event.
func fromYAML(t *testing.T, name string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(string(read(t, name, "eventlog.yaml"))) {
		line = strings.TrimRight(line, "\n")
		if m := yamlEvent.FindStringSubmatch(line); m != nil {
			out = append(out, m[1])
		}
		for _, re := range []*regexp.Regexp{yamlPCR, yamlType, yamlDigest} {
			if m := re.FindStringSubmatch(line); m != nil {
				out[len(out)-1] += " " + m[1]
			}
		}
	}
	return out
}

func TestEventsOfGenuineLogsAreThoseThatTPM2EventlogReads(t *testing.T) {
	t.Parallel()
	for _, name := range cases {
		var got []string
		for _, e := range genuine(t, name).Events {
			line := fmt.Sprintf("%d %d %s", e.Index, e.PCR, e.TypeName())
			if e.Index > 0 {
				line += " " + e.Digest.String()
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(fromYAML(t, name), got); diff != "" {
			t.Errorf("%s: (-tpm2_eventlog +got)\n%s", name, diff)
		}
	}
}

func TestEveryEventOfGenuineLogsIsExplainedAndAgrees(t *testing.T) {
	t.Parallel()
	for _, name := range cases {
		l := genuine(t, name)
		for _, e := range l.Events {
			if text := e.Explain(); text == "" || strings.HasPrefix(text, eventlog.Unexplained) {
				t.Errorf("%s: event %d (%s): %q", name, e.Index, e.TypeName(), text)
			}
		}
		if got := l.Disagreements(); len(got) != 0 {
			t.Errorf("%s: disagreements %v, want none", name, got)
		}
	}
}

func TestExplainSpeaksInPlainWords(t *testing.T) {
	t.Parallel()
	want := map[int]string{
		0:  "header of the log: its format and its digest banks",
		1:  "version of the firmware's root of trust: not stated",
		2:  "firmware volume at 0x820000 (917504 bytes)",
		4:  "Secure Boot is off",
		5:  "Secure Boot list PK (platform key): empty",
		8:  "Secure Boot list dbx (revoked signers): empty",
		9:  "separator: the firmware's own measurements into PCR 7 end here",
		10: "order in which the firmware tries boot options: 0001, 0000, 0002",
		11: "boot option Boot0001: UEFI Misc Device, from PCI device 01.0",
		12: "boot option Boot0000: UiApp, from the firmware's setup menu",
		14: "the firmware reports: Calling EFI Application from Boot Option",
		22: "partition table of disk 11111111-2222-3333-4444-555555555555 (1 of its entries in use): ESP",
		23: `program started from \EFI\BOOT\BOOTX64.EFI on partition 1 (aaaaaaaa-2222-3333-4444-555555555555) (18317665 bytes)`,
		28: "name of section .cmdline of the unified kernel image",
		29: "content of section .cmdline of the unified kernel image: the kernel command line",
		32: "program started from the kernel inside the unified kernel image (14186432 bytes)",
		33: "the kernel's load options: the command line that it was started with",
		34: "the initial file system that the kernel loaded",
		36: "the firmware reports: Exit Boot Services Returned with Success",
	}
	l := genuine(t, "direct-uki-v1-no-secureboot")
	for index, words := range want {
		if got := l.Events[index].Explain(); got != words {
			t.Errorf("event %d: got %q, want %q", index, got, words)
		}
	}
	sb := genuine(t, "sdboot-secureboot-snakeoil-v1")
	if got, want := sb.Events[4].Explain(), "Secure Boot is on"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := sb.Events[22].Explain(), "an entry of db (allowed signers) allowed the next program to start: SnakeOil"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := sb.Events[26].Explain(), "kernel command line: console=ttyS0,115200 quiet"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q...", got, want)
	}
}

func TestSecureBootStateOfGenuineLogs(t *testing.T) {
	t.Parallel()
	for _, name := range cases {
		on, known := genuine(t, name).SecureBoot()
		if want := strings.Contains(name, "snakeoil"); !known || on != want {
			t.Errorf("%s: got on=%t known=%t, want on=%t known=true", name, on, known, want)
		}
	}
}

func TestViewIsTheDocumentedJSON(t *testing.T) {
	t.Parallel()
	l := genuine(t, "direct-uki-v1-no-secureboot")
	b, err := json.Marshal(eventlog.NewView(l))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Events []struct {
			Index       int                      `json:"index"`
			PCR         int                      `json:"pcr"`
			Type        string                   `json:"type"`
			Digests     map[string]digest.SHA256 `json:"digests"`
			Explanation string                   `json:"explanation"`
		} `json:"events"`
		PCRs map[string]map[string]digest.SHA256 `json:"pcrs"`
	}
	if err := json.Unmarshal(b, &got, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if len(got.Events) != len(l.Events) || got.Events[23].Digests["sha256"] != l.Events[23].Digest {
		t.Errorf("the view has %d events, want %d with their digests", len(got.Events), len(l.Events))
	}
	replay := l.Replay()
	if len(got.PCRs["sha256"]) != len(replay) {
		t.Errorf("the view has %d PCRs, want %d", len(got.PCRs["sha256"]), len(replay))
	}
	for pcr, value := range replay {
		if got.PCRs["sha256"][strconv.Itoa(pcr)] != value {
			t.Errorf("PCR %d differs in the view", pcr)
		}
	}
	if !strings.Contains(string(b), `"pcrs":{"sha256":{"0":"177e29c4`) {
		t.Errorf("the PCRs do not start with PCR 0: %s", b[len(b)-900:])
	}
}
