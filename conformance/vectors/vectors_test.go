package vectors_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

var update = flag.Bool("update", false, "rewrite the vectors and their page")

const (
	folder   = "negative"
	pagePath = "../docs/negative-cases.md"
	maxBytes = 4 << 20 // of all vector files together
)

var notPlain = regexp.MustCompile(`[^a-z0-9]+`)

// nameOf is the name of a case's vector.
func nameOf(c evidencetest.Case) string {
	return c.ID + "-" + strings.Trim(notPlain.ReplaceAllString(strings.ToLower(c.Name), "-"), "-")
}

// vector makes the question of a case with the answer that the case demands.
func vector(t testing.TB, c evidencetest.Case) vectors.Vector {
	t.Helper()
	name := nameOf(c)
	v := vectors.Vector{
		Format: vectors.Format, Case: c.ID, About: c.About, Stage: string(c.Stage), Note: c.Note, MaxAlloc: vectors.MaxAlloc,
		Question: vectors.Question{Name: name},
		Answer:   vectors.Answer{Name: name, Outcome: string(c.Outcome()), Reasons: c.Reasons},
	}
	if c.Stage == evidencetest.StageDocument {
		v.Question.Document = c.Bytes()
		return v
	}
	in := c.Input()
	v.Question.Input, v.Question.Log = &in, in.Log
	_, verdict, err := vectors.Ask(v.Question)
	if err != nil {
		t.Fatal(err)
	}
	v.Verdict = verdict
	return v
}

// The files are what the cases make, byte for byte, and small enough to live in the repository.
func TestVectorsAreCurrent(t *testing.T) {
	t.Parallel()
	var all []vectors.Vector
	for _, c := range evidencetest.Cases() {
		if c.Large {
			continue
		}
		all = append(all, vector(t, c))
	}
	compareFolder(t, folder, all)
}

func compareFolder(t *testing.T, folder string, all []vectors.Vector) {
	t.Helper()
	want := map[string][]byte{}
	total := 0
	for _, v := range all {
		b, err := v.Encode()
		if err != nil {
			t.Fatal(err)
		}
		name := v.Question.Name + ".json"
		if want[name] != nil {
			t.Errorf("two cases are called %s", name)
		}
		want[name], total = b, total+len(b)
	}
	if total > maxBytes {
		t.Errorf("the vectors have %d bytes, at most %d", total, maxBytes)
	}
	have, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range have {
		if _, ok := want[filepath.Base(path)]; ok {
			continue
		}
		if !*update {
			t.Errorf("%s belongs to no case; run: go test ./conformance/vectors -update", path)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range want {
		path := filepath.Join(folder, name)
		if *update {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s is not current (%v); run: go test ./conformance/vectors -update", path, err)
		}
	}
}

// The files alone, as anybody else would use them: the right answer, the same verdict to the byte, in bounded memory.
// Not parallel: what others allocate would count.
func TestOurVerifierAnswersEveryVector(t *testing.T) {
	for _, v := range load(t) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, verdict, err := vectors.Ask(v.Question)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		if how := v.Judge(got); how != vectors.Right || !slices.Equal(got.Reasons, v.Answer.Reasons) {
			t.Errorf("%s: %s: got %s %v, want %s %v", v.Question.Name, how, got.Outcome, got.Reasons, v.Answer.Outcome, v.Answer.Reasons)
		}
		if !bytes.Equal(compact(t, verdict), compact(t, v.Verdict)) {
			t.Errorf("%s: another verdict than the file's:\n%s\n%s", v.Question.Name, verdict, v.Verdict)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(v.MaxAlloc) {
			t.Errorf("%s: allocated %d bytes, at most %d", v.Question.Name, n, v.MaxAlloc)
		}
	}
}

func TestLargeCasesStayInBounds(t *testing.T) {
	for _, c := range evidencetest.Cases() {
		if !c.Large {
			continue
		}
		v := vector(t, c)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, _, err := vectors.Ask(v.Question)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		if v.Judge(got) != vectors.Right {
			t.Errorf("%s: got %s %v", v.Question.Name, got.Outcome, got.Reasons)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(v.MaxAlloc) {
			t.Errorf("%s: allocated %d bytes, at most %d", v.Question.Name, n, v.MaxAlloc)
		}
	}
}

// ids are all numbers that the specification of the suite has, up to N146.
func ids() []string {
	var out []string
	for _, span := range [][2]int{{1, 16}, {20, 33}, {40, 51}, {60, 72}, {80, 88}, {100, 119}, {130, 146}} {
		for n := span[0]; n <= span[1]; n++ {
			out = append(out, fmt.Sprintf("N%02d", n))
		}
	}
	return out
}

// Every number is held by a vector or by a test of another layer, or it is listed as held by nothing.
func TestEveryNumberIsHeld(t *testing.T) {
	t.Parallel()
	held := map[string]bool{}
	for _, c := range evidencetest.Cases() {
		held[c.ID] = true
	}
	for _, c := range evidencetest.IdentityCases() {
		held[c.ID] = true
	}
	for _, p := range vectors.Elsewhere() {
		held[p.Case] = true
	}
	for _, m := range vectors.NotHeld() {
		if held[m.Case] {
			t.Errorf("%s is held and listed as not held", m.Case)
		}
		held[m.Case] = true
	}
	known := ids()
	for _, id := range known {
		if !held[id] {
			t.Errorf("nothing holds %s", id)
		}
	}
	for id := range held {
		if !slices.Contains(known, id) && !strings.HasPrefix(id, "P") {
			t.Errorf("%s is no number of the specification", id)
		}
	}
}

func TestPointersLeadToTests(t *testing.T) {
	t.Parallel()
	for _, p := range vectors.Elsewhere() {
		for _, test := range p.Tests {
			dir, name, _ := strings.Cut(test, " ")
			files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(dir), "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(files, func(path string) bool {
				b, err := os.ReadFile(path)
				return err == nil && bytes.Contains(b, []byte("\nfunc "+name+"(t *testing.T)"))
			}) {
				t.Errorf("%s: there is no %s in %s", p.Case, name, dir)
			}
		}
	}
}

// Every reason that an appraisal can give is triggered by a vector.
func TestEveryReasonOfAnAppraisalHasAVector(t *testing.T) {
	t.Parallel()
	seen := map[reason.Reason]bool{}
	for _, c := range evidencetest.Cases() {
		for _, r := range c.Reasons {
			seen[r] = true
		}
	}
	for _, c := range evidencetest.IdentityCases() {
		for _, r := range c.Reasons {
			seen[r] = true
		}
	}
	sources, err := filepath.Glob("../../attestation/*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`reason\.([A-Z][A-Za-z]+)`)
	names := map[string]reason.Reason{}
	for _, row := range reason.All() {
		names[strings.ReplaceAll(string(row.Reason), "_", "")] = row.Reason
	}
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range used.FindAllSubmatch(b, -1) {
			if r, ok := names[strings.ToLower(string(m[1]))]; ok && !seen[r] {
				t.Errorf("%s uses %s, which no vector triggers", path, r)
			}
		}
	}
}

func TestRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	good, err := vector(t, evidencetest.Cases()[20]).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "other format": bytes.Replace(good, []byte(`"format": 1`), []byte(`"format": 2`), 1),
		"unknown member": bytes.Replace(good, []byte(`{`), []byte(`{"x": 1,`), 1), "bytes after it": append(bytes.Clone(good), "{}"...),
	} {
		if _, err := vectors.Decode(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Vectors come from anybody who wants to show something: reading and answering one ends well, whatever it holds.
func FuzzAsk(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(folder, "N10[0-5]*.json"))
	if err != nil {
		f.Fatal(err)
	}
	about, err := filepath.Glob(filepath.Join(identityFolder, "*o*.json"))
	if err != nil {
		f.Fatal(err)
	}
	files = append(files, about...)
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := vectors.Decode(b)
		if err != nil {
			return
		}
		evidencetest.Bounded(t, len(b), func() { _, _, _ = vectors.Ask(v.Question) })
		a, _, err := vectors.Ask(v.Question)
		if err == nil && v.Judge(a) == "" {
			t.Error("no judgement")
		}
	})
}
