package storetest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/store"
)

func serverContracts() []contract {
	return []contract{
		{"KeepsReleases", keepsReleases},
		{"KeepsBlobs", keepsBlobs},
		{"KeepsRepository", keepsRepository},
		{"KeepsBeacons", keepsBeacons},
		{"KeepsDirectorDocuments", keepsDirector},
		{"KeepsPeopleAndTokens", keepsPeople},
		{"KeepsSettings", keepsSettings},
		{"KeepsEnrollTokens", keepsEnrollTokens},
		{"SweepsWhatExpired", sweeps},
		{"FindsEvents", findsEvents},
		{"WritesDeterministicLeaves", writesLeaves},
		{"FencesLocks", fencesLocks},
		{"KeepsCheckpoints", keepsCheckpoints},
		{"NamesDataThatIsTooLargeForALeaf", namesLargeData},
	}
}

func keepsReleases(t *testing.T, s *store.Store) {
	ctx := t.Context()
	full := store.Release{
		Name: "lamp/1.0", Product: "lamp", Counter: math.MaxUint64, Recovery: true, State: "published", Hold: true,
		HoldDetail: "smoke", Statement: []byte("{}"), Bundles: [][]byte{{1}, {2, 3}}, Publishers: []string{"ci@example"},
		Reference: map[string]digest.SHA256{"rootfs": sum("r"), "boot": sum("b")}, SBOMs: map[string]digest.SHA256{"boot": sum("s")},
		CreatedBy: "ci", CreatedAt: at(0), PublishedAt: at(1), Timestamp: 7, PrunedAt: at(2),
	}
	lower := store.Release{Name: "lamp/0.9", Product: "lamp", Counter: 1<<63 - 1, State: "staged"}
	other := store.Release{Name: "door/1.0", Product: "door", Counter: 3, State: "staged"}
	write(t, s, store.PutRelease{Release: full}, store.PutRelease{Release: lower}, store.PutRelease{Release: other})
	full.Version, lower.Version, other.Version = 1, 1, 1
	got(s.Release(ctx, full.Name))(t, "Release", full)
	got(s.ListReleases(ctx, "lamp"))(t, "ListReleases", []store.Release{lower, full})
	got(s.ListReleases(ctx, ""))(t, "ListReleases of all", []store.Release{other, lower, full})
	_, err := s.Release(ctx, "lamp/2.0")
	wantError(t, "unknown release", err, store.ErrNotFound)
}

func keepsRepository(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.Repo(ctx, store.RepoImage)
	wantError(t, "no repository", err, store.ErrNotFound)
	repo := store.Repo{
		Name: store.RepoImage, ImageRoot: 1, DirectorRoot: 2, Targets: 3, Products: map[string]int64{"lamp": 4, "door": 5},
		Snapshot: 6, Timestamp: 7, TimestampDoc: []byte("{}"), IssuedAt: at(0), Pending: []string{"b", "a"},
	}
	write(t, s, store.PutRepo{Repo: repo})
	repo.Version = 1
	got(s.Repo(ctx, store.RepoImage))(t, "Repo", repo)

	file := store.Metadata{Name: "image/1.root.json", Bytes: []byte("root")}
	write(t, s, store.AddMetadata{Metadata: file}, store.AddMetadata{Metadata: store.Metadata{Name: "empty"}})
	write(t, s, store.AddMetadata{Metadata: file})
	got(s.MetadataFile(ctx, file.Name))(t, "MetadataFile", file.Bytes)
	file.Bytes = []byte("Root")
	wantConflict(t, s, "other bytes under the same name", store.Change{Writes: []store.Write{store.AddMetadata{Metadata: file}}})
	got(s.MetadataFile(ctx, file.Name))(t, "MetadataFile after conflict", []byte("root"))
	_, err = s.MetadataFile(ctx, "image/2.root.json")
	wantError(t, "unknown file", err, store.ErrNotFound)
}

func keepsBeacons(t *testing.T, s *store.Store) {
	ctx := t.Context()
	var all []store.Beacon
	for i := range 3 {
		all = append(all, store.Beacon{Digest: sum("beacon", i), Version: int64(i), IssuedAt: at(i), Doc: number(i)})
		write(t, s, store.AddBeacon{Beacon: all[i]})
	}
	wantConflict(t, s, "same beacon", store.Change{Writes: []store.Write{store.AddBeacon{Beacon: all[0]}}})
	got(s.Beacon(ctx, all[1].Digest))(t, "Beacon", all[1])
	got(s.Beacons(ctx, []digest.SHA256{all[2].Digest, sum("never"), all[0].Digest}))(t, "Beacons", []store.Beacon{all[0], all[2]})
	got(s.Beacons(ctx, nil))(t, "no Beacons", nil)
	_, err := s.Beacon(ctx, sum("never"))
	wantError(t, "beacon that was not issued", err, store.ErrNotFound)
}

func keepsDirector(t *testing.T, s *store.Store) {
	d := store.Director{
		Device: "a", Number: 9, Content: sum("content"), Expires: at(1), Timestamp: []byte("t"), Snapshot: []byte("s"), Targets: []byte("x"),
	}
	write(t, s, store.PutDirector{Director: d})
	d.Version = 1
	got(s.Director(t.Context(), "a"))(t, "Director", d)
	_, err := s.Director(t.Context(), "b")
	wantError(t, "unknown device", err, store.ErrNotFound)
}

func keepsPeople(t *testing.T, s *store.Store) {
	ctx := t.Context()
	ada := store.Person{Name: "ada", Roles: []string{"operator", "admin"}, At: at(0)}
	bob := store.Person{Name: "bob", Disabled: true, At: at(1)}
	write(t, s, store.PutPerson{Person: bob}, store.PutPerson{Person: ada})
	ada.Version, bob.Version = 1, 1
	got(s.Person(ctx, "ada"))(t, "Person", ada)
	got(s.ListPeople(ctx))(t, "ListPeople", []store.Person{ada, bob})
	_, err := s.Person(ctx, "eve")
	wantError(t, "unknown person", err, store.ErrNotFound)

	long := store.Token{Hash: sum("long"), Person: "ada", At: at(0), Expires: at(100)}
	short := store.Token{Hash: sum("short"), Person: "ada", At: at(1), Expires: at(5)}
	bobs := store.Token{Hash: sum("bobs"), Person: "bob", At: at(1), Expires: at(100)}
	write(t, s, store.AddToken{Token: long}, store.AddToken{Token: short}, store.AddToken{Token: bobs})
	wantConflict(t, s, "same token", store.Change{Writes: []store.Write{store.AddToken{Token: long}}})
	write(t, s, store.RevokeTokens{Person: "ada", At: at(50)})
	write(t, s, store.RevokeTokens{Person: "ada", At: at(60)}) // the first time stays
	long.Revoked = at(50)
	got(s.Token(ctx, long.Hash))(t, "revoked token", long)
	got(s.Token(ctx, bobs.Hash))(t, "another person's token", bobs)
	got(s.TokensOf(ctx, "ada"))(t, "TokensOf", []store.Token{short, long})
	_, err = s.Token(ctx, sum("guess"))
	wantError(t, "unknown token", err, store.ErrNotFound)
}

func keepsSettings(t *testing.T, s *store.Store) {
	_, _, err := s.Setting(t.Context(), "epoch")
	wantError(t, "unknown setting", err, store.ErrNotFound)
	for i := range 2 {
		write(t, s, store.PutSetting{Name: "epoch", Value: number(i)})
		value, version, err := s.Setting(t.Context(), "epoch")
		got(value, err)(t, "Setting", number(i))
		got(version, err)(t, "Setting's version", int64(i+1))
	}
}

func keepsEnrollTokens(t *testing.T, s *store.Store) {
	ctx := t.Context()
	token := store.EnrollToken{Hash: sum("t"), Product: "lamp", HardwareID: "r1", Profile: "uefi", By: "ada", Expires: at(10)}
	write(t, s, store.AddEnrollToken{Token: token})
	got(s.EnrollToken(ctx, token.Hash))(t, "EnrollToken", token)
	use := func(hash digest.SHA256, minute int) store.Change {
		return store.Change{Writes: []store.Write{store.UseEnrollToken{Hash: hash, Device: "a", At: at(minute)}}}
	}
	wantConflict(t, s, "unknown token", use(sum("guess"), 1))
	wantConflict(t, s, "expired token", use(token.Hash, 10))
	commit(t, s, use(token.Hash, 9))
	wantConflict(t, s, "used token", use(token.Hash, 9))
	_, err := s.EnrollToken(ctx, token.Hash)
	wantError(t, "used token", err, store.ErrNotFound)
}

func sweeps(t *testing.T, s *store.Store) {
	ctx := t.Context()
	challenge := func(name string, minute int) store.Change {
		return store.Change{Writes: []store.Write{store.ConsumeChallenge{Digest: sum(name), Expires: at(minute)}}}
	}
	commit(t, s, challenge("old", 5))
	commit(t, s, challenge("new", 15))
	wantConflict(t, s, "challenge used twice", challenge("old", 5))
	write(t, s, store.AddToken{Token: store.Token{Hash: sum("old"), Person: "ada", Expires: at(5)}},
		store.AddToken{Token: store.Token{Hash: sum("new"), Person: "ada", Expires: at(15)}},
		store.AddEnrollToken{Token: store.EnrollToken{Hash: sum("old"), Expires: at(5)}},
		store.AddEnrollToken{Token: store.EnrollToken{Hash: sum("new"), Expires: at(15)}})
	if err := s.Sweep(ctx, at(10)); err != nil {
		t.Fatalf("Sweep: %v", err)
	}
	commit(t, s, challenge("old", 5))
	wantConflict(t, s, "challenge that is still valid", challenge("new", 15))
	_, err := s.Token(ctx, sum("old"))
	wantError(t, "swept token", err, store.ErrNotFound)
	_, err = s.EnrollToken(ctx, sum("old"))
	wantError(t, "swept enrollment token", err, store.ErrNotFound)
	if _, err := s.Token(ctx, sum("new")); err != nil {
		t.Errorf("valid token: %v", err)
	}
	if _, err := s.EnrollToken(ctx, sum("new")); err != nil {
		t.Errorf("valid enrollment token: %v", err)
	}
}

func findsEvents(t *testing.T, s *store.Store) {
	ctx := t.Context()
	for i := range 6 {
		e := store.Event{At: at(i), Type: fmt.Sprintf("type.%d", i%3), Actor: "server", Subject: fmt.Sprintf("s%d", i%2)}
		commit(t, s, store.Change{Events: []store.Event{e}})
	}
	all := checkEvents(t, s)
	pick := func(list ...int) (out []store.StoredEvent) {
		for _, n := range list {
			out = append(out, all[n-1])
		}
		return out
	}
	got(s.Events(ctx, store.EventFilter{Subject: "s1"}, 0, 0))(t, "subject", pick(2, 4, 6))
	got(s.Events(ctx, store.EventFilter{Types: []string{"type.0", "type.2"}}, 1, 2))(t, "types, page", pick(3, 4))
	got(s.Events(ctx, store.EventFilter{From: at(2), To: at(4)}, 0, 0))(t, "period", pick(3, 4))
	got(s.Events(ctx, store.EventFilter{Subject: "s0", Types: []string{"type.1"}}, 0, 0))(t, "both", pick(5))
	got(s.Events(ctx, store.EventFilter{Subjects: []string{"s1", "s9"}, Types: []string{"type.1", "type.2"}}, 0, 0))(t, "subjects and types", pick(2, 6))
	got(s.LastEvents(ctx, "s0", 2))(t, "LastEvents", pick(5, 3))
	got(s.LastEvents(ctx, "", 2))(t, "LastEvents of all", pick(6, 5))
}

func writesLeaves(t *testing.T, s *store.Store) {
	commit(t, s, store.Change{Events: []store.Event{
		{At: noon, Type: "a.b", Actor: "ada", Subject: `quote " < ü`, Data: map[string]any{"z": 1, "a": []string{"x"}, "m": nil}},
		{At: noon.Add(time.Nanosecond).In(time.FixedZone("east", 3600)), Type: "c", Actor: "", Subject: ""},
	}})
	want := []string{
		`{"v":1,"n":1,"at":"2026-11-22T12:00:00.123456Z","type":"a.b","actor":"ada","subject":"quote \" < ü","data":{"a":["x"],"m":null,"z":1}}`,
		`{"v":1,"n":2,"at":"2026-11-22T12:00:00.123456Z","type":"c","actor":"","subject":"","data":{}}`,
	}
	for i, e := range checkEvents(t, s) {
		got(string(e.Leaf), nil)(t, "leaf", want[i])
	}
	for name, e := range map[string]store.Event{
		"no type":    {At: noon},
		"no time":    {Type: "a"},
		"no object":  {At: noon, Type: "a", Data: []int{1}},
		"no JSON":    {At: noon, Type: "a", Data: map[string]any{"f": func() {}}},
		"bad UTF-8":  {At: noon, Type: "a", Subject: "\xff"},
		"zero bytes": {At: noon, Type: "a", Actor: "\x00"},
	} {
		if err := s.Commit(t.Context(), store.Change{Events: []store.Event{e}}); err == nil {
			t.Errorf("%s: committed, want an error", name)
		}
	}
}

func fencesLocks(t *testing.T, s *store.Store) {
	ctx := t.Context()
	lock := func(holder string, minute int) (int64, bool) {
		t.Helper()
		fence, ok, err := s.Lock(ctx, "publish", holder, 5*time.Minute, at(minute))
		if err != nil {
			t.Fatalf("Lock: %v", err)
		}
		return fence, ok
	}
	wantLock := func(what, holder string, minute int, wantFence int64, wantOK bool) {
		t.Helper()
		fence, ok := lock(holder, minute)
		if ok != wantOK || (ok && fence != wantFence) {
			t.Errorf("%s: got fence %d, %v, want %d, %v", what, fence, ok, wantFence, wantOK)
		}
	}
	fenced := func(fence int64) error {
		return s.Commit(ctx, store.Change{
			Expect: []store.Expect{{Table: store.Locks, Key: "publish", Version: fence}},
			Writes: []store.Write{store.PutSetting{Name: "s", Value: number(int(fence))}},
		})
	}
	wantLock("first", "r1", 0, 1, true)
	wantLock("held by another", "r2", 1, 0, false)
	wantLock("renewed", "r1", 4, 1, true)
	wantLock("still held after renewal", "r2", 8, 0, false)
	if err := fenced(1); err != nil {
		t.Errorf("change under the lock: %v", err)
	}
	wantLock("lease ended", "r2", 9, 2, true)
	wantError(t, "change of the former holder", fenced(1), store.ErrConflict)
	if err := fenced(2); err != nil {
		t.Errorf("change of the new holder: %v", err)
	}
	if err := s.Unlock(ctx, "publish", "r1"); err != nil {
		t.Fatalf("Unlock of what another holds: %v", err)
	}
	wantLock("still held by r2", "r1", 10, 0, false)
	if err := s.Unlock(ctx, "publish", "r2"); err != nil {
		t.Fatalf("Unlock: %v", err)
	}
	wantLock("given back", "r1", 10, 3, true)
	wantLock("own lease ran out", "r1", 60, 4, true)
}
