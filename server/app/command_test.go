package app_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/server/app"
)

func command(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, err logged
	code = app.Main(ctx, args, &out, &err)
	return code, out.String(), err.String()
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cordon.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// gateway is an enforcement point with nothing wrong in it.
const gateway = "[[segment.nftables]]\nname = \"gateway\"\nrecovery = [\"10.0.0.5:8443\", \"udp/10.0.0.1:53\"]\n"

// bucket is the configuration of one, with the file of its access key.
func bucket(file string) string {
	return fmt.Sprintf("[s3]\nendpoint = \"https://s3.example\"\nbucket = \"b\"\naccess_key_file = %q\nsecret_key_file = %q\n", file, file)
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free := fmt.Sprintf("data_dir = %q\n[listen]\ndevices = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n", filepath.Join(dir, "data"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"version":            {[]string{"--version"}, 0, "cordond version", ""},
		"help":               {[]string{"--help"}, 0, "cordon-sign root init", ""},
		"valid":              {[]string{"--check-config", "--config", write(t, free)}, 0, "valid", ""},
		"defaults are valid": {[]string{"--check-config"}, 0, "valid", ""},
		"unknown key":        {[]string{"--check-config", "--config", write(t, "leese = 1")}, 2, "", "leese"},
		"bad level":          {[]string{"--check-config", "--config", write(t, "[log]\nlevel = \"loud\"")}, 2, "", "log.level"},
		"no such file":       {[]string{"--check-config", "--config", filepath.Join(dir, "none.toml")}, 2, "", "none.toml"},
		"checked: EK roots":  {[]string{"--check-config", "--config", write(t, "ek_roots_file = \""+filepath.Join(dir, "none.pem")+"\"\n")}, 2, "", "cannot read ek_roots_file"},
		"checked: witnesses": {[]string{"--check-config", "--config", write(t, "[audit]\nwitness_ca_file = \""+write(t, "nothing")+"\"\n")}, 2, "", "audit.witness_ca_file"},
		"checked: S3 key":    {[]string{"--check-config", "--config", write(t, bucket(filepath.Join(dir, "none")))}, 2, "", "_key_file"},
		"checked: hook":      {[]string{"--check-config", "--config", write(t, gateway+"hooks = [\"forwards\"]\n")}, 2, "", "forwards"},
		"checked: road":      {[]string{"--check-config", "--config", write(t, strings.Replace(gateway, "udp/", "udp:", 1))}, 2, "", "udp:10.0.0.1:53"},
		"checked: RADIUS":    {[]string{"--check-config", "--config", write(t, "[[segment.radius]]\nname = \"floor\"\nserver = \"10.0.0.20:3799\"\n")}, 2, "", "a filter or a VLAN"},
		"checked: webhook":   {[]string{"--check-config", "--config", write(t, "[[segment.webhook]]\nname = \"fabric\"\nurl = \"http://fabric.example/\"\n")}, 2, "", "not an https URL"},
		"points are valid":   {[]string{"--check-config", "--config", write(t, gateway+"[[segment.webhook]]\nname = \"fabric\"\nurl = \"https://fabric.example/\"\n")}, 0, "valid", ""},
		"wrong point":        {[]string{"--config", write(t, strings.Replace(free, filepath.Join(dir, "data"), filepath.Join(dir, "data4"), 1)+gateway+"hooks = [\"forwards\"]\n")}, 2, "", "forwards"},
		"unknown flag":       {[]string{"--confg", "x"}, 2, "", "confg"},
		"an argument":        {[]string{"start"}, 2, "", "start"},
		"port taken": {[]string{"--config", write(t, strings.Replace(free, "admin = \"127.0.0.1:0\"", "admin = \""+taken.Addr().String()+"\"", 1))},
			3, "", "another process"},
		"no database": {[]string{"--config", write(t, "database = \"postgres://127.0.0.1:1/cordon?sslmode=disable\"\n"+free)}, 3, "", "database of the configuration runs"},
		"EK roots missing": {[]string{"--config", write(t, "ek_roots_file = \""+filepath.Join(dir, "none.pem")+"\"\n"+strings.Replace(free, filepath.Join(dir, "data"), filepath.Join(dir, "data2"), 1))},
			3, "", "cannot read ek_roots_file"},
		"EK roots empty":           {[]string{"--config", write(t, "ek_roots_file = \""+write(t, "nothing")+"\"\n"+strings.Replace(free, filepath.Join(dir, "data"), filepath.Join(dir, "data3"), 1))}, 3, "", "holds no PEM certificate"},
		"data directory is a file": {[]string{"--config", write(t, strings.Replace(free, filepath.Join(dir, "data"), write(t, "x"), 1))}, 3, "", "data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := command(t.Context(), c.args...)
			if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("got %d\nstdout: %s\nstderr: %s\nwant %d, %q and %q", code, stdout, stderr, c.code, c.stdout, c.stderr)
			}
			if c.code != 0 && (!strings.Contains(stderr, "cordond: ") || !strings.Contains(stderr, "\nhint: ") || stdout != "") {
				t.Errorf("stderr has no message with a hint: %s", stderr)
			}
		})
	}
}

// The second cordond of one configuration says what is in its way, and leaves the first alone.
func TestSecondServerOfOneConfiguration(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := configured(t, dir)
	first := start(t, c)
	text := fmt.Sprintf("data_dir = %q\n[listen]\ndevices = %q\nadmin = %q\nmetrics = %q\n", dir, first.Addr(app.Devices), first.Addr(app.Admin), first.Addr(app.Metrics))
	code, _, stderr := command(t.Context(), "--config", write(t, text))
	if code != 3 || !strings.Contains(stderr, "another cordond uses the data directory") {
		t.Errorf("got %d %s", code, stderr)
	}
	other := strings.Replace(text, fmt.Sprintf("%q", dir), fmt.Sprintf("%q", filepath.Join(t.TempDir(), "other")), 1)
	code, _, stderr = command(t.Context(), "--config", write(t, other))
	if code != 3 || !strings.Contains(stderr, "cannot listen") || !strings.Contains(stderr, "another cordond") {
		t.Errorf("on the same ports: got %d %s", code, stderr)
	}
	if status, body := get(t, "https://"+first.Addr(app.Admin)+"/healthz"); status != 200 {
		t.Errorf("the first one: got %d %s", status, body)
	}
}
