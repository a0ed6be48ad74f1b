package director_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/appraise/appraisetest"
	"github.com/cordon-ota/cordon/server/director"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/store"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

const life = 8 * time.Hour

// counting counts signatures.
type counting struct {
	ed25519.PrivateKey
	n int
}

func (c *counting) Sign(r io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	c.n++
	return c.PrivateKey.Sign(r, message, opts)
}

func newKey(t *testing.T) *counting {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &counting{PrivateKey: key}
}

func device() fleet.Device {
	return fleet.Device{ID: "mfrggzdfmztwq2lknnwg23tpoa", HardwareID: "rev-a", CounterBase: 1 << 60, Offered: "lamp/2", Deadline: now.Add(time.Hour)}
}

func release(version string) *artifacts.Release {
	return &artifacts.Release{Product: "lamp", Version: version, Components: []artifacts.Component{
		{Name: "system", HardwareIDs: []string{"rev-a"}, SHA256: digest.Of([]byte(version)), Length: 7},
		{Name: "other", HardwareIDs: []string{"rev-b"}, SHA256: digest.Of([]byte("other")), Length: 8},
	}}
}

func next(t *testing.T, s *director.Service, r *artifacts.Release, prev *store.Director, accepted int64, at time.Time) (store.Director, bool) {
	t.Helper()
	out, changed, err := s.Next(device(), r, prev, accepted, at)
	if err != nil {
		t.Fatal(err)
	}
	return out, changed
}

func TestVerifiesOnTheDevice(t *testing.T) {
	t.Parallel()
	key, holder := newKey(t), newKey(t)
	s := director.New(key, life)
	out, changed := next(t, s, release("2"), nil, 0, now)
	if !changed || out.Number != 1 || key.n != 3 || !out.Expires.Equal(now.Add(life)) {
		t.Errorf("got version %d, %d signatures, until %s", out.Number, key.n, out.Expires)
	}
	root := appraisetest.Root(t, holder.PrivateKey, key.Public(), now.AddDate(1, 0, 0))
	docs := tufrepo.DirectorDocs{Timestamp: out.Timestamp, Snapshot: out.Snapshot, Targets: out.Targets}
	v, err := tufrepo.NewDirector(root, device().ID, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Update(docs); err != nil {
		t.Fatal(err)
	}
	want := []tufrepo.DirectorTarget{{Path: "lamp/2/system", Length: 7, SHA256: digest.Of([]byte("2")), Deadline: now.Add(time.Hour).Unix()}}
	if diff := cmp.Diff(want, v.Targets()); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	if base, ok := v.CounterBase(); !ok || base != 1<<60 {
		t.Errorf("counter base %d, %t", base, ok)
	}
	other, err := tufrepo.NewDirector(root, "aaaaaaaaaaaaaaaaaaaaaaaaaa", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Update(docs); !errors.Is(err, tufrepo.ErrWrongDevice) { // OT-05
		t.Errorf("another device took it: %v", err)
	}
}

func TestSignsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	s := director.New(key, life)
	first, _ := next(t, s, release("2"), nil, 0, now)
	key.n = 0
	tests := map[string]struct {
		s        *director.Service
		r        *artifacts.Release
		accepted int64
		at       time.Time
		want     int64 // version; 1: nothing signed
	}{
		"the same":                   {s, release("2"), 1, now, 1},
		"device is behind":           {s, release("2"), 0, now, 1},
		"more than a quarter left":   {s, release("2"), 1, now.Add(life*3/4 - time.Second), 1},
		"a quarter left":             {s, release("2"), 1, now.Add(life * 3 / 4), 2},
		"other release":              {s, release("3"), 1, now, 2},
		"nothing to install":         {s, nil, 1, now, 2},
		"device ahead of the stored": {s, release("2"), 7, now, 8},
		"other release, ahead":       {s, release("3"), 7, now, 8},
		"key rotated":                {director.New(newKey(t), life), release("2"), 1, now, 2},
	}
	for name, test := range tests {
		out, changed := next(t, test.s, test.r, &first, test.accepted, test.at)
		if out.Number != test.want || changed != (test.want != 1) {
			t.Errorf("%s: got version %d, changed %t, want %d", name, out.Number, changed, test.want)
		}
		if diff := cmp.Diff(first, out); !changed && diff != "" {
			t.Errorf("%s: unchanged but different:\n%s", name, diff)
		}
	}
	moved := device()
	moved.Deadline = moved.Deadline.Add(time.Hour)
	rebased := device()
	rebased.CounterBase++
	for name, d := range map[string]fleet.Device{"deadline": moved, "counter base": rebased} {
		if _, changed, err := s.Next(d, release("2"), &first, 1, now); err != nil || !changed {
			t.Errorf("%s changed and was not signed: %v", name, err)
		}
	}
}

func BenchmarkUnchanged(b *testing.B) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	s := director.New(key, life)
	first, _, err := s.Next(device(), release("2"), nil, 0, now)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, _, _ = s.Next(device(), release("2"), &first, 1, now)
	}
}
