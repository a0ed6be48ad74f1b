package audit_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/server/audit"
)

const sample = `{"v":1,"n":7,"at":"2026-03-01T12:00:00.000000Z","type":"release.held","actor":"alice","subject":"lamp/1.0","data":{"detail":"slow"}}`

func TestDataOfIsStrict(t *testing.T) {
	t.Parallel()
	if got, err := audit.DataOf([]byte(sample)); err != nil || string(got) != `{"detail":"slow"}` {
		t.Errorf("got %s, %v", got, err)
	}
	for name, leaf := range map[string]string{
		"empty": "", "unknown field": `{"v":1,"x":2}`, "twice": `{"v":1,"v":1}`, "trailing": sample + "x", "cut": sample[:40], "other case": `{"V":1}`,
	} {
		if _, err := audit.DataOf([]byte(leaf)); !errors.Is(err, audit.ErrLeaf) {
			t.Errorf("%s: got %v, want ErrLeaf", name, err)
		}
	}
}

func FuzzDataOf(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := audit.DataOf(b)
		if err == nil && !bytes.Contains(b, got) {
			t.Errorf("data %s is not part of the leaf", got)
		}
	})
}
