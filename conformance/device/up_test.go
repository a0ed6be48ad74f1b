package device_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// built makes a folder as Up leaves it, without what is big.
func built(t *testing.T, more ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "machine.json"), []byte(`{"version":"1","loader":"systemd-boot","arch":"amd64"}`), 0o600))
	for _, name := range more {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	return dir
}

func TestUpRefusesBeforeItMakesAnything(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dir  string
		o    device.BuildOptions
		want error
	}{
		"no trust bundle":            {filepath.Join(t.TempDir(), "none"), device.BuildOptions{}, device.ErrTrust},
		"no file":                    {filepath.Join(t.TempDir(), "none"), device.BuildOptions{Trust: "nowhere"}, device.ErrTrust},
		"half a machine is none":     {built(t, "unfinished"), device.BuildOptions{}, device.ErrTrust},
		"another architecture":       {built(t), device.BuildOptions{Arch: parts.ARM64}, device.ErrBuilt},
		"keys that it does not have": {built(t), device.BuildOptions{OwnKeys: true}, device.ErrBuilt},
		"another factory image":      {built(t), device.BuildOptions{Version: "2"}, device.ErrBuilt},
		"without its boot loader":    {built(t), device.BuildOptions{Direct: true}, device.ErrBuilt},
	} {
		b, err := device.NewBench(c.dir, io.Discard, io.Discard)
		must(t, err)
		_, before := os.Stat(c.dir)
		if err := b.Up(t.Context(), c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if _, after := os.Stat(c.dir); errors.Is(before, os.ErrNotExist) != errors.Is(after, os.ErrNotExist) {
			t.Errorf("%s: a folder was made", name)
		}
	}
}

func TestUpClearsHalfAMachineAwayAndNothingElse(t *testing.T) {
	t.Parallel()
	dir := built(t, "disk.img", "unfinished", "mine.txt")
	must(t, device.Begin(dir))
	for name, want := range map[string]bool{"machine.json": false, "disk.img": false, "unfinished": true, "mine.txt": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("half a machine: %s is there: %v, want %v", name, err == nil, want)
		}
	}
	dir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "disk.img"), []byte("somebody's"), 0o600))
	must(t, device.Begin(dir))
	if _, err := os.Stat(filepath.Join(dir, "disk.img")); err != nil {
		t.Errorf("a file that Up did not make is gone: %v", err)
	}
}

func TestMachineListensFromItsFirstProcessToItsEnd(t *testing.T) {
	t.Parallel()
	const firmware, boot, agent = "BdsDxe: starting Boot0001\r\n", "device[3.1] boot version=\"1\"\r\n", "device[4.1] agent pid=\"90\"\r\n"
	for said, want := range map[string]bool{
		"":                      false,
		firmware:                false,
		firmware + boot:         false,
		firmware + boot + agent: true,
		firmware + boot + agent + "device[9.1] memory rss_kib=\"1\"\r\nagent: text\r\n": true,
		firmware + boot + agent + "device[9.1] leave how=\"restart\"\r\n":               false,
		firmware + boot + agent + firmware:                                              false, // a power cut
	} {
		if got := device.Listens(t, said); got != want {
			t.Errorf("got %v, want %v after %q", got, want, said)
		}
	}
}
