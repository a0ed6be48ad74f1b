package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
)

// witness is the auditor's own witness of the log, as a process.
type witness struct {
	cmd    *exec.Cmd
	url    string
	logKey string // of the log that it watches
}

var witnessListens = regexp.MustCompile(`listens on (http://\S+)`)

// watch lets the auditor run a witness, and the holders name it.
func (w *world) watch(ctx context.Context) (string, error) {
	w.say("dave, the auditor, runs a witness of the audit log, on a machine of his own. The holders name it in the offline metadata.")
	key, err := w.must(ctx, "cordonctl", "witness", "keygen", "--name", "witness.dave.example", "--key-file", "witness.key")
	if err != nil {
		return "", err
	}
	if err := w.startWitness(ctx); err != nil {
		return "", err
	}
	if err := w.sign(ctx,
		fmt.Sprintf("log set --dir ceremony --log-key %s --witness dave=%s,%s --quorum 1", w.witness.logKey, strings.TrimSpace(key), w.witness.url),
		"root sign --dir ceremony --key hanna.pem",
		"root sign --dir ceremony --key henry.pem",
		"root apply --dir ceremony --token-file "+w.tokenFile("alice"),
	); err != nil {
		return "", err
	}
	w.ok("the holders sign which log and which witness count; the server cannot change that")
	err = w.waitFor(ctx, "the witness to cosign", func() error {
		r, err := w.run(ctx, "cordonctl", w.by("dave", "log", "check", "--trust", w.trustFile(), "--out", "kept.txt")...)
		if err != nil {
			return err
		}
		return r.says(0, "cosigned by: dave")
	})
	if err != nil {
		return "", err
	}
	w.ok("the witness cosigns; dave reads the whole log, computes its tree again, and keeps the checkpoint")
	return "named offline, cosigns", nil
}

func (w *world) startWitness(ctx context.Context) error {
	admin, err := w.as("alice")
	if err != nil {
		return err
	}
	status, err := admin.Status(ctx)
	if err != nil {
		return err
	}
	s := &w.witness
	s.logKey = status.LogKey
	s.cmd = exec.Command(filepath.Join(w.bin, "cordonctl"), "witness", "run", "--log-key", s.logKey, "--key-file", "witness.key", "--state", "witness", "--listen", "127.0.0.1:0")
	s.cmd.Dir, s.cmd.Env, s.cmd.SysProcAttr = w.dir, w.env(), childAttr()
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the witness: %w", err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if m := witnessListens.FindStringSubmatch(lines.Text()); m != nil {
			s.url = m[1]
			go io.Copy(io.Discard, stderr)
			return nil
		}
	}
	return errors.New("the witness did not start")
}

func (w *world) stopWitness() {
	if w.witness.cmd == nil || w.witness.cmd.Process == nil {
		return
	}
	_ = w.witness.cmd.Process.Kill()
	_ = w.witness.cmd.Wait()
}

// provable pulls a report whose events are all under a witnessed checkpoint, and checks the whole log once more.
func (w *world) provable(ctx context.Context, pull func() error) error {
	err := w.waitFor(ctx, "the witness to cosign the last events", func() error {
		if err := os.Remove(w.path("report.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := pull(); err != nil {
			return err
		}
		r, err := w.run(ctx, "cordonctl", "verify", "report.json", "--trust", w.trustFile())
		if err != nil {
			return err
		}
		return r.says(0, "outcome: verified")
	})
	if err != nil {
		return err
	}
	out, err := w.must(ctx, "cordonctl", w.by("dave", "log", "check", "--trust", w.trustFile(), "--from", "kept.txt", "--out", "kept.txt")...)
	if err != nil {
		return err
	}
	w.ok("dave checks the whole log: %s; it continues what he kept", firstLine(out))
	return nil
}

// forked signs a second history with the log key, as somebody could who has the whole server.
func (w *world) forked(ctx context.Context) error {
	signer, err := w.stolenLogKey()
	if err != nil {
		return err
	}
	c, err := w.cosigned(ctx)
	if err != nil {
		return err
	}
	fork, err := note.Sign(&note.Note{Text: tlog.CheckpointText(signer.Name(), c.Size, tlog.LeafHash([]byte("nothing happened")))}, signer)
	if err != nil {
		return err
	}
	res, err := http.Post(w.witness.url+tlog.AddCheckpointPath, "application/octet-stream", bytes.NewReader(tlog.AddCheckpoint{Old: c.Size, Checkpoint: fork}.Encode()))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusConflict {
		return fmt.Errorf("the witness should refuse a second history with 409, got %s", res.Status)
	}
	w.attack("somebody with the server's log key asks for a cosignature on another history", "the witness, which keeps it as proof", "409 Conflict")
	return nil
}

// cosigned is the newest checkpoint that the witness vouches for.
func (w *world) cosigned(ctx context.Context) (tlog.Checkpoint, error) {
	origin, _, _ := strings.Cut(w.witness.logKey, "+")
	code, raw, err := httpGet(ctx, nil, w.witness.url+"/checkpoint?origin="+origin)
	if err != nil || code != http.StatusOK {
		return tlog.Checkpoint{}, fmt.Errorf("the witness answers %d: %w", code, err)
	}
	return tlog.OpenLogCheckpoint(raw, w.witness.logKey)
}

func (w *world) stolenLogKey() (note.Signer, error) {
	b, err := os.ReadFile(w.path("cordon-data", "keys", "log.pem"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("the log key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the log key is a %T", key)
	}
	name, rest, _ := strings.Cut(w.witness.logKey, "+")
	hash, _, _ := strings.Cut(rest, "+")
	return note.NewSigner("PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...)))
}
