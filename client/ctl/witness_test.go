package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/client/ctl/witness"
)

// witnessProcess is `cordonctl witness run` as an operator runs it.
type witnessProcess struct {
	cmd *exec.Cmd
	url string
}

var listens = regexp.MustCompile(`listens on (https?://\S+)`)

func startWitness(t *testing.T, dir, logKey string, more ...string) witnessProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"cordonctl", "witness", "run", "--log-key", logKey, "--key-file", filepath.Join(dir, "key"), "--state", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0"}, more...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if m := listens.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, stderr)
			return witnessProcess{cmd, m[1]}
		}
	}
	t.Fatalf("the witness did not start: %v", cmd.Wait())
	return witnessProcess{}
}

func (p witnessProcess) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// ask submits the first to leaves after the first from.
func (p witnessProcess) ask(l verifytest.Log, leaves [][]byte, from, to int) (code int, answer string, err error) {
	hashes, err := consistency(leaves, from, to)
	if err != nil {
		return 0, "", err
	}
	body := tlog.AddCheckpoint{Old: uint64(from), Proof: hashes, Checkpoint: l.Checkpoint(leaves[:to])}.Encode()
	res, err := http.Post(p.url+"/add-checkpoint", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// consistency proves with tiles: the leaves are few, so there is one.
func consistency(leaves [][]byte, from, to int) ([]digest.SHA256, error) {
	var tile []byte
	for _, leaf := range leaves[:to] {
		h := tlog.LeafHash(leaf)
		tile = append(tile, h[:]...)
	}
	read := func(context.Context, uint64, uint64, uint8) ([]byte, error) { return tile, nil }
	return tlog.ProveConsistency(context.Background(), uint64(from), uint64(to), tlog.TileNodes(uint64(to), read))
}

func witnessKey(t *testing.T, dir string) {
	t.Helper()
	secret, _, err := witness.NewKey("w.example")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// With a certificate the witness speaks TLS and nothing else, and a signal ends it with exit code 0.
func TestWitnessSpeaksTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	witnessKey(t, dir)
	var s server
	pair, err := s.certificate()
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := startWitness(t, dir, world().Log.Policy.LogKey, "--tls-cert", certFile, "--tls-key", keyFile)
	defer p.kill()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.caPEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(p.url + "/checkpoint?origin=" + world().Log.Policy.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); !strings.HasPrefix(p.url, "https://") || res.StatusCode != http.StatusNotFound {
		t.Errorf("%s answers %s", p.url, res.Status)
	}
	if res, err := http.Get(strings.Replace(p.url, "https://", "http://", 1) + "/checkpoint"); err == nil && res.StatusCode != http.StatusBadRequest {
		t.Errorf("it speaks HTTP without TLS: %s", res.Status)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestKilledWitnessNeverCosignsTwoHistories kills the process while two histories of one log ask for its cosignature. It
// may serve either one; over all rounds, what it cosigned must be one history.
func TestKilledWitnessNeverCosignsTwoHistories(t *testing.T) {
	t.Parallel()
	l := world().Log
	dir := t.TempDir()
	witnessKey(t, dir)
	histories := [2][][]byte{}
	for h := range histories {
		for i := range 60 {
			histories[h] = append(histories[h], fmt.Appendf(nil, "history %d, event %d", h, i))
		}
	}
	won := -1 // the history that was cosigned first
	size := 0 // up to where
	for round := range 8 {
		p := startWitness(t, dir, l.Policy.LogKey)
		type reply struct{ history, code, to int }
		replies := make(chan reply, 40)
		for h := range histories {
			go func() {
				for to := size; to < size+20; to++ { // a lost answer may have moved the witness one step on
					code, _, err := p.ask(l, histories[h], max(0, to-1), to)
					if err != nil {
						code = 0 // it was killed
					}
					replies <- reply{h, code, to}
				}
			}()
		}
		for n := range 40 {
			r := <-replies
			if n == 3+round {
				p.kill()
			}
			if r.code != http.StatusOK || r.to == 0 {
				continue
			}
			if won < 0 {
				won = r.history
			}
			if r.history != won {
				t.Fatalf("round %d: cosigned %d leaves of history %d after %d leaves of the other", round, r.to, r.history, size)
			}
			size = max(size, r.to)
		}
		p.kill()
	}
	if won < 0 {
		t.Fatal("nothing was cosigned at all")
	}
	p := startWitness(t, dir, l.Policy.LogKey)
	defer p.kill()
	for from := range 41 {
		if code, answer, err := p.ask(l, histories[1-won], from, 40); err != nil || code == http.StatusOK {
			t.Errorf("the other history from %d: %d %q, %v", from, code, answer, err)
		}
	}
}
