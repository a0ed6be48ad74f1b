package tufrepo_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
)

func TestPayloadsAreDeterministicAndUnsigned(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	for name, encode := range map[string]func() ([]byte, error){
		"root":    func() ([]byte, error) { return tufrepo.RootPayload(r.rootSpec(1)) },
		"targets": func() ([]byte, error) { return tufrepo.TargetsPayload(r.targetsSpec(1)) },
	} {
		first := must(encode())(t)
		for range 20 {
			if again := must(encode())(t); !bytes.Equal(first, again) {
				t.Fatalf("%s: the same spec gave other bytes", name)
			}
		}
		if ids := must(tufrepo.Signers(first))(t); len(ids) != 0 || !bytes.Contains(first, []byte(`"signatures":[]`)) {
			t.Fatalf("%s is not unsigned: %v", name, ids)
		}
	}
}

func TestPayloadsParseBackToTheirSpecs(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	root := must(tufrepo.ParseRoot(r.rootDoc(t, 3)))(t)
	if diff := cmp.Diff(must(tufrepo.RootPayload(root))(t), must(tufrepo.RootPayload(r.rootSpec(3)))(t)); diff != "" {
		t.Fatal(diff)
	}
	targets := must(tufrepo.ParseTargets(r.release(t, 3).targets))(t)
	if diff := cmp.Diff(must(tufrepo.TargetsPayload(targets))(t), must(tufrepo.TargetsPayload(r.targetsSpec(3)))(t)); diff != "" {
		t.Fatal(diff)
	}
	h := must(tufrepo.HeaderOf(r.rootDoc(t, 3)))(t)
	if h.Type != "root" || h.Version != 3 || !h.Expires.Equal(now.AddDate(1, 0, 0)) {
		t.Fatalf("header %+v", h)
	}
}

// What holders sign is what go-tuf calls the canonical form.
func TestCanonicalFormIsGoTUFs(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	doc := r.release(t, 1).products["gw"]
	md := must(metadata.Targets().FromBytes(doc))(t)
	targets := must(metadata.Targets().FromBytes(r.release(t, 1).targets))(t)
	if err := targets.VerifyDelegate("gw", md); err != nil {
		t.Fatal(err)
	}
}

func TestAddSignatureVerifiesAndReplaces(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	doc := must(tufrepo.RootPayload(r.rootSpec(1)))(t)
	for _, key := range r.root {
		once := holderSign(t, doc, key)
		twice := holderSign(t, once, key)
		id := must(tufrepo.KeyID(key.Public()))(t)
		if got := must(tufrepo.Signers(twice))(t); len(got) != 1 || got[0] != id {
			t.Fatalf("signers %v, want only %s", got, id)
		}
		_, err := tufrepo.AddSignature(doc, key.Public(), []byte("forged"))
		wantErr(t, err, tufrepo.ErrSignature)
	}
	other := must(tufrepo.RootPayload(r.rootSpec(2)))(t)
	sig := ed25519.Sign(r.root[0].(ed25519.PrivateKey), must(tufrepo.PayloadBytes(other))(t))
	_, err := tufrepo.AddSignature(doc, r.root[0].Public(), sig)
	wantErr(t, err, tufrepo.ErrSignature)
	a, b := holderSign(t, doc, r.root[0], r.root[1]), holderSign(t, doc, r.root[1])
	if len(must(tufrepo.Signers(a))(t)) != 2 || len(must(tufrepo.Signers(b))(t)) != 1 {
		t.Fatal("signatures were lost")
	}
}

func TestEncodersRefuseWhatVerifiersRefuse(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	root := map[string]func(*tufrepo.RootSpec){
		"version 0":   func(s *tufrepo.RootSpec) { s.Version = 0 },
		"no expiry":   func(s *tufrepo.RootSpec) { s.Expires = time.Time{} },
		"threshold 0": func(s *tufrepo.RootSpec) { s.Threshold["targets"] = 0 },
		"threshold 3": func(s *tufrepo.RootSpec) { s.Threshold["root"] = 3 },
		"role gone":   func(s *tufrepo.RootSpec) { delete(s.Keys, "targets") },
		"other role":  func(s *tufrepo.RootSpec) { s.Keys["mirrors"] = nil },
		"key twice":   func(s *tufrepo.RootSpec) { s.Keys["root"] = publics(r.root[0], r.root[0]) },
	}
	for name, change := range root {
		spec := r.rootSpec(1)
		change(&spec)
		if _, err := tufrepo.RootPayload(spec); !errors.Is(err, tufrepo.ErrSpec) {
			t.Errorf("root, %s: got %v, want ErrSpec", name, err)
		}
	}
	targets := map[string]func(*tufrepo.TargetsSpec){
		"firmware":     func(s *tufrepo.TargetsSpec) { s.Files["gw/1.0/rootfs"] = file("x") },
		"reserved":     func(s *tufrepo.TargetsSpec) { s.Products["policy"] = s.Products["gw"] },
		"no keys":      func(s *tufrepo.TargetsSpec) { s.Products["gw"] = tufrepo.Delegation{Threshold: 1} },
		"no digest":    func(s *tufrepo.TargetsSpec) { s.Files["policy/gw.json"] = tufrepo.File{Length: 1} },
		"custom array": func(s *tufrepo.TargetsSpec) { s.Files["policy/gw.json"] = custom(`[]`) },
		"custom float": func(s *tufrepo.TargetsSpec) { s.Files["policy/gw.json"] = custom(`{"a":1.5}`) },
		"custom twice": func(s *tufrepo.TargetsSpec) { s.Files["policy/gw.json"] = custom(`{"a":1,"a":2}`) },
	}
	for name, change := range targets {
		spec := r.targetsSpec(1)
		change(&spec)
		if _, err := tufrepo.TargetsPayload(spec); !errors.Is(err, tufrepo.ErrSpec) && !errors.Is(err, tufrepo.ErrMalformed) {
			t.Errorf("targets, %s: got %v, want ErrSpec or ErrMalformed", name, err)
		}
	}
	if _, err := tufrepo.SignSnapshot(1, now, nil, r.snapshot); !errors.Is(err, tufrepo.ErrSpec) {
		t.Errorf("snapshot without targets: got %v, want ErrSpec", err)
	}
	if _, err := tufrepo.SignTimestamp(1, now, tufrepo.Doc{Version: 1}, [32]byte{}, r.timestamp); !errors.Is(err, tufrepo.ErrSpec) {
		t.Errorf("timestamp without digest: got %v, want ErrSpec", err)
	}
	if _, err := tufrepo.SignDirector(directorSpec(1, "../device"), r.timestamp); !errors.Is(err, tufrepo.ErrSpec) {
		t.Errorf("director for a path: got %v, want ErrSpec", err)
	}
}

func custom(s string) tufrepo.File {
	f := file("x")
	f.Custom = jsontext.Value(s)
	return f
}

func TestTimestampCarriesItsNonce(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	doc := must(tufrepo.SignTimestamp(1, now, tufrepo.DocOf(1, []byte("x")), [32]byte{0xab, 31: 1}, r.timestamp))(t)
	var env struct {
		Signed map[string]any `json:"signed"`
	}
	if err := json.Unmarshal(doc, &env); err != nil {
		t.Fatal(err)
	}
	if got, want := env.Signed["x-cordon-nonce"], "ab"+strings.Repeat("00", 30)+"01"; got != want {
		t.Fatalf("nonce %v, want %v", got, want)
	}
}

// countingSigner counts signatures: each document is signed exactly once.
type countingSigner struct {
	crypto.Signer
	count *int
}

func (c countingSigner) Sign(r io.Reader, b []byte, o crypto.SignerOpts) ([]byte, error) {
	*c.count++
	return c.Signer.Sign(r, b, o)
}

func TestDirectorSignsThreeTimes(t *testing.T) {
	t.Parallel()
	var count int
	if _, err := tufrepo.SignDirector(directorSpec(1, device), countingSigner{edKey(t), &count}); err != nil {
		t.Fatal(err)
	}
	if count != 3 {
		t.Fatalf("%d signatures, want 3", count)
	}
}

// No exported function of this package signs root or top-level targets: those with a crypto.Signer are a closed list.
func TestOnlyOnlineRolesCanBeSigned(t *testing.T) {
	t.Parallel()
	online := []string{"SignDirector", "SignProduct", "SignSnapshot", "SignTimestamp"}
	var got []string
	for _, entry := range must(os.ReadDir("."))(t) {
		if strings.HasSuffix(entry.Name(), "_test.go") || !strings.HasSuffix(entry.Name(), ".go") {
			continue
		}
		f := must(parser.ParseFile(token.NewFileSet(), entry.Name(), nil, 0))(t)
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Name.IsExported() && takesSigner(fn) {
				got = append(got, fn.Name.Name)
			}
		}
	}
	if diff := cmp.Diff(online, sorted(got)); diff != "" {
		t.Fatal(diff)
	}
	r := newRepo(t)
	if _, err := tufrepo.SignProduct(tufrepo.ProductSpec{Product: "targets", Version: 1, Expires: now}, r.targets); err == nil {
		t.Fatal("a product named targets was signed")
	}
}

func takesSigner(fn *ast.FuncDecl) bool {
	for _, p := range fn.Type.Params.List {
		if sel, ok := p.Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Signer" {
			return true
		}
	}
	return false
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
