package tlog_test

import (
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
)

func FuzzParseHashes(f *testing.F) {
	f.Add(make([]byte, 2*digest.Size), 2)
	f.Add([]byte{}, 0)
	f.Add(make([]byte, digest.Size-1), 1)
	f.Fuzz(func(t *testing.T, b []byte, width int) {
		hashes, err := tlog.ParseHashes(b, width)
		if err == nil && (len(hashes) != width || width*digest.Size != len(b)) {
			t.Errorf("%d hashes in %d bytes, asked for %d", len(hashes), len(b), width)
		}
	})
}

func FuzzOpenLogCheckpoint(f *testing.F) {
	k, tr := newKeys(f, "", 0, 0), newTree(f, 5)
	f.Add(sign(f, tlog.CheckpointText(origin, 5, tr.roots[5]), k.log))
	f.Add([]byte(tlog.CheckpointText(origin, 5, tr.roots[5]) + "\n— " + origin + " AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := tlog.OpenLogCheckpoint(raw, k.policy.LogKey)
		if err == nil && (c.Size != 5 || c.Root != tr.roots[5]) {
			t.Fatalf("opened %d %s", c.Size, c.Root)
		}
		if err != nil && !errors.Is(err, tlog.ErrCheckpoint) {
			t.Fatalf("got %v, want ErrCheckpoint", err)
		}
	})
}
