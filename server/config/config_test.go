package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/server/config"
)

func load(t *testing.T, text string) (config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cordon.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path)
}

func TestDefaultsAreTheDesigns(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func() (config.Config, error){
		"no file":    func() (config.Config, error) { return config.Load("") },
		"empty file": func() (config.Config, error) { return load(t, "") },
	} {
		c, err := read()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.DataDir != "./cordon-data" || c.Listen.Devices != ":8443" || c.Listen.Admin != ":8444" || c.Listen.Metrics != "127.0.0.1:9090" ||
			c.TrustDomain != "localhost" || c.Database != "sqlite:cordon-data/cordon.db" || c.Artifacts != "cordon-data/artifacts" {
			t.Errorf("%s: got %+v", name, c)
		}
		want := config.Times{
			Timestamp: config.Duration(15 * time.Minute), Poll: config.Duration(15 * time.Minute), BeaconWindow: config.Duration(time.Hour),
			Lease: config.Duration(2 * time.Hour), Grace: config.Duration(24 * time.Hour), Challenge: config.Duration(5 * time.Minute),
			UpdateDeadline: config.Duration(24 * time.Hour), Enforce: config.Duration(time.Second),
		}
		if c.Times != want {
			t.Errorf("%s: got times %+v", name, c.Times)
		}
	}
}

func TestRefusedConfigurationsNameTheKey(t *testing.T) {
	t.Parallel()
	for text, words := range map[string]string{
		`data_dirr = "x"`:                                       "data_dirr",
		"[times]\nleese = \"2h\"":                               "leese",
		"[time]\nlease = \"2h\"":                                "time",
		`data_dir = `:                                           "1|",
		`data_dir = 5`:                                          "data_dir",
		"[times]\nlease = \"two hours\"":                        "two hours",
		"[times]\nlease = 7200":                                 "lease",
		"[times]\npoll = \"-1m\"":                               "times.poll",
		"[times]\nlease = \"95m\"":                              "times.lease must be at least 1h36m0s",
		"[times]\nchallenge = \"6m\"":                           "times.challenge",
		"[times]\ntimestamp = \"61m\"":                          "times.timestamp",
		"[listen]\nadmin = \"8444\"":                            "listen.admin",
		"[listen]\ndevice_url = \"http://x\"":                   "listen.device_url",
		`trust_domain = "Fleet/Example"`:                        "trust_domain",
		`names = ["under_score"]`:                               "names",
		`names = ["https://host"]`:                              "names",
		`names = [""]`:                                          "names",
		"[log]\nlevel = \"loud\"":                               "log.level",
		"[retention]\ngrace = \"10m\"":                          "retention.grace",
		"[retention]\nuploads = \"10m\"":                        "retention.uploads",
		"[retention]\nevery = \"1s\"":                           "retention.every",
		"[retention]\nkeep_releases = 1":                        "retention.keep_releases",
		"[presign]\nproducts = [\"lamp\"]":                      "needs [s3]",
		"[presign]\nlife = \"61s\"":                             "presign.life",
		"[presign]\nendpoint = \"http://s3\"":                   "presign.endpoint",
		"[s3]\nlock_mode = \"strict\"":                          "s3.lock_mode",
		"[s3]\nlock_mode = \"governance\"":                      "s3.lock_days",
		"[s3]\nlock_days = 5":                                   "s3.lock_days",
		"[s3]\nidle_timeout = \"10ms\"":                         "s3.idle_timeout",
		"[endorsement]\nmanufacturers = [\"acme\"]":             "endorsement.manufacturers",
		"[endorsement]\nallow = [\"infineon\"]":                 "endorsement.allow",
		"[log]\nformat = \"xml\"":                               "log.format",
		"[audit]\norigin = \"two words\"":                       "audit.origin",
		"[audit]\norigin = \"a+b\"":                             "audit.origin",
		"[audit]\nevery = \"1ms\"":                              "audit.every",
		"[audit]\nevery = \"1h\"":                               "audit.every",
		`database = "mysql://x"`:                                "sqlite:",
		"database = \"sqlite:x\"\ndatabase_file = \"y\"":        "exclude each other",
		`database = "postgres://cordon:hunter2@db/cordon"`:      "database_file",
		`database = "postgres://db/cordon?password=hunter2"`:    "database_file",
		"database = \"postgres://cordon:hunter2@db:bad port/\"": "database",
		strings.Repeat("# long\n", 200_000):                     "larger",
	} {
		_, err := load(t, text)
		if !errors.Is(err, config.ErrConfig) || !strings.Contains(err.Error(), words) {
			t.Errorf("%.60q: got %v, want ErrConfig that says %q", text, err, words)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.60q: the message shows the password", text)
		}
	}
	if _, err := config.Load(filepath.Join(t.TempDir(), "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v", err)
	}
}

func TestLeaseRuleIsExact(t *testing.T) {
	t.Parallel()
	// Two polls of 15 minutes with 20 % jitter, and the beacon window.
	if _, err := load(t, "[times]\nlease = \"96m\""); err != nil {
		t.Error(err)
	}
	// A profile for sleepers stretches all of them together.
	if _, err := load(t, "[times]\npoll = \"24h\"\ntimestamp = \"12h\"\nbeacon_window = \"30h\"\nlease = \"90h\"\ngrace = \"200h\""); err != nil {
		t.Error(err)
	}
}

func TestSecretComesFromAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(path, []byte("postgres://cordon:hunter2@db/cordon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, "database_file = \""+path+"\"")
	if err != nil {
		t.Fatal(err)
	}
	if dsn, err := c.DSN(); err != nil || dsn != "postgres://cordon:hunter2@db/cordon" {
		t.Errorf("got %q, %v", dsn, err)
	}
	c.DatabaseFile = path + ".none"
	if _, err := c.DSN(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("data_dir = \"x\"\n[times]\nlease = \"3h\"\n")
	f.Add("names = [\"a\", \"::1\"]\n[log]\nlevel = \"debug\"")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "cordon.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(path)
		if err != nil && !errors.Is(err, config.ErrConfig) {
			t.Errorf("error %v is not ErrConfig", err)
		}
		if err == nil && (c.Times.Lease <= c.Times.BeaconWindow || len(c.Names) == 0 || c.TrustDomain == "") {
			t.Errorf("accepted: %+v", c)
		}
	})
}
