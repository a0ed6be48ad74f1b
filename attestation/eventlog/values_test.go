package eventlog_test

import (
	"slices"
	"testing"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/eventlog/eventlogtest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

func TestReadersGiveTypedValues(t *testing.T) {
	t.Parallel()
	events := genuine(t, "sdboot-secureboot-snakeoil-v1").Events
	find := func(pcr int, typ uint32, text string) eventlog.Event { return events[at(events, pcr, typ, text)] }

	image, ok := find(4, program, "").Image()
	if !ok || len(image.Path) == 0 || image.Size == 0 {
		t.Errorf("image: got %+v, %t", image, ok)
	}
	gpt, ok := find(5, eventlog.TypeEFIGPT, "").PartitionTable()
	if !ok || gpt.Disk.String() != "11111111-2222-3333-4444-555555555555" || len(gpt.Partitions) != 1 || gpt.Partitions[0].Name != "ESP" {
		t.Errorf("partition table: got %+v, %t", gpt, ok)
	}
	db, ok := find(7, config, "db").Variable()
	lists, whole := db.SignatureLists()
	if !ok || !whole || db.Name != "db" || len(lists) == 0 || len(lists[0].Entries) == 0 {
		t.Errorf("db: got %q, %d lists, %t, %t", db.Name, len(lists), ok, whole)
	}
	option, ok := find(1, eventlog.TypeEFIVariableBoot, "UiApp").Variable()
	o, whole := option.BootOption()
	if !ok || !whole || o.Description != "UiApp" || len(o.Paths) != 1 {
		t.Errorf("boot option: got %+v, %t, %t", o, ok, whole)
	}
	if tag, ok := find(9, eventlog.TypeEventTag, "").Tag(); !ok || tag.ID != 0x8F3B22ED || len(tag.Data) == 0 {
		t.Errorf("tag: got %+v, %t", tag, ok)
	}
	other := find(4, efiAction, "")
	_, image2 := other.Image()
	_, table2 := other.PartitionTable()
	_, variable2 := other.Variable()
	_, tag2 := other.Tag()
	if image2 || table2 || variable2 || tag2 {
		t.Error("an action is read as something else")
	}
}

func TestExplainsOtherFirmwareAndLoaders(t *testing.T) {
	t.Parallel()
	said := map[string][]string{}
	for _, l := range eventlogtest.All(t) {
		log, err := eventlog.Parse(l.Bytes)
		if err != nil {
			continue // a SHA-1 log
		}
		for _, e := range log.Events {
			said[l.Name] = append(said[l.Name], e.Explain())
		}
	}
	for name, want := range map[string][]string{
		"go-eventlog/arch-linux-workstation.bin": {"boot driver started from an option ROM (133728 bytes)",
			`boot option Boot0002: Linux Boot Manager, from \EFI\SYSTEMD\SYSTEMD-BOOTX64.EFI on partition 1 (c06c8547-12b6-43db-af4c-413316e02936)`},
		"go-eventlog/gdc-host.bin": {"the TPM was started from locality 3", "the firmware's root of trust: Boot Guard Measured S-CRTM",
			"deployed mode is on", "the firmware reports: DMA Protection Disabled"},
		"go-eventlog/rhel8-uefi.bin": {"GRUB ran: set pager=1", "shim read its list MokList (machine owner keys)",
			"an entry of Shim (shim's built-in certificate) allowed the next program to start: Red Hat Secure Boot CA 5"},
		"go-eventlog/ubuntu-2404-intel-tdx.bin": {"memory protection of the virtual machine, by its host's word: Intel TDX",
			"separator: the firmware's own measurements into PCR 7 end here"},
		"go-eventlog/sb_cert_eventlog": {"Secure Boot list KEK (key exchange keys): 1 certificate (Microsoft Corporation KEK CA 2011)"},
		"go-eventlog/host-gmes.bin":    {"the hardware's root of trust: HCRTM", "a dynamic launch of a Google host: DRTM"},
	} {
		for _, text := range want {
			if !slices.Contains(said[name], text) {
				t.Errorf("%s: nothing is explained as %q", name, text)
			}
		}
	}
}

// Windows ends its part of a register with a separator of its own; in the firmware's registers that is a lie.
func TestLoadersMayHaveSeparatorsOfTheirOwn(t *testing.T) {
	t.Parallel()
	for pcr, want := range map[int]bool{4: false, 12: true} {
		l := evidencetest.NewLog()
		l.AddHashed(pcr, separator, []byte("WBCL"))
		log, err := eventlog.Parse(l.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := len(log.Violations()) == 0; got != want {
			t.Errorf("PCR %d: accepted %t, want %t", pcr, got, want)
		}
	}
}

// A dynamic launch starts its registers from zeros; without one they stay at ones.
func TestDynamicLaunchStartsFromZeros(t *testing.T) {
	t.Parallel()
	l := evidencetest.NewLog()
	l.AddHashed(17, eventlog.TypeGoogleDRTM, []byte("DRTM"))
	log, err := eventlog.Parse(l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := log.Replay()[17], eventlog.Extend(digest.SHA256{}, digest.Of([]byte("DRTM"))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := eventlog.ResetValue(18); got[0] != 0xFF {
		t.Errorf("PCR 18 without events: got %s, want ones", got)
	}
}
