package history_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/conformance/demo"
)

var programs = demo.NewPrograms("")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// place is a server with a log that two witnesses watch.
type place struct {
	*demo.Stage
	t      *testing.T
	logKey string
	urls   []string // of the witnesses
}

// watched starts the server, makes two witnesses, and lets the holders name them.
func watched(t *testing.T) *place {
	t.Helper()
	p := &place{Stage: demo.NewStage(t, demo.StageConfig{Bin: programs.Dir(t)}), t: t}
	p.logKey = p.statusLogKey()
	args := []string{"log", "set", "--dir", "ceremony", "--log-key", p.logKey, "--quorum", "2"}
	for _, name := range []string{"north", "south"} {
		key := p.ok("cordonctl", "witness", "keygen", "--name", name+".example", "--key-file", name+".key")
		url := p.witness(name)
		p.urls = append(p.urls, url)
		args = append(args, "--witness", name+"="+strings.TrimSpace(key)+","+url)
	}
	p.ok("cordon-sign", args...)
	for _, holder := range []string{"hanna.pem", "henry.pem"} {
		p.ok("cordon-sign", "root", "sign", "--dir", "ceremony", "--key", holder)
	}
	p.ok("cordon-sign", "root", "apply", "--dir", "ceremony", "--token-file", p.Path("alice.token"))
	p.WaitFor("the witnesses to cosign", p.whole)
	return p
}

func (p *place) ok(program string, args ...string) string {
	p.t.Helper()
	code, stdout, stderr := p.Run(program, args...)
	if code != 0 {
		p.t.Fatalf("%s %q: exit %d\n%s%s", program, args, code, stdout, stderr)
	}
	return stdout
}

// fails runs cordonctl, which has to refuse and to say why.
func (p *place) fails(want string, args ...string) {
	p.t.Helper()
	code, stdout, stderr := p.Run("cordonctl", args...)
	if code != 1 || !strings.Contains(stdout+stderr, want) {
		p.t.Errorf("cordonctl %q: exit %d, want 1 and %q\n%s%s", args, code, want, stdout, stderr)
	}
}

func (p *place) check(more ...string) []string {
	return p.By("dave", append([]string{"log", "check", "--trust", "trust.json"}, more...)...)
}

// whole is content when the log has a quorum and holds.
func (p *place) whole() error {
	code, stdout, stderr := p.Run("cordonctl", p.check()...)
	if code != 0 {
		return fmt.Errorf("log check ends with %d:\n%s%s", code, stdout, stderr)
	}
	return nil
}

func (p *place) statusLogKey() string {
	res, err := p.Client().Get(p.AdminURL() + "/api/v1/status")
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	m := regexp.MustCompile(`"log_key":"([^"]+)"`).FindSubmatch(b)
	if m == nil {
		p.t.Fatalf("the status names no log key: %s", b)
	}
	return string(m[1])
}

// stops waits until the server says itself that its log is not in order.
func (p *place) stops() {
	p.t.Helper()
	p.WaitFor("the server to notice", func() error {
		res, err := p.Client().Get(p.AdminURL() + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err == nil && !strings.Contains(string(b), "the audit log has stopped") {
			err = fmt.Errorf("readyz says %q", b)
		}
		return err
	})
}

var listens = regexp.MustCompile(`listens on (http://\S+)`)

// witness starts a witness as its operator does.
func (p *place) witness(name string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), filepath.Join(programs.Dir(p.t), "cordonctl"), "witness", "run", "--log-key", p.logKey,
		"--key-file", p.Path(name+".key"), "--state", p.Path(name), "--listen", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = cmd.Wait() })
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if m := listens.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, stderr)
			return m[1]
		}
	}
	p.t.Fatalf("witness %s did not start", name)
	return ""
}

// cosigned is the newest checkpoint that a witness vouches for.
func (p *place) cosigned(i int) []byte {
	p.t.Helper()
	origin, _, _ := strings.Cut(p.logKey, "+")
	res, err := http.Get(p.urls[i] + "/checkpoint?origin=" + origin)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		p.t.Fatalf("witness: %d %q, %v", res.StatusCode, b, err)
	}
	return b
}

func (p *place) size(raw []byte) uint64 {
	p.t.Helper()
	c, err := tlog.OpenLogCheckpoint(raw, p.logKey)
	if err != nil {
		p.t.Fatal(err)
	}
	return c.Size
}

// event makes an operator do something that is recorded.
func (p *place) event(name string) {
	p.t.Helper()
	p.Ctl("alice", "person", "add", name, "--role", "auditor", "--token-out", name+".token")
}

// report is a report that verifies, with proofs of all its events.
func (p *place) report(name string) {
	p.t.Helper()
	p.Ctl("dave", "report", "--from", "2020-01-01", "--to", "2099-01-01", "--out", name)
	out := p.ok("cordonctl", "verify", name, "--trust", "trust.json", "--ek-roots", "ek-roots.pem")
	if !strings.Contains(out, "at least 2 of them would have had to lie") {
		p.t.Errorf("the report does not speak of the witnesses:\n%s", out)
	}
}

func (p *place) write(name string, b []byte) {
	p.t.Helper()
	if err := os.WriteFile(p.Path(name), b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// replace puts a copy of a folder in the place of another, with the same modes.
func (p *place) replace(from, to string) {
	p.t.Helper()
	if err := os.RemoveAll(p.Path(to)); err != nil {
		p.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", p.Path(from), p.Path(to)).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
}

// A server whose operators do nothing wrong: reports prove their events, and what an auditor kept stays true over restarts.
func TestAnHonestServerStaysProvable(t *testing.T) {
	t.Parallel()
	p := watched(t)
	p.report("first.json")
	p.ok("cordonctl", p.check("--mirror", "copy", "--out", "kept.txt")...)
	first := p.size(p.cosigned(0))
	p.event("erin")
	p.StopServer()
	p.StartServer()
	p.event("frank")
	p.WaitFor("the witnesses to go on", func() error {
		if p.size(p.cosigned(0)) < first+2 || p.size(p.cosigned(1)) < first+2 {
			return errors.New("not yet")
		}
		return nil
	})
	p.report("second.json")
	p.write("witness.txt", p.cosigned(1))
	p.WaitFor("the log to reach what the witness has", func() error {
		code, stdout, stderr := p.Run("cordonctl", p.check("--from", "witness.txt", "--mirror", "copy", "--out", "kept.txt")...)
		if code != 0 {
			return fmt.Errorf("exit %d:\n%s%s", code, stdout, stderr)
		}
		return nil
	})
	// The older report is as true as it was, and holds against what was kept later.
	p.ok("cordonctl", "verify", "first.json", "--trust", "trust.json")
}

// One byte of a stored leaf is changed on the disk of the log: the auditor finds it, and so does the server itself when it
// starts again.
func TestOneChangedByteOfALeafIsFound(t *testing.T) {
	t.Parallel()
	p := watched(t)
	p.ok("cordonctl", p.check("--mirror", "copy")...)
	var changed string
	err := filepath.WalkDir(p.Path("cordon-data", "log", "tile", "entries"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(b, []byte(`"actor":"`)) + len(`"actor":"`)
		b[at] ^= 1
		changed = path
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || changed == "" {
		t.Fatalf("changed %q, %v", changed, err)
	}
	p.fails("is not what it was when the mirror was made", p.check("--mirror", "copy")...)
	p.fails("and its hash in the tree do not belong together", p.check()...)
	p.StopServer()
	p.StartServer()
	p.stops()
}

// The whole server is put back to a backup and goes on otherwise, as somebody would who wants to undo what was recorded.
func TestALogThatWasRolledBackIsFound(t *testing.T) {
	t.Parallel()
	p := watched(t)
	p.StopServer()
	p.replace("cordon-data", "backup")
	p.StartServer()
	before := p.size(p.cosigned(0))
	p.event("erin")
	p.event("frank")
	p.WaitFor("the witnesses to cosign what will be undone", func() error {
		if p.size(p.cosigned(0)) < before+2 || p.size(p.cosigned(1)) < before+2 {
			return errors.New("not yet")
		}
		return nil
	})
	kept := p.cosigned(1)
	p.write("kept.txt", kept)
	p.StopServer()
	p.replace("backup", "cordon-data")
	p.StartServer()
	for _, name := range []string{"gina", "hugo", "ivan", "judy", "kate", "liam"} { // longer than what was undone
		p.event(name)
	}
	p.stops()
	for i := range p.urls {
		if got := p.cosigned(i); p.size(got) < p.size(kept) {
			t.Errorf("witness %d went back to %d leaves", i, p.size(got))
		}
	}
	p.fails("history was rolled back", p.check("--from", "kept.txt")...)
	// A report of the rewritten days is not called verified.
	p.Ctl("dave", "report", "--from", "2020-01-01", "--to", "2099-01-01", "--out", "rewritten.json")
	code, stdout, stderr := p.Run("cordonctl", "verify", "rewritten.json", "--trust", "trust.json", "--checkpoint", "kept.txt")
	if code == 0 || !strings.Contains(stdout, "are not under the checkpoint") {
		t.Errorf("verify: exit %d\n%s%s", code, stdout, stderr)
	}
}

// Whoever has the log key signs a second history of the same size, and shows it to a witness, to an auditor who kept a
// checkpoint, and to one who checks the whole log.
func TestAForkedCheckpointIsFound(t *testing.T) {
	t.Parallel()
	p := watched(t)
	p.report("report.json")
	stolen := p.stolenKey()
	truth := p.cosigned(0)
	size := p.size(truth)
	root := tlog.LeafHash([]byte("another history"))
	fork, err := note.Sign(&note.Note{Text: tlog.CheckpointText(stolen.Name(), size, root)}, stolen)
	if err != nil {
		t.Fatal(err)
	}
	body := tlog.AddCheckpoint{Old: size, Checkpoint: fork}.Encode()
	for i, url := range p.urls {
		res, err := http.Post(url+"/add-checkpoint", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		if res.Body.Close(); err != nil || res.StatusCode != http.StatusConflict {
			t.Errorf("witness %d answers %d %q, %v", i, res.StatusCode, answer, err)
		}
	}
	forks, err := filepath.Glob(p.Path("north", "*.fork.*"))
	if err != nil || len(forks) != 1 {
		t.Errorf("the witness kept %v, %v; want the fork", forks, err)
	}
	p.write("fork.txt", fork)
	p.fails("is not of this history", p.check("--from", "fork.txt")...)
	// The report's checkpoint may be older than the witness's; a fork of the report's own size is found without the server.
	same, err := note.Sign(&note.Note{Text: tlog.CheckpointText(stolen.Name(), p.reportSize("report.json"), root)}, stolen)
	if err != nil {
		t.Fatal(err)
	}
	p.write("same.txt", same)
	p.fails("two histories", "verify", "report.json", "--trust", "trust.json", "--checkpoint", "same.txt")
}

// stolenKey is the log key, as somebody has it who has the server.
func (p *place) stolenKey() note.Signer {
	p.t.Helper()
	b, err := os.ReadFile(p.Path("cordon-data", "keys", "log.pem"))
	if err != nil {
		p.t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		p.t.Fatal("the log key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		p.t.Fatalf("the log key is a %T", key)
	}
	name, _, _ := strings.Cut(p.logKey, "+")
	// A note key with this seed: the text form of x/mod, with the hash that the verifier key names.
	_, rest, _ := strings.Cut(p.logKey, "+")
	hash, _, _ := strings.Cut(rest, "+")
	signer, err := note.NewSigner("PRIVATE+KEY+" + name + "+" + hash + "+" + encode(append([]byte{1}, private.Seed()...)))
	if err != nil {
		p.t.Fatal(err)
	}
	return signer
}
