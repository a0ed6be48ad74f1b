package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever asks a server says who it is and with which devices; whoever asks about vectors needs no server.
func TestRunSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "suite.pem")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if got := run(t.Context(), []string{"run", "--ek-root-out", root}); got != exitOK {
		t.Fatalf("exit %d, want %d", got, exitOK)
	}
	b, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, b, 0o600); err != nil { // any certificate will do: nobody answers
		t.Fatal(err)
	}
	if info, err := os.Stat(root + ".secret"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret: %v, %v", info, err)
	}
	nobody := "https://127.0.0.1:1"
	for name, c := range map[string]struct {
		args []string
		want int
	}{
		"root that is there already": {[]string{"run", "--ek-root-out", root}, exitUsage},
		"no root":                    {[]string{"run", "--server", nobody, "--ca", ca}, exitUsage},
		"no CA":                      {[]string{"run", "--server", nobody, "--ek-root", root}, exitUsage},
		"two CAs":                    {[]string{"run", "--server", nobody, "--ek-root", root, "--ca", ca, "--trust", ca}, exitUsage},
		"no trust bundle":            {[]string{"run", "--server", nobody, "--ek-root", root, "--trust", ca}, exitUsage},
		"root without its secret":    {[]string{"run", "--server", nobody, "--ek-root", ca, "--ca", ca}, exitUsage},
		"tokens without a product":   {[]string{"run", "--server", nobody, "--ek-root", root, "--ca", ca, "--enroll-token", ca}, exitUsage},
		"nobody answers":             {[]string{"run", "--server", nobody, "--ek-root", root, "--ca", ca}, exitUndecided},
		"no URL":                     {[]string{"run", "--server", "http://127.0.0.1:1", "--ek-root", root, "--ca", ca}, exitUndecided},
		"a directory as a command":   {[]string{"run", t.TempDir()}, exitUsage},
		"no vectors":                 {[]string{"run", "--vectors", t.TempDir()}, exitUndecided},
		"all vectors":                {[]string{"run", "--vectors", "vectors/negative", "--vectors", "vectors/identity,vectors/swtpm"}, exitOK},
	} {
		if got := run(t.Context(), c.args); got != c.want {
			t.Errorf("%s: exit %d, want %d", name, got, c.want)
		}
	}
}
