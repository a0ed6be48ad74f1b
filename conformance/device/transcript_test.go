package device_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/conformance/device"
)

// said is what a machine said in its first seconds, and the beginning of what it said after a restart.
const said = "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)\r\n" +
	`device[2.90] boot version="1" kernel="6.1.0-56-cloud-amd64" cmdline="console=ttyS0,115200 fw.version=1"` + "\r\n" +
	`device[3.39] firmware secure_boot="off" loader="systemd-boot 252" entry="\\EFI\\x.efi" counter=""` + "\r\n" +
	`agent: time=2026-11-23T00:04:26.212Z level=INFO msg="device[1.0] boot"` + "\r\n" +
	"\x1b[2J" + `device[2.95] boot version="2" kernel="6" cmdline=""` + "\r\n" +
	`device[3.10] pcrs 0="00`

func TestTranscriptIsReadAsItGrows(t *testing.T) {
	t.Parallel()
	want := []device.Event{
		{Boot: 1, Uptime: 2.90, Name: "boot", Fields: map[string]string{"version": "1", "kernel": "6.1.0-56-cloud-amd64", "cmdline": "console=ttyS0,115200 fw.version=1"}},
		{Boot: 1, Uptime: 3.39, Name: "firmware", Fields: map[string]string{"secure_boot": "off", "loader": "systemd-boot 252", "entry": `\EFI\x.efi`, "counter": ""}},
		{Boot: 2, Uptime: 2.95, Name: "boot", Fields: map[string]string{"version": "2", "kernel": "6", "cmdline": ""}},
	}
	for cut := 0; cut <= len(said); cut += 7 {
		lines := device.Parse([]byte(said[:cut]), []byte(said[cut:]))
		var got []device.Event
		for _, l := range lines {
			if l.Event != nil {
				got = append(got, *l.Event)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || len(lines) != 5 {
			t.Fatalf("cut at %d: %d lines, events differ (-want +got):\n%s", cut, len(lines), diff)
		}
	}
}

func FuzzTranscript(f *testing.F) {
	f.Add([]byte(said), 40)
	f.Add([]byte("device[1] pcrs 0=\"00\"\ndevice[x] a\ndevice[1.1.1] b c=\"\\q\"\n"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = min(max(cut, 0), len(b))
		lines := device.Parse(b[:cut], b[cut:])
		if diff := cmp.Diff(device.Parse(b, nil), lines); diff != "" {
			t.Fatalf("two pieces are not one:\n%s", diff)
		}
		if len(lines) != strings.Count(string(b), "\n") {
			t.Errorf("%d lines of %d", len(lines), strings.Count(string(b), "\n"))
		}
		for _, l := range lines {
			if l.Event != nil {
				_, _ = l.Event.PCRs() // it may say anything but must come back
			}
		}
	})
}
