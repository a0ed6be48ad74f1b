package tilelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
)

const (
	witnessTimeout = 5 * time.Second
	maxWitnessBody = 16 << 10
	firstRetry     = 2 * time.Second // after a failure, doubled with each further one
	lastRetry      = 5 * time.Minute
	recosign       = 10 * time.Minute // a log that stands still gets a fresh cosignature this often
)

// errRefused says that a witness has seen another history of this log. Asking again would not change that.
var errRefused = errors.New("the witness has seen another history of this log")

// witness is one witness of the policy and what it has answered. Only the worker's goroutine touches it; during a round
// one goroutine per witness.
type witness struct {
	tlog.Witness
	verifier note.Verifier

	asked   bool   // known is the witness's own word
	known   uint64 // the size that it cosigned last
	size    uint64 // of the checkpoint that line belongs to
	line    []byte // its cosignature, one line
	at      time.Time
	refused error // errRefused: it is not asked again

	failures int
	next     time.Time
	trouble  string // the last failure, so that each is logged once
}

func newWitness(w tlog.Witness) (*witness, error) {
	v, err := tlog.WitnessVerifier(w.Key)
	if err != nil {
		return nil, err
	}
	return &witness{Witness: w, verifier: v}, nil
}

// due reports whether the witness should see a checkpoint of that size now.
func (w *witness) due(size uint64, now time.Time) bool {
	if w.refused != nil || now.Before(w.next) {
		return false
	}
	return w.line == nil || w.size != size || !now.Before(w.at.Add(recosign))
}

// ask shows the checkpoint to the witness and keeps its cosignature. Each failure makes the next try later; errRefused is
// for good.
func (w *witness) ask(ctx context.Context, client *http.Client, cp tlog.Checkpoint, nodes func() tlog.NodeReader, now time.Time) error {
	err := w.submit(ctx, client, cp, nodes)
	switch {
	case err == nil:
		w.failures, w.next, w.trouble, w.at = 0, time.Time{}, "", now
	case errors.Is(err, errRefused):
		w.refused = err
	default:
		wait := firstRetry << min(w.failures, 20)
		w.failures, w.next = w.failures+1, now.Add(min(wait, lastRetry))
	}
	return err
}

// submit asks at most three times: a witness that says which size it has is asked again from there.
func (w *witness) submit(ctx context.Context, client *http.Client, cp tlog.Checkpoint, nodes func() tlog.NodeReader) error {
	if !w.asked {
		w.known = cp.Size
	}
	for range 3 {
		proof, err := tlog.ProveConsistency(ctx, w.known, cp.Size, nodes())
		if err != nil {
			return err
		}
		body := tlog.AddCheckpoint{Old: w.known, Proof: proof, Checkpoint: cp.Raw}.Encode()
		status, answer, err := w.post(ctx, client, body)
		if err != nil {
			return err
		}
		switch status {
		case http.StatusOK:
			return w.keep(cp, answer)
		case http.StatusConflict:
			size, err := parseSize(answer)
			if w.known == cp.Size && (err != nil || size == cp.Size) {
				// It was not the size that it refused: C2SP tlog-witness leaves only another root.
				return fmt.Errorf("%w: another tree of size %d", errRefused, cp.Size)
			}
			if err != nil {
				return err
			}
			if size > cp.Size {
				return fmt.Errorf("%w: it cosigned size %d, this is size %d", errRefused, size, cp.Size)
			}
			if w.asked && size < w.known {
				return fmt.Errorf("the witness went back from size %d to %d", w.known, size)
			}
			w.asked, w.known = true, size
		case http.StatusUnprocessableEntity:
			return fmt.Errorf("%w: size %d does not extend size %d", errRefused, cp.Size, w.known)
		default:
			return fmt.Errorf("the witness answered %d: %.200q", status, answer)
		}
	}
	return errors.New("the witness did not settle on a size")
}

func (w *witness) post(ctx context.Context, client *http.Client, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+tlog.AddCheckpointPath, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxWitnessBody))
	return res.StatusCode, answer, err
}

// keep takes over the one cosignature of this witness that verifies; whatever else it sent is dropped.
func (w *witness) keep(cp tlog.Checkpoint, answer []byte) error {
	line, err := cosignature(cp.Raw, answer, w.verifier)
	if err != nil {
		return err
	}
	w.asked, w.known, w.size, w.line = true, cp.Size, cp.Size, line
	return nil
}

// cosignature finds the verifier's signature line in a witness's answer.
func cosignature(checkpoint, answer []byte, v note.Verifier) ([]byte, error) {
	text, _, ok := bytes.Cut(checkpoint, []byte("\n\n"))
	if !ok {
		return nil, errors.New("the checkpoint has no signature")
	}
	n, err := note.Open(bytes.Join([][]byte{text, answer}, []byte("\n\n")), note.VerifierList(v))
	if err != nil {
		return nil, fmt.Errorf("the witness's answer is no cosignature of this checkpoint: %w", err)
	}
	return fmt.Appendf(nil, "— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64), nil
}

// parseSize reads the body of a 409 answer.
func parseSize(b []byte) (uint64, error) {
	text := strings.TrimSuffix(string(b), "\n")
	size, err := strconv.ParseUint(text, 10, 64)
	if err != nil || size > tlog.MaxSize || strconv.FormatUint(size, 10) != text {
		return 0, fmt.Errorf("the witness answered 409 without its size: %.80q", b)
	}
	return size, nil
}
