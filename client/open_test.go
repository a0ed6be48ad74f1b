package client_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
)

func TestOpenWorksFromFiles(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	bundle, err := json.Marshal(d.server.trust())
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := client.Paths{Trust: file("trust.json", bundle), TPM: d.parts.Socket(), State: t.TempDir(), Slots: "ab:" + d.slots, EventLog: file("log", []byte("log"))}
	c, err := client.Open(good)
	if err != nil {
		t.Fatal(err)
	}
	if c.DeviceID() != d.client.DeviceID() {
		t.Errorf("got device %s, want %s", c.DeviceID(), d.client.DeviceID())
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Errorf("Close twice: %v", err)
	}
	for name, bad := range map[string]struct {
		change func(*client.Paths)
		want   error
	}{
		"no trust bundle":        {func(p *client.Paths) { p.Trust = "" }, os.ErrNotExist},
		"trust bundle too large": {func(p *client.Paths) { p.Trust = file("large", bytes.Repeat([]byte(" "), wire.MaxTrustBytes+1)) }, nil},
		"edited trust bundle":    {func(p *client.Paths) { p.Trust = file("edited", append(bundle, '{')) }, wire.ErrTrust},
		"unknown installer":      {func(p *client.Paths) { p.Slots = "floppy:a" }, nil},
		"no TPM":                 {func(p *client.Paths) { p.TPM = filepath.Join(t.TempDir(), "none") }, nil},
		"no state directory":     {func(p *client.Paths) { p.State = "" }, client.ErrConfig},
	} {
		paths := good
		bad.change(&paths)
		c, err := client.Open(paths)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = c.Close()
		}
		if bad.want != nil && !errors.Is(err, bad.want) {
			t.Errorf("%s: got %v, want %v", name, err, bad.want)
		}
	}
}
