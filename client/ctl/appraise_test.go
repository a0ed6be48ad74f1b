package main_test

import (
	"os"
	"path/filepath"
	"testing"

	main "github.com/cordon-ota/cordon/client/ctl"
)

// Whatever a file says, it has an Input or it is refused.
func FuzzDecodeBundle(f *testing.F) {
	for _, pattern := range []string{"../../conformance/vectors/recorded/*.json", "../../conformance/vectors/negative/P*.json", "../../conformance/vectors/negative/N12*.json"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: no files, %v", pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte(`{"input":null}`))
	f.Add([]byte(`{"input":{},"input":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := main.DecodeBundle(b)
		if err == nil && got.Input == nil {
			t.Error("a bundle without an Input")
		}
	})
}
