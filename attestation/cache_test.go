package attestation_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
)

func standard(t testing.TB, in attestation.Input) *attestation.Standard {
	t.Helper()
	s, err := attestation.NewStandard(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// through asks a cache and says whether it had to judge the state, or knew it, or did not get that far.
func through(t testing.TB, c *attestation.Cache, in attestation.Input) (said string, outcome attestation.Outcome, hit, missed bool) {
	t.Helper()
	s, before := standard(t, in), c.Counts()
	said, outcome = result(func(in attestation.Input) (attestation.Verdict, error) { return c.Appraise(s, in) }, in)
	after := c.Counts()
	return said, outcome, after.Hits > before.Hits, after.Misses > before.Misses
}

// The verdict that a cache gives is the verdict that Appraise gives, byte for byte, whatever was asked before. A log that
// is not there is the one exception: a state that is known does not need it.
func TestCachedVerdictsAreThoseOfAppraise(t *testing.T) {
	t.Parallel()
	type question struct {
		name string
		in   attestation.Input
	}
	var questions []question
	logs := map[digest.SHA256][]byte{}
	ask := func(name string, in attestation.Input) {
		questions = append(questions, question{name, in})
		if in.Log != nil {
			logs[digest.Of(in.Log)] = in.Log
		}
	}
	for _, c := range evidencetest.CasesOf(evidencetest.StageInput, evidencetest.StageAuthentic, evidencetest.StageState, evidencetest.StageAffirmed) {
		ask(title(c), c.Input())
	}
	for _, name := range genuine {
		ask(name, recordedInput(t, name))
	}
	cache, order, hits := attestation.NewCache(1024), rand.New(rand.NewPCG(1, 2)), 0
	for range 3 {
		order.Shuffle(len(questions), func(i, j int) { questions[i], questions[j] = questions[j], questions[i] })
		for _, q := range questions {
			for range 2 {
				got, _, hit, _ := through(t, cache, q.in)
				complete := q.in
				if hit {
					hits++
					complete.Log = logs[q.in.Evidence.LogDigest]
				}
				if want, _ := result(attestation.Appraise, complete); got != want {
					t.Errorf("%s (known: %t):\ngot  %s\nwant %s", q.name, hit, got, want)
				}
			}
		}
	}
	if hits < 60 {
		t.Errorf("only %d states were known", hits)
	}
}

func TestKnownStateNeedsNoLog(t *testing.T) {
	t.Parallel()
	cache, in := attestation.NewCache(8), scenario().Input()
	want, _ := result(attestation.Appraise, in)
	bare := in
	bare.Log = nil
	if got, _, hit, _ := through(t, cache, bare); hit || !strings.Contains(got, string(reason.EventlogMissing)) {
		t.Fatalf("nothing is known, and no log is there: %s", got)
	}
	through(t, cache, in)
	if got, _, hit, _ := through(t, cache, bare); !hit || got != want {
		t.Errorf("known %t: got %s, want %s", hit, got, want)
	}
	other := in
	other.Log = append(slices.Clone(in.Log), 0)
	want, _ = result(attestation.Appraise, other)
	if got, _, _, _ := through(t, cache, other); got != want {
		t.Errorf("another log than the quoted one: got %s, want %s", got, want)
	}
}

// Everything that a state is judged by is part of what it is known by: with one thing changed nothing is known.
func TestEverythingThatCountsIsInTheKey(t *testing.T) {
	t.Parallel()
	type change struct {
		name string
		make func(*evidencetest.Scenario) attestation.Input
	}
	held := func(name string, do func(*attestation.Input)) change {
		return change{name, func(s *evidencetest.Scenario) attestation.Input {
			in := s.Input()
			do(&in)
			return in
		}}
	}
	changes := []change{
		held("secure boot", func(in *attestation.Input) { in.Policy.SecureBoot = true }),
		held("required registers", func(in *attestation.Input) {
			in.Policy.RequiredPCRs = attestation.DefaultRequiredPCRs[1:]
		}),
		held("revoked", func(in *attestation.Input) {
			in.Policy.RevokedBoot = []digest.SHA256{in.Expected[0].Values.PCRs[0].Events[2].Digest}
		}),
		held("expected", func(in *attestation.Input) {
			in.Expected = []attestation.Expectation{{Release: current, Values: evidencetest.Release(next)}}
		}),
		held("expected in another order", func(in *attestation.Input) {
			in.Expected = append([]attestation.Expectation{{Release: next, Values: in.Expected[0].Values}}, in.Expected...)
		}),
		held("recovery", func(in *attestation.Input) { in.Expected = slices.Clone(in.Expected); in.Expected[0].Recovery = true }),
		held("superseded", func(in *attestation.Input) {
			in.Superseded = []attestation.Expectation{{Release: older, Values: evidencetest.Release(older)}}
		}),
		held("superseded instead of expected", func(in *attestation.Input) {
			in.Expected, in.Superseded = []attestation.Expectation{{Release: next, Values: evidencetest.Release(next)}}, in.Expected
		}),
		held("baseline", func(in *attestation.Input) {
			b := *in.Baseline
			b.PCRs = slices.Clone(b.PCRs)
			b.PCRs[1].Value[0] ^= 1
			in.Baseline = &b
		}),
		held("profile", func(in *attestation.Input) { b := *in.Baseline; b.Profile = "other"; in.Baseline = &b }),
		{"log", func(s *evidencetest.Scenario) attestation.Input {
			s.Log.Add(0, eventlog.TypeNoAction, digest.SHA256{}, []byte("a note of no known kind")) // extends nothing: the same registers
			return s.Input()
		}},
		{"one register more", func(s *evidencetest.Scenario) attestation.Input {
			s.Quoted = append(s.Quoted, 14)
			s.Registers[14] = digest.Of([]byte("measured, and in no log"))
			return s.Input()
		}},
	}
	for _, pcr := range attestation.DefaultRequiredPCRs {
		changes = append(changes, change{fmt.Sprintf("PCR %d", pcr), func(s *evidencetest.Scenario) attestation.Input {
			s.Registers[pcr] = digest.Of([]byte("something else"))
			return s.Input()
		}})
	}
	for _, c := range changes {
		cache := attestation.NewCache(64)
		through(t, cache, scenario().Input())
		if _, _, hit, _ := through(t, cache, scenario().Input()); !hit {
			t.Fatal("the state is not known")
		}
		in := c.make(scenario())
		want, _ := result(attestation.Appraise, in)
		got, _, hit, missed := through(t, cache, in)
		if hit || !missed {
			t.Errorf("%s: taken for the state that is known", c.name)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", c.name, got, want)
		}
	}
}

// What a Standard is of, in full: a field that JSON leaves out would be one that devices are held to and that no key names.
func TestStandardLeavesNothingOut(t *testing.T) {
	t.Parallel()
	var walk func(path string, of reflect.Type)
	walk = func(path string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(path, of.Elem())
		case reflect.Struct:
			for f := range of.Fields() {
				if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !f.IsExported() || name == "-" || name == "" {
					t.Errorf("%s.%s is not in the JSON of a Standard", path, f.Name)
				}
				walk(path+"."+f.Name, f.Type)
			}
		case reflect.Map, reflect.Interface, reflect.Func, reflect.Chan, reflect.Float64, reflect.Float32:
			t.Errorf("%s is a %s: nobody has shown that its JSON is all of it", path, of.Kind())
		}
	}
	for _, of := range []reflect.Type{reflect.TypeFor[attestation.Policy](), reflect.TypeFor[attestation.Expectation](), reflect.TypeFor[reference.Baseline]()} {
		walk(of.Name(), of)
	}
}

// What a Standard holds cannot be changed from outside: its digest would name something else.
func TestStandardKeepsItsOwnCopy(t *testing.T) {
	t.Parallel()
	in := scenario().Input()
	s := standard(t, in)
	in.Expected[0].Values.PCRs[0].Value[0] ^= 1
	in.Baseline.PCRs[0].Value[0] ^= 1
	in.Policy.RequiredPCRs[0] = 23
	if v := appraise(t, s.Hold(in)); v.Outcome != attestation.Affirmed {
		t.Errorf("refused: %+v", v.Findings)
	}
}

// Only what a device's own key has signed over this very poll reaches the cache, and only what was affirmed stays there.
func TestOnlyAuthenticQuotesReachTheCache(t *testing.T) {
	t.Parallel()
	cache := attestation.NewCache(8)
	through(t, cache, scenario().Input())
	want := cache.Counts()
	for _, c := range evidencetest.CasesOf(evidencetest.StageInput, evidencetest.StageAuthentic) {
		if _, _, hit, missed := through(t, cache, c.Input()); hit || missed {
			t.Errorf("%s reached the cache", title(c))
		}
	}
	if got := cache.Counts(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, c := range evidencetest.CasesOf(evidencetest.StageState) {
		if through(t, cache, c.Input()); cache.Counts().Entries != want.Entries {
			t.Fatalf("%s: a refusal is remembered", title(c))
		}
	}
}

// A state that is known says nothing about the moment: replay, another connection and a register that changed within one
// boot are found all the same.
func TestKnownStateIsNoExcuse(t *testing.T) {
	t.Parallel()
	cache, s := attestation.NewCache(8), scenario()
	in := s.Input()
	through(t, cache, in)
	s.Accept()
	s.Last.PCRs[0].Value[0] ^= 1 // as if it had booted with another value
	s.Tick()
	changed := s.Input()
	if said, outcome, hit, _ := through(t, cache, changed); !hit || outcome != attestation.Refused || !strings.Contains(said, "changed without a reboot") {
		t.Errorf("known %t: %s", hit, said)
	}
	replayed := in
	replayed.Last = &attestation.Accepted{Clock: s.Clock}
	if said, _, hit, _ := through(t, cache, replayed); hit || !strings.Contains(said, string(reason.NonceReused)) {
		t.Errorf("replayed, known %t: %s", hit, said)
	}
	elsewhere := in
	elsewhere.Binding.Exporter = make([]byte, 32)
	if said, _, hit, _ := through(t, cache, elsewhere); hit || !strings.Contains(said, string(reason.NonceUnknown)) {
		t.Errorf("on another connection, known %t: %s", hit, said)
	}
}

// made is a device in a state of its own: it has measured n into a register that nothing is expected of.
func made(device string, n int) attestation.Input {
	s := evidencetest.NewScenario(device, current)
	data := fmt.Appendf(nil, "state %d", n)
	s.Log.Add(14, eventlog.TypeIPL, digest.Of(data), data)
	s.Registers = s.Log.PCRs()
	s.Quoted = append(s.Quoted, 14)
	return s.Input()
}

// A device can make up states without end. It pushes nobody else's out.
func TestOneDeviceCannotFlushTheCache(t *testing.T) {
	t.Parallel()
	cache := attestation.NewCache(8)
	honest := made("honest", 0)
	through(t, cache, honest)
	for n := range 50 {
		if said, outcome, _, _ := through(t, cache, made("hostile", n)); outcome != attestation.Affirmed {
			t.Fatal(said)
		}
	}
	if _, _, hit, _ := through(t, cache, honest); !hit {
		t.Error("the state of another device was pushed out")
	}
	if got, want := cache.Counts().Entries, 1+4; got != want {
		t.Errorf("got %d entries, want %d", got, want)
	}
}

func TestCacheKeepsWhatWasUsedLast(t *testing.T) {
	t.Parallel()
	cache := attestation.NewCache(3)
	for n := range 3 {
		through(t, cache, made(fmt.Sprint("device ", n), n))
	}
	through(t, cache, made("device 0", 0)) // used again
	through(t, cache, made("device 3", 3))
	for n, want := range []bool{true, false, true, true} {
		in := made(fmt.Sprint("device ", n), n)
		in.Log = nil // so that asking adds nothing
		if _, _, hit, _ := through(t, cache, in); hit != want {
			t.Errorf("device %d: known %t, want %t", n, hit, want)
		}
	}
	if got := cache.Counts().Entries; got != 3 {
		t.Errorf("got %d entries, want 3", got)
	}
}

func TestCacheOfNothing(t *testing.T) {
	t.Parallel()
	cache := attestation.NewCache(0)
	for range 2 {
		if _, outcome, hit, _ := through(t, cache, scenario().Input()); hit || outcome != attestation.Affirmed {
			t.Errorf("known %t, %s", hit, outcome)
		}
	}
}

func TestCacheServesManyAtOnce(t *testing.T) {
	t.Parallel()
	cache := attestation.NewCache(4)
	var inputs []attestation.Input
	for n := range 6 {
		inputs = append(inputs, made(fmt.Sprint("device ", n%3), n))
	}
	s := standard(t, inputs[0])
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for n := range 24 {
				v, err := cache.Appraise(s, inputs[(n*5+worker)%len(inputs)])
				if err != nil || v.Outcome != attestation.Affirmed {
					t.Errorf("got %v, %v", v, err)
				}
				if c := cache.Counts(); c.Entries > 4 {
					t.Errorf("%d entries", c.Entries)
				}
			}
		})
	}
	all.Wait()
}

// The bound that the comment of Cache states, with some room. Not parallel: it weighs the heap.
func TestCacheIsSmall(t *testing.T) {
	const entries, most = 20_000, 512
	cache := attestation.NewCache(entries)
	weigh := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := weigh()
	for n := range entries + 10 {
		attestation.Fill(cache, fmt.Sprintf("device-with-an-id-%08d", n), n)
	}
	after := weigh()
	if got := cache.Counts().Entries; got != entries {
		t.Fatalf("got %d entries, want %d", got, entries)
	}
	if after > before && (after-before)/entries > most {
		t.Errorf("an entry takes %d bytes, want at most %d", (after-before)/entries, most)
	}
	t.Logf("%d bytes for each entry", (int64(after)-int64(before))/entries)
	runtime.KeepAlive(cache)
}

func TestCachedAppraisalAllocatesLittle(t *testing.T) {
	const most = 4 << 10
	in := recordedInput(t, genuine[0])
	cache, s := attestation.NewCache(8), standard(t, in)
	ask := func() {
		if v, err := cache.Appraise(s, in); err != nil || v.Outcome != attestation.Affirmed {
			t.Fatal(v, err)
		}
		in.Log = nil
	}
	ask()
	var before, after runtime.MemStats
	const often = 64
	runtime.ReadMemStats(&before)
	for range often {
		ask()
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / often; got > most {
		t.Errorf("a cached appraisal allocates %d bytes, want at most %d", got, most)
	}
	if got := cache.Counts(); got.Hits != often || got.Misses != 1 {
		t.Errorf("got %+v", got)
	}
}

// The same values under another number are another state: the log speaks of register 15, not of 14.
func TestNumberOfARegisterIsInTheKey(t *testing.T) {
	t.Parallel()
	quoting := func(pcr int) attestation.Input {
		s := scenario()
		s.Log.Add(15, eventlog.TypeIPL, digest.Of([]byte("x")), []byte("x"))
		s.Quoted = append(s.Quoted, pcr)
		s.Registers[pcr] = digest.SHA256{}
		return s.Input()
	}
	cache := attestation.NewCache(8)
	if said, outcome, _, _ := through(t, cache, quoting(14)); outcome != attestation.Affirmed {
		t.Fatal(said)
	}
	in := quoting(15)
	want, _ := result(attestation.Appraise, in)
	if got, outcome, hit, _ := through(t, cache, in); hit || got != want || outcome != attestation.Refused {
		t.Errorf("known %t: got %s, want %s", hit, got, want)
	}
}
