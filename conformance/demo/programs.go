package demo

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
)

// Programs are the programs of the repository for the tests of one package: built when the first test asks, and gone when
// the last one has ended.
type Programs struct {
	tags string
	once sync.Once
	dir  string
	err  error // of the build
}

// NewPrograms makes a set that is built with tags; empty for the product as it is.
func NewPrograms(tags string) *Programs { return &Programs{tags: tags} }

// Run runs the tests of a package, removes what was built for them, and returns the exit code: for TestMain.
func (p *Programs) Run(m *testing.M) int {
	code := m.Run()
	if p.dir == "" {
		return code
	}
	if err := os.RemoveAll(p.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Dir returns the folder of the programs.
func (p *Programs) Dir(t testing.TB) string {
	t.Helper()
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "cordon-programs-"); p.err == nil {
			p.err = BuildTagged(context.Background(), p.dir, p.tags)
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.dir
}
