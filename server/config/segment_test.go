package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/config"
)

func TestSegmentDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(t, "[[segment.webhook]]\nname = \"fabric\"\nurl = \"https://x.example\"\n")
	if err != nil {
		t.Fatal(err)
	}
	s := c.Segment
	if s.LearnAddresses || s.BreakerDevices != 10 || s.BreakerPercent != 5 || s.BreakerWindow.Std() != 10*time.Minute || s.Rate != 100 ||
		s.Parallel != 8 || s.Timeout.Std() != 10*time.Second || s.RetryMax.Std() != 30*time.Second || s.Reconcile.Std() != time.Minute || s.Webhook[0].Finds != "device" {
		t.Errorf("got %+v", s)
	}
}

func TestEveryPointHasItsName(t *testing.T) {
	t.Parallel()
	c, err := load(t, `
[segment]
learn_addresses = true
breaker_percent = 2.5
[[segment.nftables]]
name = "gate"
recovery = ["10.0.0.5:8443", "udp/10.0.0.1:53"]
[[segment.radius]]
name = "switch-1"
server = "10.0.0.2:3799"
secret_file = "secret"
restricted_vlan = "66"
production_vlan = "10"
accounting_clients = ["10.0.0.0/24"]
[[segment.webhook]]
name = "fabric"
url = "https://x.example"
finds = "mac"
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Segment.PointNames(); !slices.Equal(got, []string{"gate", "switch-1", "fabric"}) || c.Segment.BreakerPercent != 2.5 {
		t.Errorf("got %q, %+v", got, c.Segment)
	}
}

func TestRefusesSegments(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[[segment.webhook]]\nname = \"door\"":                                      "no name of a point",
		"[[segment.webhook]]\nname = \"Fabric\"":                                    "no name of a point",
		"[[segment.webhook]]\nurl = \"https://x.example\"":                          "no name of a point",
		"[[segment.webhook]]\nname = \"a\"\n[[segment.radius]]\nname = \"a\"":       "two points",
		"[[segment.webhook]]\nname = \"a\"\nfinds = \"name\"":                       "finds",
		"[[segment.nftables]]\nname = \"a\"":                                        "recovery",
		"[[segment.nftables]]\nname = \"a\"\nrecovery = [\"10.0.0.5:1\"]\nport = 5": "port",
		"[segment]\nbreaker_devices = -1":                                           "breaker_devices",
		"[segment]\nbreaker_percent = 101.0":                                        "breaker_percent",
		"[segment]\nbreaker_percent = nan":                                          "breaker_percent",
		"[segment]\nbreaker_window = \"-1m\"":                                       "breaker_window",
		"[segment]\nparallel = 5000":                                                "parallel",
		"[segment]\nrate = -1.0":                                                    "segment.rate",
		"[segment]\ntimeout = \"-1s\"\nretry_max = \"-1s\"\nreconcile = \"-1s\"":    "reconcile",
	} {
		if _, err := load(t, text); !errors.Is(err, config.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
}
