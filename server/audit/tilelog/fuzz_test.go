package tilelog_test

import (
	"bytes"
	"strconv"
	"testing"

	"github.com/go-json-experiment/json"
	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
)

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"size":300,"root":"` + digest.Of(nil).String() + `"}`))
	f.Add([]byte(`{"size":18446744073709551615,"root":""}`))
	f.Add([]byte(`{"size":1,"size":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := tilelog.DecodeState(b)
		if err != nil {
			return
		}
		again, err := tilelog.DecodeState(must(json.Marshal(s, json.Deterministic(true))))
		if err != nil || again != s || s.Size > tlog.MaxSize {
			t.Errorf("%q: read as %+v, and again as %+v, %v", b, s, again, err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"0\n", "12", "007\n", "-1", "9007199254740992\n", "1\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := tilelog.ParseSize(b)
		if err == nil && strconv.FormatUint(n, 10) != string(bytes.TrimSuffix(b, []byte("\n"))) {
			t.Errorf("%q was read as %d", b, n)
		}
	})
}

// Whatever a witness answers, what is kept of it is one line that its key made for this checkpoint.
func FuzzCosignature(f *testing.F) {
	secret, public, err := note.GenerateKey(nil, "witness.example")
	if err != nil {
		f.Fatal(err)
	}
	signer := must(cosign.NewSignerForCosignatureV1(secret))
	verifier := must(tlog.WitnessVerifier(must(cosign.VKeyToCosignatureV1(public))))
	text := tlog.CheckpointText(origin, 5, digest.Of([]byte("root")))
	signed := must(note.Sign(&note.Note{Text: text}, signer))
	_, line, _ := bytes.Cut(signed, []byte("\n\n"))
	f.Add(line)
	f.Add(append(bytes.Clone(line), line...))
	f.Add([]byte("\n\n" + string(line)))
	f.Add([]byte("— other.example AAAAAAAA\n" + string(line)))
	f.Add([]byte{})
	raw := append([]byte(text), []byte("\n— log.example AAAAAAAA\n")...)
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, err := tilelog.Cosignature(raw, answer, verifier)
		if err != nil {
			return
		}
		n, err := note.Open(append(bytes.Clone(raw), got...), note.VerifierList(verifier))
		if err != nil || len(n.Sigs) != 1 || n.Text != text || bytes.Count(got, []byte("\n")) != 1 {
			t.Errorf("%q: kept %q: %v", answer, got, err)
		}
	})
}
