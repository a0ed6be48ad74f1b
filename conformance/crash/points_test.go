package crash_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// named returns every point of package artifacts/crash.
func named(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../artifacts/crash/crash.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, v := range spec.Values {
			text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, text)
		}
		return true
	})
	if len(out) < 50 {
		t.Fatalf("found %d crash points, want at least 50", len(out))
	}
	return out
}

// row is what became of one crash.
type row struct {
	point   string // with the number of the passage
	process string
	cycle   string // what was under way
	after   string // what the next clean cycle came to
}

// ledger collects the rows of all worlds. It is safe for concurrent use.
type ledger struct {
	mu   sync.Mutex
	rows []row
}

func (l *ledger) add(r row) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = append(l.rows, r)
}

// print writes the table.
func (l *ledger) print(t *testing.T) {
	t.Helper()
	slices.SortFunc(l.rows, func(a, b row) int { return strings.Compare(a.process+a.point, b.process+b.point) })
	var out strings.Builder
	fmt.Fprintf(&out, "%-8s %-32s %-44s %s\n", "process", "died at", "while", "next clean cycle")
	for _, r := range l.rows {
		fmt.Fprintf(&out, "%-8s %-32s %-44s %s\n", r.process, r.point, r.cycle, r.after)
	}
	fmt.Fprintf(&out, "%d crashes at %d points\n", len(l.rows), len(l.points()))
	t.Log("\n" + out.String())
}

// points are those that at least one crash was at.
func (l *ledger) points() map[string]bool {
	out := map[string]bool{}
	for _, r := range l.rows {
		point, _, _ := strings.Cut(r.point, ":")
		out[point] = true
	}
	return out
}

// TestEveryCrashIsSurvived is the whole list.
func TestEveryCrashIsSurvived(t *testing.T) {
	t.Parallel()
	all := named(t)
	book := &ledger{}
	t.Run("worlds", func(t *testing.T) {
		for name, world := range map[string]func(*testing.T, *ledger){
			"agent": agentCrashes, "devices": deviceCrashes, "publishing": publishCrashes, "signer": signerCrashes,
			"sweep": sweepCrashes, "first start": firstStartCrashes, "network": networkCrashes, "log": logCrashes, "keeping": keepingCrashes,
			"keys": keyCrashes,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				world(t, book)
			})
		}
	})
	book.print(t)
	hit := book.points()
	for _, point := range all {
		if !hit[point] {
			t.Errorf("no crash was at %s: the point is never reached, or no cycle goes there", point)
		}
	}
	for point := range hit {
		if !slices.Contains(all, point) {
			t.Errorf("a crash was at %s, which is not on the list", point)
		}
	}
}
