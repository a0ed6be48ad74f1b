package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

var nameTests = map[string]func(*testing.T, artifacts.Store){
	"NameNotThere":        testNameNotThere,
	"NameCreate":          testNameCreate,
	"NameCreateRace":      testNameCreateRace,
	"NameSwap":            testNameSwap,
	"NameSwapRace":        testNameSwapRace,
	"NameSwapCounter":     testNameSwapCounter,
	"NameReadersSeeWhole": testNameReadersSeeWhole,
	"NameList":            testNameList,
	"NameValidation":      testNameValidation,
	"NameSize":            testNameSize,
	"NameCancelled":       testNameCancelled,
	"NamePrefixOfOther":   testNamePrefixOfOther,
}

func wantLoad(t *testing.T, s artifacts.Store, name string, want []byte) string {
	t.Helper()
	got, revision, err := s.Load(t.Context(), name)
	if err != nil {
		t.Fatalf("Load(%q): %v", name, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("Load(%q): got %.40q, want %.40q", name, got, want)
	}
	if revision == "" {
		t.Errorf("Load(%q): the revision is empty, which means 'must not exist'", name)
	}
	return revision
}

func testNameNotThere(t *testing.T, s artifacts.Store) {
	_, _, err := s.Load(t.Context(), "a/b")
	wantErr(t, "Load", err, artifacts.ErrNotFound)
	_, err = s.Swap(t.Context(), "a/b", strings.Repeat("0", 64), []byte("x"))
	wantErr(t, "Swap of nothing with a revision", err, artifacts.ErrRevision)
	_, _, err = s.Load(t.Context(), "a/b")
	wantErr(t, "Load", err, artifacts.ErrNotFound)
}

func testNameCreate(t *testing.T, s artifacts.Store) {
	for range 2 {
		if err := s.Create(t.Context(), "image/1.root.json", []byte("one")); err != nil {
			t.Errorf("Create: %v", err)
		}
	}
	wantErr(t, "Create with other bytes", s.Create(t.Context(), "image/1.root.json", []byte("two")), artifacts.ErrExists)
	wantLoad(t, s, "image/1.root.json", []byte("one"))
	if err := s.Create(t.Context(), "image/empty", nil); err != nil {
		t.Errorf("Create of an empty document: %v", err)
	}
	wantLoad(t, s, "image/empty", nil)
}

func testNameCreateRace(t *testing.T, s artifacts.Store) {
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			switch err := s.Create(t.Context(), "race", []byte{byte(i)}); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, artifacts.ErrExists):
				t.Errorf("Create: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 12 different Creates won, want 1", won.Load())
	}
}

func testNameSwap(t *testing.T, s artifacts.Store) {
	first, err := s.Swap(t.Context(), "timestamp.json", "", []byte("v1"))
	if err != nil {
		t.Fatal(err)
	}
	if loaded := wantLoad(t, s, "timestamp.json", []byte("v1")); loaded != first {
		t.Errorf("Load gives revision %q, Swap gave %q", loaded, first)
	}
	_, err = s.Swap(t.Context(), "timestamp.json", "", []byte("again"))
	wantErr(t, "Swap that must create", err, artifacts.ErrRevision)
	second, err := s.Swap(t.Context(), "timestamp.json", first, []byte("v2"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Swap(t.Context(), "timestamp.json", first, []byte("v3"))
	wantErr(t, "Swap with an old revision", err, artifacts.ErrRevision)
	_, err = s.Swap(t.Context(), "timestamp.json", "no revision at all", []byte("v3"))
	wantErr(t, "Swap with a made-up revision", err, artifacts.ErrRevision)
	if loaded := wantLoad(t, s, "timestamp.json", []byte("v2")); loaded != second {
		t.Errorf("Load gives revision %q, Swap gave %q", loaded, second)
	}
}

func testNameSwapRace(t *testing.T, s artifacts.Store) {
	revision := ""
	for round := range 5 {
		var mu sync.Mutex
		var winners []string
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				next, err := s.Swap(t.Context(), "pointer", revision, fmt.Appendf(nil, "round %d, writer %d", round, i))
				if err != nil {
					if !errors.Is(err, artifacts.ErrRevision) {
						t.Errorf("Swap: %v", err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				winners = append(winners, next)
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("round %d: %d of 10 Swaps won, want 1", round, len(winners))
		}
		revision = winners[0]
	}
}

// Lost updates show as a total that is too small.
func testNameSwapCounter(t *testing.T, s artifacts.Store) {
	const writers, each = 4, 10
	if _, err := s.Swap(t.Context(), "counter", "", []byte("n")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				data, revision, err := s.Load(t.Context(), "counter")
				if err != nil {
					t.Errorf("Load: %v", err)
					return
				}
				_, err = s.Swap(t.Context(), "counter", revision, append(data, 'n'))
				if err == nil {
					done++
				} else if !errors.Is(err, artifacts.ErrRevision) {
					t.Errorf("Swap: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantLoad(t, s, "counter", bytes.Repeat([]byte("n"), 1+writers*each))
}

func testNameReadersSeeWhole(t *testing.T, s artifacts.Store) {
	versions := [][]byte{bytes.Repeat([]byte("a"), 300_000), bytes.Repeat([]byte("b"), 200_000)}
	revision, err := s.Swap(t.Context(), "doc", "", versions[0])
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, _, err := s.Load(t.Context(), "doc")
				if err != nil || (!bytes.Equal(got, versions[0]) && !bytes.Equal(got, versions[1])) {
					t.Errorf("Load during Swap: got %d bytes that were never written, %v", len(got), err)
					return
				}
			}
		})
	}
	for i := range 20 {
		if revision, err = s.Swap(t.Context(), "doc", revision, versions[(i+1)%2]); err != nil {
			t.Errorf("Swap: %v", err)
			break
		}
	}
	close(stop)
	wg.Wait()
}

func testNameList(t *testing.T, s artifacts.Store) {
	// '-' and '.' sort before '/', so an order by segment would be another one.
	names := []string{"a", "a-b", "a-b/c", "a.b", "a/b", "a/b/c", "a/c", "b/1", "b/10", "b/2", "zz"}
	for _, name := range names {
		if err := s.Create(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	tests := []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 100, names},
		{"", "", 3, names[:3]},
		{"", names[2], 3, names[3:6]},
		{"", "zz", 3, nil},
		{"b/", "", 100, []string{"b/1", "b/10", "b/2"}},
		{"b/1", "", 100, []string{"b/1", "b/10"}},
		{"b/", "b/1", 1, []string{"b/10"}},
		{"b/", "a", 100, []string{"b/1", "b/10", "b/2"}},
		{"a/b", "", 100, []string{"a/b", "a/b/c"}},
		{"a/b/", "", 100, []string{"a/b/c"}},
		{"nothing", "", 100, nil},
		{"../", "", 100, nil},
		{"/", "", 100, nil},
		{"", "", 0, nil},
		{"", "", -1, nil},
	}
	for _, test := range tests {
		got, err := s.List(t.Context(), test.prefix, test.after, test.limit)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("List(%q, %q, %d): got %q, %v, want %q", test.prefix, test.after, test.limit, got, err, test.want)
		}
	}
	var paged []string
	for after := ""; ; after = paged[len(paged)-1] {
		page, err := s.List(t.Context(), "", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		paged = append(paged, page...)
		if len(page) < 2 {
			break
		}
	}
	if !slices.Equal(paged, names) {
		t.Errorf("pages of 2: got %q, want %q", paged, names)
	}
}

func testNameValidation(t *testing.T, s artifacts.Store) {
	bad := []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/..", "a/./b", "a b", "a\x00b", "a\nb", "ä", "a~",
		`a\b`, "a:b", "a..b", strings.Repeat("a", 201), strings.Repeat("abc/", 128) + "d"}
	for _, name := range bad {
		_, _, err := s.Load(t.Context(), name)
		wantErr(t, fmt.Sprintf("Load(%.20q)", name), err, artifacts.ErrStoredName)
		wantErr(t, fmt.Sprintf("Create(%.20q)", name), s.Create(t.Context(), name, []byte("x")), artifacts.ErrStoredName)
		_, err = s.Swap(t.Context(), name, "", []byte("x"))
		wantErr(t, fmt.Sprintf("Swap(%.20q)", name), err, artifacts.ErrStoredName)
	}
	good := []string{"a", "A-Z_0.9", ".hidden", "a/.b", strings.Repeat("a", 200), strings.Repeat("abc/", 127) + "abcd", "con/aux", digest.Of(nil).String()}
	for _, name := range good {
		if err := s.Create(t.Context(), name, []byte(name)); err != nil {
			t.Errorf("Create(%.20q): %v", name, err)
			continue
		}
		wantLoad(t, s, name, []byte(name))
	}
	listed, err := s.List(t.Context(), "", "", 100)
	slices.Sort(good)
	if err != nil || !slices.Equal(listed, good) {
		t.Errorf("List: got %q, %v, want %q", listed, err, good)
	}
}

func testNameSize(t *testing.T, s artifacts.Store) {
	most := Bytes(50, artifacts.MaxNamedBytes)
	if err := s.Create(t.Context(), "most", most); err != nil {
		t.Fatalf("Create of the largest document: %v", err)
	}
	wantLoad(t, s, "most", most)
	wantErr(t, "Create", s.Create(t.Context(), "more", append(most, 0)), artifacts.ErrTooLarge)
	_, err := s.Swap(t.Context(), "more", "", append(most, 0))
	wantErr(t, "Swap", err, artifacts.ErrTooLarge)
	_, _, err = s.Load(t.Context(), "more")
	wantErr(t, "Load", err, artifacts.ErrNotFound)
}

func testNameCancelled(t *testing.T, s artifacts.Store) {
	ctx := cancelled(t)
	wantErr(t, "Create", s.Create(ctx, "a", []byte("x")), context.Canceled)
	_, err := s.Swap(ctx, "a", "", []byte("x"))
	wantErr(t, "Swap", err, context.Canceled)
	_, _, err = s.Load(ctx, "a")
	wantErr(t, "Load", err, context.Canceled)
	_, err = s.List(ctx, "", "", 10)
	wantErr(t, "List", err, context.Canceled)
	_, _, err = s.Load(t.Context(), "a")
	wantErr(t, "Load", err, artifacts.ErrNotFound)
}

func testNamePrefixOfOther(t *testing.T, s artifacts.Store) {
	for _, name := range []string{"p/q/r", "p/q", "p"} {
		if err := s.Create(t.Context(), name, []byte(name)); err != nil {
			t.Errorf("Create(%q): %v", name, err)
		}
	}
	for _, name := range []string{"p", "p/q", "p/q/r"} {
		wantLoad(t, s, name, []byte(name))
	}
}
