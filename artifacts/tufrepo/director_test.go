package tufrepo_test

import (
	"crypto"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

func newDirector(t testing.TB, root []byte) *tufrepo.Director {
	t.Helper()
	return must(tufrepo.NewDirector(root, device, now))(t)
}

func (f *fleet) docs(t testing.TB, spec tufrepo.DirectorSpec) tufrepo.DirectorDocs {
	t.Helper()
	return must(tufrepo.SignDirector(spec, f.online))(t)
}

// forge signs changed director targets again with the online key, and everything above them.
func (f *fleet) forge(t testing.TB, version int64, docs tufrepo.DirectorDocs, change func(map[string]any)) tufrepo.DirectorDocs {
	t.Helper()
	docs.Targets = resign(t, docs.Targets, change, f.online)
	expires := now.Add(time.Hour)
	docs.Snapshot = must(tufrepo.SignSnapshot(version, expires, map[string]tufrepo.Doc{
		"targets": tufrepo.DocOf(versionOf(t, docs.Targets), docs.Targets)}, f.online))(t)
	docs.Timestamp = must(tufrepo.SignTimestamp(version, expires, tufrepo.DocOf(version, docs.Snapshot), [32]byte{}, f.online))(t)
	return docs
}

func TestDirectorAcceptsWhatIsSignedForItsDevice(t *testing.T) {
	t.Parallel()
	for _, online := range []crypto.Signer{edKey(t), ecKey(t)} {
		f := newFleet(t)
		f.online = online
		d := newDirector(t, f.rootDoc(t, 1))
		docs := f.docs(t, directorSpec(4, device))
		for range 2 { // the same documents again are no error
			if err := d.Update(docs); err != nil {
				t.Fatal(err)
			}
		}
		want := []tufrepo.DirectorTarget{
			{Path: "gw/1.2.0/boot", Length: 4, SHA256: digest.Of([]byte("boot"))},
			{Path: "gw/1.2.0/rootfs", Length: 8, SHA256: digest.Of([]byte("firmware")), Deadline: now.Add(time.Hour).Unix()},
		}
		if diff := cmp.Diff(want, d.Targets()); diff != "" {
			t.Fatal(diff)
		}
		if base, ok := d.CounterBase(); !ok || base != 1<<63+7 {
			t.Fatalf("counter base %d, %v", base, ok)
		}
		if root, stamp := d.Versions(); root != 1 || stamp != 4 {
			t.Fatalf("versions %d, %d", root, stamp)
		}
	}
}

// OT-05: metadata of another device, with targets and, which is the harder case, without any.
func TestDirectorRefusesMetadataOfAnotherDevice(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	full := directorSpec(9, "otherdevice")
	empty := directorSpec(9, "otherdevice")
	empty.Targets = nil
	d := newDirector(t, f.rootDoc(t, 1))
	if err := d.Update(f.docs(t, directorSpec(1, device))); err != nil {
		t.Fatal(err)
	}
	for name, docs := range map[string]tufrepo.DirectorDocs{
		"full": f.docs(t, full), "empty": f.docs(t, empty), "not newer": f.docs(t, directorSpec(1, "otherdevice")),
		"no device": f.forge(t, 9, f.docs(t, empty), func(s map[string]any) { delete(s, "x-cordon-device") }),
		"target for another": f.forge(t, 9, f.docs(t, directorSpec(9, device)), func(s map[string]any) {
			entry := s["targets"].(map[string]any)["gw/1.2.0/boot"].(map[string]any)
			entry["custom"] = map[string]any{"device": "otherdevice"}
		}),
	} {
		err := d.Update(docs)
		if !errors.Is(err, tufrepo.ErrWrongDevice) || tufrepo.ReasonOf(err) != reason.MetadataForOtherDevice {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := d.Update(f.docs(t, directorSpec(2, device))); err != nil {
		t.Fatalf("refused metadata must not raise the floor: %v", err)
	}
	none := directorSpec(3, device)
	none.Targets = nil
	if err := d.Update(f.docs(t, none)); err != nil || len(d.Targets()) != 0 {
		t.Fatalf("own empty metadata: %v", err)
	}
}

// OT-22, and what else director targets must not say.
func TestDirectorRefusesWhatADirectorMustNotSay(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	entry := func(s map[string]any) map[string]any {
		return s["targets"].(map[string]any)["gw/1.2.0/boot"].(map[string]any)
	}
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   error
	}{
		"delegations":      {func(s map[string]any) { s["delegations"] = map[string]any{"keys": map[string]any{}, "roles": []any{}} }, tufrepo.ErrDelegation},
		"unknown custom":   {func(s map[string]any) { entry(s)["custom"] = map[string]any{"device": device, "x": 1} }, tufrepo.ErrMalformed},
		"no custom":        {func(s map[string]any) { delete(entry(s), "custom") }, tufrepo.ErrMalformed},
		"folded custom":    {func(s map[string]any) { entry(s)["custom"] = map[string]any{"Device": device} }, tufrepo.ErrMalformed},
		"deadline":         {func(s map[string]any) { entry(s)["custom"] = map[string]any{"device": device, "deadline": -1} }, tufrepo.ErrMalformed},
		"no counter base":  {func(s map[string]any) { delete(s, "x-cordon-counter-base") }, tufrepo.ErrMalformed},
		"counter base":     {func(s map[string]any) { s["x-cordon-counter-base"] = "+1" }, tufrepo.ErrMalformed},
		"counter base num": {func(s map[string]any) { s["x-cordon-counter-base"] = 1 }, tufrepo.ErrMalformed},
		"offline path":     {func(s map[string]any) { t := s["targets"].(map[string]any); t["policy/gw.json"] = entry(s) }, tufrepo.ErrMalformed},
	} {
		docs := f.forge(t, 2, f.docs(t, directorSpec(2, device)), c.change)
		if err := newDirector(t, f.rootDoc(t, 1)).Update(docs); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// OT-08, OT-09, OT-13, OT-24 for the director; all three documents are checked.
func TestDirectorRefusesOldAndMixedMetadata(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	root := f.rootDoc(t, 1)
	five := f.docs(t, directorSpec(5, device))
	four := f.docs(t, directorSpec(4, device))
	live := newDirector(t, root)
	if err := live.Update(five); err != nil {
		t.Fatal(err)
	}
	restarted := newDirector(t, root)
	restarted.Restore(live.Cached())
	expired := directorSpec(6, device)
	expired.Expires = now
	changed := directorSpec(5, device)
	changed.CounterBase = 1
	for name, c := range map[string]struct {
		docs tufrepo.DirectorDocs
		want error
	}{
		"older":            {four, tufrepo.ErrRollback},
		"changed":          {f.docs(t, changed), tufrepo.ErrRollback},
		"expired":          {f.docs(t, expired), tufrepo.ErrExpired},
		"mixed snapshot":   {tufrepo.DirectorDocs{Timestamp: five.Timestamp, Snapshot: four.Snapshot, Targets: five.Targets}, tufrepo.ErrMixAndMatch},
		"mixed targets":    {tufrepo.DirectorDocs{Timestamp: five.Timestamp, Snapshot: five.Snapshot, Targets: four.Targets}, tufrepo.ErrMixAndMatch},
		"nothing":          {tufrepo.DirectorDocs{}, tufrepo.ErrMalformed},
		"foreign director": {newFleet(t).docs(t, directorSpec(6, device)), tufrepo.ErrSignature},
	} {
		for state, d := range map[string]*tufrepo.Director{"live": live, "restarted": restarted} {
			if err := d.Update(c.docs); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: got %v, want %v", name, state, err, c.want)
			}
			if got := len(d.Targets()); got != 2 {
				t.Errorf("%s, %s: %d targets after a refusal, want 2", name, state, got)
			}
		}
	}
}

// OT-13, OT-14: expired or foreign cached metadata does not brick, and a rotated online key clears a fast-forward.
func TestDirectorRecovers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	root := f.rootDoc(t, 1)
	high := f.docs(t, directorSpec(1<<50, device))
	d := must(tufrepo.NewDirector(root, device, now.Add(48*time.Hour)))(t)
	d.Restore(high)
	if d.Targets() != nil {
		t.Fatal("expired metadata answers")
	}
	if _, ok := d.CounterBase(); ok {
		t.Fatal("expired metadata gives a counter base")
	}
	d.SetTime(now)
	wantErr(t, d.Update(f.docs(t, directorSpec(2, device))), tufrepo.ErrRollback)
	f.online = edKey(t)
	if err := d.UpdateRoot(f.rootDoc(t, 2)); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(f.docs(t, directorSpec(2, device))); err != nil {
		t.Fatal(err)
	}
	other := newDirector(t, f.rootDoc(t, 2))
	other.Restore(f.docs(t, directorSpec(99, "otherdevice")))
	other.Restore(tufrepo.DirectorDocs{Timestamp: []byte("{"), Snapshot: []byte("null"), Targets: nil})
	if err := other.Update(f.docs(t, directorSpec(2, device))); err != nil {
		t.Fatal(err)
	}
}

// A crash, or somebody with another device's files, leaves a timestamp without its documents. They are asked for again, and
// nothing older is taken.
func TestDirectorRecoversFromATornSet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	root := f.rootDoc(t, 1)
	own, old := f.docs(t, directorSpec(5, device)), f.docs(t, directorSpec(4, device))
	foreign := f.docs(t, directorSpec(5, "otherdevice"))
	for name, torn := range map[string]tufrepo.DirectorDocs{
		"older targets":      {Timestamp: own.Timestamp, Snapshot: own.Snapshot, Targets: old.Targets},
		"older snapshot":     {Timestamp: own.Timestamp, Snapshot: old.Snapshot, Targets: own.Targets},
		"foreign timestamp":  {Timestamp: foreign.Timestamp, Snapshot: own.Snapshot, Targets: own.Targets},
		"only the timestamp": {Timestamp: own.Timestamp},
	} {
		d := newDirector(t, root)
		d.Restore(torn)
		if _, claimed := d.Versions(); claimed != 4 || d.Targets() != nil {
			t.Errorf("%s: claims version %d, want 4, and answers %v", name, claimed, d.Targets())
		}
		if err := d.Update(old); !errors.Is(err, tufrepo.ErrRollback) {
			t.Errorf("%s: version 4 again: %v, want ErrRollback", name, err)
		}
		if err := d.Update(own); err != nil {
			t.Errorf("%s: version 5: %v", name, err)
		}
		if _, claimed := d.Versions(); claimed != 5 || len(d.Targets()) == 0 {
			t.Errorf("%s: claims version %d, want 5", name, claimed)
		}
	}
}

func BenchmarkSignDirector(b *testing.B) {
	f := newFleet(b)
	spec := directorSpec(4, device)
	for b.Loop() {
		if _, err := tufrepo.SignDirector(spec, f.online); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyDirector(b *testing.B) {
	f := newFleet(b)
	root, docs := f.rootDoc(b, 1), f.docs(b, directorSpec(4, device))
	for b.Loop() {
		if err := newDirector(b, root).Update(docs); err != nil {
			b.Fatal(err)
		}
	}
}
