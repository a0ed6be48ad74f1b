package demo_test

import (
	"bytes"
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	_ "modernc.org/sqlite"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// Every mistake gets one clear message, the next step, and the right exit code.
func TestCommandsExplainMistakes(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.NewDevice("device", false)
	write(t, s.Path("bad.toml"), "data_dir = \"x\"\npoll_interval = \"5m\"\n")
	write(t, s.Path("far.toml"), "data_dir = \"elsewhere\"\ndatabase = \"postgres://nobody@127.0.0.1:1/none\"\n"+
		"[listen]\ndevices = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n")
	write(t, s.Path("empty.json"), "{}")
	expire(t, s, "carol")
	pin := []string{"--server", s.AdminURL(), "--ca-sha256", strings.Repeat("0123", 16), "--token-file", s.Path("bob.token")}
	withoutTrust := without(d.Args(), "--trust")
	for name, row := range map[string]struct {
		program string
		args    []string
		code    int
		says    string
	}{
		"unknown config key":     {"cordond", []string{"--config", s.Path("bad.toml")}, 2, "poll_interval"},
		"unreachable store":      {"cordond", []string{"--config", s.Path("far.toml")}, 3, "database"},
		"no config file":         {"cordond", []string{"--config", s.Path("none.toml")}, 2, "none.toml"},
		"wrong type of key":      {"cordon-sign", []string{"root", "sign", "--dir", "ceremony", "--key", "publisher.pem"}, 2, "wrong type of key"},
		"not a key":              {"cordon-sign", []string{"keys", "show", "--key", "policy.toml"}, 2, "policy.toml"},
		"nothing pending":        {"cordon-sign", []string{"root", "sign", "--dir", "ceremony", "--key", "hanna.pem"}, 1, "nothing"},
		"no trust bundle":        {"cordon-agent", append(withoutTrust, "--once"), 2, "--trust is missing"},
		"empty trust bundle":     {"cordon-agent", append(withoutTrust, "--once", "--trust", s.Path("empty.json")), 2, "trust bundle"},
		"no such TPM":            {"cordon-agent", append(without(d.Args(), "--tpm"), "--once", "--tpm", s.Path("no.sock")), 3, "no.sock"},
		"unknown flag":           {"cordon-agent", []string{"--nonsense"}, 2, "--nonsense"},
		"expired token":          {"cordonctl", s.By("carol", "device", "list"), 1, string(reason.TokenExpired)},
		"not allowed":            {"cordonctl", s.By("dave", "device", "release", d.ID()), 1, string(reason.PermissionDenied)},
		"unknown device":         {"cordonctl", s.By("bob", "device", "show", strings.Repeat("a", 26)), 1, string(reason.NotFound)},
		"not a device id":        {"cordonctl", s.By("bob", "device", "show", "gateway"), 2, "26 characters"},
		"another server's CA":    {"cordonctl", append([]string{"device", "list"}, pin...), 1, "CA"},
		"not a report":           {"cordonctl", []string{"verify", s.Path("policy.toml"), "--trust", s.Path("trust.json")}, 1, "report"},
		"report without a trust": {"cordonctl", []string{"verify", s.Path("policy.toml")}, 3, "trust"},
	} {
		code, stdout, stderr := s.Run(row.program, row.args...)
		if code != row.code || !strings.Contains(stderr+stdout, row.says) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s%s", name, code, row.code, row.says, stdout, stderr)
		}
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if !strings.HasPrefix(lines[0], row.program+": ") && !strings.Contains(stderr, "\n"+row.program+": ") || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%s: want one line of %s and a hint, got:\n%s", name, row.program, stderr)
		}
	}
}

// Every refusal of the device API is a problem document with reason, request id and next step.
func TestDeviceAPIRefusesBadInput(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	d := s.Updated("device")
	claims, err := json.Marshal(wire.Claims{Version: wire.ClaimsVersion, ImageRoot: 1, DirectorRoot: 1})
	if err != nil {
		t.Fatal(err)
	}
	poll := func(evidence string) []byte {
		b, err := json.Marshal(wire.PollRequest{Claims: claims, Evidence: []byte(evidence)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	image := wire.PathArtifacts + "/" + s.Image("1.1").String()
	for name, row := range map[string]struct {
		stranger     bool
		method, path string
		body         []byte
		want         reason.Reason
	}{
		"unknown device polls":      {true, http.MethodPost, wire.PathPoll, poll(`{}`), reason.DeviceUnknown},
		"unknown device fetches":    {true, http.MethodGet, image, nil, reason.DeviceUnknown},
		"malformed Evidence":        {false, http.MethodPost, wire.PathPoll, poll(`{"version":1}`), reason.RequestMalformed},
		"Evidence of tomorrow":      {false, http.MethodPost, wire.PathPoll, poll(`{"version":99,"quote":""}`), reason.RequestMalformed},
		"unknown field":             {false, http.MethodPost, wire.PathPoll, poll(`{"version":1,"trust_me":true}`), reason.RequestMalformed},
		"no JSON":                   {false, http.MethodPost, wire.PathPoll, []byte("hello"), reason.RequestMalformed},
		"oversized body":            {false, http.MethodPost, wire.PathPoll, bytes.Repeat([]byte(" "), wire.MaxPollBytes+1), reason.RequestTooLarge},
		"malformed enrollment":      {false, http.MethodPost, wire.PathEnroll, []byte(`{"ek_certificate":12}`), reason.RequestMalformed},
		"no such route":             {false, http.MethodGet, "/device/v1/nothing", nil, reason.NotFound},
		"not a digest":              {false, http.MethodGet, wire.PathArtifacts + "/latest", nil, reason.RequestMalformed},
		"an unpublished artifact":   {false, http.MethodGet, image, nil, reason.ReleaseUnknown},
		"firmware in the open tree": {false, http.MethodGet, wire.PathImage + "targets/gateway/1.0/" + s.Image("1.0").String() + ".system", nil, reason.NotFound},
	} {
		send := d.Send
		if row.stranger {
			send = s.Probe
		}
		status, p := send(row.method, row.path, row.body)
		if status < 400 || status >= 500 || p.Reason != row.want || p.Status != status {
			t.Errorf("%s: got %d %+v, want %s", name, status, p, row.want)
		}
		if p.Title == "" || p.RequestID == "" || p.Next == "" || !strings.HasSuffix(p.Type, string(p.Reason)) {
			t.Errorf("%s: the problem document is not whole: %+v", name, p)
		}
	}
	if got := d.Agent(); len(got.Refusals) > 0 {
		t.Errorf("the device was harmed: %s", got)
	}
	if got := d.Seen(); got.Quarantine != nil || got.Standing != "affirmed" {
		t.Errorf("standing %s, quarantine %v", got.Standing, got.Quarantine)
	}
	s.Report()
}

// The admin API refuses bad bodies before it looks at what they ask for.
func TestAdminAPIRefusesBadInput(t *testing.T) {
	t.Parallel()
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)})
	for name, row := range map[string]struct {
		body   string
		status int
		want   reason.Reason
	}{
		"oversized":     {strings.Repeat(" ", 1<<20), http.StatusRequestEntityTooLarge, reason.RequestTooLarge},
		"unknown field": {`{"name":"eve","roles":["admin"],"superuser":true}`, http.StatusBadRequest, reason.RequestMalformed},
		"duplicate":     {`{"name":"eve","name":"eva","roles":["admin"]}`, http.StatusBadRequest, reason.RequestMalformed},
		"trailing":      {`{"name":"eve","roles":["admin"]} x`, http.StatusBadRequest, reason.RequestMalformed},
		"unknown role":  {`{"name":"eve","roles":["root"]}`, http.StatusBadRequest, reason.RequestMalformed},
		"bad name":      {`{"name":"../eve","roles":["admin"]}`, http.StatusBadRequest, reason.RequestMalformed},
	} {
		res, p := ask(t, s, "alice", http.MethodPost, "/api/v1/people", row.body)
		if res.StatusCode != row.status || p.Reason != row.want || p.Next == "" || p.RequestID == "" {
			t.Errorf("%s: got %d %+v", name, res.StatusCode, p)
		}
		if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s: content type %q", name, got)
		}
	}
	if people := s.Ctl("alice", "person", "list"); strings.Contains(people, "eve") || strings.Contains(people, "eva") {
		t.Errorf("somebody was created:\n%s", people)
	}
}

// A database that goes away is "try later", for devices and for people, and quarantines nobody.
func TestDatabaseOutageIsNoVerdict(t *testing.T) {
	t.Parallel()
	// A folder whose parents any user may pass through, as the user postgres must.
	cluster, err := os.MkdirTemp("", "cordon-pg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(cluster) })
	s := demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t), Postgres: cluster})
	d := s.Updated("device")
	s.Postgres().Kill()
	if code, stderr := d.TryAgent(); code != 3 || !strings.Contains(stderr, "\nhint: ") {
		t.Errorf("the agent: exit %d, %s", code, stderr)
	}
	res, p := ask(t, s, "bob", http.MethodGet, "/api/v1/devices", "")
	if res.StatusCode != http.StatusServiceUnavailable || p.Reason != reason.ServerBusy || res.Header.Get("Retry-After") == "" {
		t.Errorf("the admin API: %d %+v", res.StatusCode, p)
	}
	s.RestartPostgres()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Log())
		}
	})
	s.WaitFor("the server to find its database again", func() error {
		if code, stderr := d.TryAgent(); code != 0 {
			return &failed{code, stderr}
		}
		return nil
	})
	if got := d.Seen(); got.Quarantine != nil || got.Standing != "affirmed" || got.Proven != "gateway/1.0" {
		t.Errorf("standing %s, proven %q, quarantine %v", got.Standing, got.Proven, got.Quarantine)
	}
	s.Report()
}

// ask sends one request to the admin API as a person and reads the problem document of a refusal.
func ask(t *testing.T, s *demo.Stage, person, method, path, body string) (*http.Response, wire.Problem) {
	t.Helper()
	token, err := os.ReadFile(s.Path(person + ".token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.AdminURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var p wire.Problem
	if err := json.UnmarshalRead(res.Body, &p); err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return res, p
}

type failed struct {
	code   int
	stderr string
}

func (f *failed) Error() string { return f.stderr }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// without takes a flag and its value out of a command line.
func without(args []string, flag string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == flag {
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// expire ends a person's token, as time would.
func expire(t *testing.T, s *demo.Stage, person string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.Path("cordon-data"), "cordon.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "UPDATE tokens SET expires_at = at + 1 WHERE person = $1", person); err != nil {
		t.Fatal(err)
	}
}
