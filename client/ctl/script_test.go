package main_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/rogpeppe/go-internal/testscript"

	main "github.com/cordon-ota/cordon/client/ctl"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/client/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cordonctl": main.Main})
}

var world = sync.OnceValue(verifytest.New)

// TestScripts runs the CLI as it is typed. Each script has a server of its own ($SERVER, $PIN, ca.pem, my.token,
// old.token), a report of a pretended day (day.json, trust.json, ek.pem) and $FIRST and $SECOND, the ids of its devices.
func TestScripts(t *testing.T) {
	t.Parallel()
	vectors, err := filepath.Abs("../../conformance/vectors/measured-boot")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			w := world()
			s, err := newServer(w)
			if err != nil {
				return err
			}
			env.Defer(s.http.Close)
			trust, err := json.Marshal(w.Trust)
			if err != nil {
				return err
			}
			served := w.Trust
			served.ServerCA = string(s.caPEM)
			env.Values[serverKey{}] = s
			env.Setenv("LOGKEY", w.Log.Policy.LogKey)
			env.Setenv("SERVER", s.http.URL)
			env.Setenv("PIN", s.caPin.String())
			env.Setenv("VECTORS", vectors)
			env.Setenv("NEGATIVE", filepath.Join(filepath.Dir(vectors), "negative"))
			env.Setenv("APPRAISAL", verifytest.AppraisalID(w.Appraisals[3]).String())
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/config")
			env.Setenv("FIRST", w.Devices[0].Record.Device.ID)
			env.Setenv("SECOND", w.Devices[1].Record.Device.ID)
			day := w.Sign(w.Report())
			for name, data := range map[string][]byte{
				"ca.pem": s.caPEM, "my.token": []byte(token + "\n"), "old.token": []byte("old\n"), "empty.token": nil,
				"day.json": day, "changed.json": bytes.Replace(day, []byte(`"outcome":"refused"`), []byte(`"outcome":"Refused"`), 1),
				"trust.json": trust, "ek.pem": w.EKRootPEM, "kept-9.txt": w.Log.Checkpoint(w.Log.Leaves[:9]), "kept-12.txt": w.Log.Checkpoint(w.Log.Leaves),
				"kept-14.txt": w.Log.Checkpoint(verifytest.History(nil, 14)), "fork-12.txt": w.Log.Checkpoint(verifytest.History(nil, 12)),
			} {
				if err := os.WriteFile(env.WorkDir+"/"+name, data, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"mode": mode, "trust": trust, "code": code, "shows": shows},
		RequireExplicitExec: true,
	})
}

// mode FILE OCTAL: the file has these permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if info.Mode().Perm() != fs.FileMode(want) {
		ts.Fatalf("%s has mode %o, want %o", args[0], info.Mode().Perm(), want)
	}
}

type serverKey struct{}

// shows WHAT: the server shows another log from now on.
func shows(ts *testscript.TestScript, _ bool, args []string) {
	s, ok := ts.Value(serverKey{}).(*server)
	if !ok {
		ts.Fatalf("script has no server")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.w.Log
	switch args[0] {
	case "truth":
		s.showLog(l.Leaves, l.Witnesses...)
	case "more": // the log grew
		s.showLog(append(slices.Clone(l.Leaves), []byte("one more")), l.Witnesses...)
	case "unwitnessed":
		s.showLog(l.Leaves)
	case "rolled-back":
		s.showLog(l.Leaves[:10], l.Witnesses...)
	case "forked": // other events 7 to 10, and the log grew
		s.showLog(verifytest.History(nil, 13), l.Witnesses...)
	case "changed": // one byte of a leaf, nothing else
		for path, b := range s.log {
			if strings.HasPrefix(path, "tile/entries/") {
				b[len(b)/2] ^= 1
			}
		}
	default:
		ts.Fatalf("shows %s?", args[0])
	}
}

// trust FILE: the file is a trust bundle.
func trust(ts *testscript.TestScript, _ bool, args []string) {
	_, err := wire.DecodeTrust([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
}

// code N ARGS...: cordonctl ends with exit code N.
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("cordonctl", args[1:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

func TestConfigIsStrict(t *testing.T) {
	t.Parallel()
	good, err := main.DecodeConfig("ctl.toml", []byte("server = \"https://x:1\"\nca = \"ca.pem\"\ntoken = \"t\"\n"))
	if err != nil || good.Server != "https://x:1" || good.CA != "ca.pem" || good.Token != "t" {
		t.Errorf("got %+v, %v", good, err)
	}
	for name, text := range map[string]string{"unknown key": "tokn = \"x\"\n", "twice": "ca = \"a\"\nca = \"b\"\n", "number": "ca = 1\n", "no TOML": "{"} {
		if _, err := main.DecodeConfig("ctl.toml", []byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestPlainKeepsTheTerminalStill(t *testing.T) {
	t.Parallel()
	if got := main.Plain("a\x1b[2J\r\nb\u202e\u00e9"); got != "a?[2J??b?\u00e9" {
		t.Errorf("got %q", got)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("server = \"https://x:1\"\n"))
	f.Add([]byte("ca = ["))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = main.DecodeConfig("ctl.toml", b)
	})
}
