package tlog_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	cosign "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
)

const origin = "ota.example/log"

// keys are a log and its witnesses, with the policy that names them.
type keys struct {
	log       note.Signer
	witnesses []note.Signer
	policy    tlog.Policy
}

// newKey makes the same key for the same seed in every process, so that kept fuzz inputs stay meaningful.
func newKey(t testing.TB, name, seed string) (secret, vkey string) {
	t.Helper()
	sum := sha256.Sum256([]byte(name + seed))
	secret, vkey, err := note.GenerateKey(bytes.NewReader(sum[:]), name)
	if err != nil {
		t.Fatal(err)
	}
	return secret, vkey
}

func newKeys(t testing.TB, seed string, witnesses, quorum int) keys {
	t.Helper()
	secret, vkey := newKey(t, origin, seed)
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	k := keys{log: signer, policy: tlog.Policy{Version: 1, Origin: origin, LogKey: vkey, Witnesses: []tlog.Witness{}, Quorum: quorum}}
	for i := range witnesses {
		s, vkey := newWitness(t, fmt.Sprintf("w%d.example", i), seed)
		k.witnesses = append(k.witnesses, s)
		k.policy.Witnesses = append(k.policy.Witnesses, tlog.Witness{Name: fmt.Sprintf("w%d", i), Key: vkey, URL: fmt.Sprintf("https://w%d.example", i)})
	}
	return k
}

func newWitness(t testing.TB, name, seed string) (note.Signer, string) {
	t.Helper()
	secret, vkey := newKey(t, name, seed)
	signer, err := cosign.NewSignerForCosignatureV1(secret)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err = cosign.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	return signer, vkey
}

func sign(t testing.TB, text string, signers ...note.Signer) []byte {
	t.Helper()
	b, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpensAWitnessedCheckpoint(t *testing.T) {
	t.Parallel()
	k, tr := newKeys(t, "", 3, 2), newTree(t, 5)
	raw := sign(t, tlog.CheckpointText(origin, 5, tr.roots[5]), k.log, k.witnesses[2], k.witnesses[0])
	before := time.Now().Add(-time.Minute)
	c, err := tlog.OpenCheckpoint(raw, k.policy)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, w := range c.Witnesses {
		names = append(names, w.Name)
		if w.Time.Before(before) {
			t.Errorf("witness %s cosigned at %v", w.Name, w.Time)
		}
	}
	if diff := cmp.Diff([]string{"w0", "w2"}, names); diff != "" {
		t.Error(diff)
	}
	if c.Size != 5 || c.Root != tr.roots[5] || !bytes.Equal(c.Raw, raw) {
		t.Errorf("got %+v", c)
	}
	if c, err := tlog.OpenLogCheckpoint(raw, k.policy.LogKey); err != nil || c.Size != 5 {
		t.Errorf("by the log key alone: %+v, %v", c, err)
	}
}

func TestTooFewWitnessesIsToldApart(t *testing.T) {
	t.Parallel()
	k, tr := newKeys(t, "", 3, 2), newTree(t, 5)
	text := tlog.CheckpointText(origin, 5, tr.roots[5])
	stranger, _ := newWitness(t, "w1.example", "stranger")
	other := sign(t, tlog.CheckpointText(origin, 4, tr.roots[4]), k.witnesses[1]) // for another state
	alien := other[bytes.LastIndex(other, []byte("\n\n"))+2:]
	for name, raw := range map[string][]byte{
		"one witness":              sign(t, text, k.log, k.witnesses[0]),
		"one witness twice":        append(sign(t, text, k.log, k.witnesses[0]), lastLine(sign(t, text, k.witnesses[0]))...),
		"a stranger":               sign(t, text, k.log, k.witnesses[0], stranger),
		"a cosignature of another": append(sign(t, text, k.log, k.witnesses[0]), alien...),
	} {
		c, err := tlog.OpenCheckpoint(raw, k.policy)
		if !errors.Is(err, tlog.ErrUnwitnessed) {
			t.Errorf("%s: got %v, want ErrUnwitnessed", name, err)
		}
		if c.Size != 5 || len(c.Witnesses) != 1 {
			t.Errorf("%s: checkpoint is %+v", name, c)
		}
	}
}

func lastLine(b []byte) []byte {
	return b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]
}

func TestRefusesCheckpointsThatTheLogDidNotSign(t *testing.T) {
	t.Parallel()
	k, tr := newKeys(t, "", 1, 1), newTree(t, 5)
	text := tlog.CheckpointText(origin, 5, tr.roots[5])
	thief := newKeys(t, "thief", 0, 0)
	good := sign(t, text, k.log, k.witnesses[0])
	for name, raw := range map[string][]byte{
		"another log key":  sign(t, text, thief.log, k.witnesses[0]),
		"witness only":     sign(t, text, k.witnesses[0]),
		"changed size":     bytes.Replace(good, []byte("\n5\n"), []byte("\n6\n"), 1),
		"another origin":   sign(t, tlog.CheckpointText("ota.example/other", 5, tr.roots[5]), k.log, k.witnesses[0]),
		"an extension":     sign(t, text+"more\n", k.log, k.witnesses[0]),
		"zeros before":     sign(t, strings.Replace(text, "\n5\n", "\n05\n", 1), k.log, k.witnesses[0]),
		"root too short":   sign(t, origin+"\n5\nAAAA\n", k.log, k.witnesses[0]),
		"too large":        sign(t, tlog.CheckpointText(origin, 1<<60, tr.roots[5]), k.log, k.witnesses[0]),
		"empty with roots": sign(t, tlog.CheckpointText(origin, 0, tr.roots[5]), k.log, k.witnesses[0]),
		"no note":          []byte(text),
		"nothing":          nil,
		"too long":         append(bytes.Clone(good), bytes.Repeat([]byte("\n"), tlog.MaxCheckpointBytes)...),
	} {
		if _, err := tlog.OpenCheckpoint(raw, k.policy); !errors.Is(err, tlog.ErrCheckpoint) {
			t.Errorf("%s: got %v, want ErrCheckpoint", name, err)
		}
	}
	if _, err := tlog.OpenCheckpoint(good, tlog.Policy{}); !errors.Is(err, tlog.ErrPolicy) {
		t.Errorf("empty policy: got %v, want ErrPolicy", err)
	}
}

func TestPolicyRefusesWhatWouldCountTwice(t *testing.T) {
	t.Parallel()
	k := newKeys(t, "", 2, 2)
	sameKey := k.policy.Witnesses[0]
	sameKey.Name = "w9"
	asWitness, err := cosign.VKeyToCosignatureV1(k.policy.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tlog.Policy){
		"version":             func(p *tlog.Policy) { p.Version = 2 },
		"origin":              func(p *tlog.Policy) { p.Origin = "a b" },
		"origin of another":   func(p *tlog.Policy) { p.Origin = "ota.example/other" },
		"no log key":          func(p *tlog.Policy) { p.LogKey = "" },
		"witness key for log": func(p *tlog.Policy) { p.LogKey = p.Witnesses[0].Key },
		"log key for witness": func(p *tlog.Policy) { p.Witnesses[0].Key = p.LogKey },
		"log is a witness":    func(p *tlog.Policy) { p.Witnesses[0].Key = asWitness },
		"quorum too large":    func(p *tlog.Policy) { p.Quorum = 3 },
		"quorum negative":     func(p *tlog.Policy) { p.Quorum = -1 },
		"witnesses missing":   func(p *tlog.Policy) { p.Witnesses, p.Quorum = nil, 0 },
		"one key twice":       func(p *tlog.Policy) { p.Witnesses[1] = sameKey },
		"one name twice":      func(p *tlog.Policy) { p.Witnesses[1].Name = "w0" },
		"bad name":            func(p *tlog.Policy) { p.Witnesses[0].Name = "A B" },
		"no url":              func(p *tlog.Policy) { p.Witnesses[0].URL = "" },
		"url with user":       func(p *tlog.Policy) { p.Witnesses[0].URL = "https://u:p@w.example" },
		"url of a file":       func(p *tlog.Policy) { p.Witnesses[0].URL = "file:///etc" },
		"key hash wrong":      func(p *tlog.Policy) { p.Witnesses[0].Key = strings.Replace(p.Witnesses[0].Key, "+", "+00000000+", 1) },
		"too many":            func(p *tlog.Policy) { p.Witnesses = make([]tlog.Witness, tlog.MaxWitnesses+1) },
	} {
		p := k.policy
		p.Witnesses = append([]tlog.Witness{}, p.Witnesses...)
		change(&p)
		if err := p.Validate(); !errors.Is(err, tlog.ErrPolicy) {
			t.Errorf("%s: got %v, want ErrPolicy", name, err)
		}
	}
}

// The hash in a verifier key is part of it: formats/note would accept any.
func TestRefusesAWitnessKeyWithAnotherHash(t *testing.T) {
	t.Parallel()
	_, vkey := newWitness(t, "w.example", "")
	parts := strings.SplitN(vkey, "+", 3)
	if _, err := tlog.WitnessVerifier(parts[0] + "+01234567+" + parts[2]); !errors.Is(err, tlog.ErrKey) {
		t.Errorf("got %v, want ErrKey", err)
	}
	if _, err := tlog.WitnessVerifier(vkey); err != nil {
		t.Error(err)
	}
}

func TestPolicyKeepsItsBytes(t *testing.T) {
	t.Parallel()
	k := newKeys(t, "", 2, 1)
	b, err := k.policy.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := tlog.DecodePolicy(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(k.policy, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string][]byte{
		"unknown member": bytes.Replace(b, []byte(`{`), []byte(`{"x":1,`), 1),
		"twice":          bytes.Replace(b, []byte(`{`), []byte(`{"version":1,`), 1),
		"trailing":       append(bytes.Clone(b), '1'),
		"too long":       append(bytes.Clone(b), bytes.Repeat([]byte(" "), tlog.MaxPolicyBytes)...),
	} {
		if _, err := tlog.DecodePolicy(bad); !errors.Is(err, tlog.ErrPolicy) {
			t.Errorf("%s: got %v, want ErrPolicy", name, err)
		}
	}
}

func FuzzDecodePolicy(f *testing.F) {
	b, err := newKeys(f, "", 2, 1).policy.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"origin":"x","log_key":"","witnesses":[],"quorum":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := tlog.DecodePolicy(b)
		if err != nil {
			if !errors.Is(err, tlog.ErrPolicy) {
				t.Fatalf("got %v, want ErrPolicy", err)
			}
			return
		}
		if _, err := p.Encode(); err != nil {
			t.Fatalf("decoded but cannot be encoded: %v", err)
		}
	})
}

// FuzzOpenCheckpoint: only the bytes that the log signed are ever opened, whatever stands around them.
func FuzzOpenCheckpoint(f *testing.F) {
	k, tr := newKeys(f, "", 2, 1), newTree(f, 5)
	f.Add(sign(f, tlog.CheckpointText(origin, 5, tr.roots[5]), k.log, k.witnesses[0]))
	f.Add([]byte(tlog.CheckpointText(origin, 5, tr.roots[5]) + "\n— " + origin + " AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := tlog.OpenCheckpoint(raw, k.policy)
		switch {
		case err == nil || errors.Is(err, tlog.ErrUnwitnessed):
			if c.Size != 5 || c.Root != tr.roots[5] {
				t.Fatalf("opened %d %s", c.Size, c.Root)
			}
		case !errors.Is(err, tlog.ErrCheckpoint):
			t.Fatalf("got %v, want ErrCheckpoint", err)
		}
	})
}

func FuzzDecodeAddCheckpoint(f *testing.F) {
	k, tr := newKeys(f, "", 0, 0), newTree(f, 5)
	hashes, err := tlog.ProveConsistency(f.Context(), 3, 5, tr.at(5))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tlog.AddCheckpoint{Old: 3, Proof: hashes, Checkpoint: sign(f, tlog.CheckpointText(origin, 5, tr.roots[5]), k.log)}.Encode())
	f.Add([]byte("old 0\n\nx"))
	f.Add([]byte("old 01\n\nx"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := tlog.DecodeAddCheckpoint(b)
		if err != nil {
			if !errors.Is(err, tlog.ErrRequest) {
				t.Fatalf("got %v, want ErrRequest", err)
			}
			return
		}
		if !bytes.Equal(r.Encode(), b) {
			t.Fatalf("%q is written as %q", b, r.Encode())
		}
	})
}
