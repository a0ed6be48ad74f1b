package tufrepo_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
)

var errInjected = errors.New("injected fault")

// faulty is a real store whose call number failAt fails: before it does anything, or after it persisted. observe runs
// whenever the pointer may have moved; nothing else can make it lead to a missing file.
type faulty struct {
	artifacts.Names
	failAt  int
	after   bool
	calls   int
	observe func()
}

func (f *faulty) fail() bool {
	f.calls++
	return f.calls == f.failAt
}

func (f *faulty) Load(ctx context.Context, name string) ([]byte, string, error) {
	if f.fail() {
		return nil, "", errInjected
	}
	return f.Names.Load(ctx, name)
}

func (f *faulty) Create(ctx context.Context, name string, data []byte) error {
	fail := f.fail()
	if fail && !f.after {
		return errInjected
	}
	err := f.Names.Create(ctx, name, data)
	if fail {
		return errInjected
	}
	return err
}

func (f *faulty) Swap(ctx context.Context, name, revision string, data []byte) (string, error) {
	fail := f.fail()
	if fail && !f.after {
		return "", errInjected
	}
	next, err := f.Names.Swap(ctx, name, revision, data)
	f.observe()
	if fail {
		return "", errInjected
	}
	return next, err
}

func openStore(t *testing.T) artifacts.Names {
	t.Helper()
	return must(dirstore.Open(t.TempDir()))(t)
}

// objects are the files of a release in the safe order.
func (r *repo) objects(root []byte, rel release) []tufrepo.Object {
	var out []tufrepo.Object
	out = append(out,
		tufrepo.Object{Name: "1.root.json", Data: root},
		tufrepo.Object{Name: tufrepo.TargetFileName("policy/gw.json", digest.Of(r.policy)), Data: r.policy})
	for product, doc := range rel.products {
		out = append(out, tufrepo.Object{Name: tufrepo.FileName(rel.version, product), Data: doc})
	}
	slices.SortFunc(out, func(a, b tufrepo.Object) int { return strings.Compare(a.Name, b.Name) })
	return append(out,
		tufrepo.Object{Name: tufrepo.FileName(rel.version, "targets"), Data: rel.targets},
		tufrepo.Object{Name: tufrepo.FileName(rel.version, "snapshot"), Data: rel.snapshot})
}

// checkPublished follows whatever timestamp is published, from outside, and fails if anything is missing.
func (r *repo) checkPublished(t *testing.T, store artifacts.Names, root []byte) int64 {
	t.Helper()
	stamp, _, err := store.Load(t.Context(), "image/timestamp.json")
	if errors.Is(err, artifacts.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	im := newImage(t, root)
	if err := im.Timestamp(stamp); err != nil {
		t.Fatal(err)
	}
	for _, product := range []string{"gw", "sensor"} {
		for {
			w, err := im.Next(product)
			if err != nil {
				t.Fatal(err)
			}
			if w == nil {
				break
			}
			doc, _, err := store.Load(t.Context(), "image/"+w.Name)
			if err != nil {
				t.Fatalf("the timestamp leads to %s: %v", w.Name, err)
			}
			if err := im.Accept(w, doc); err != nil {
				t.Fatal(err)
			}
		}
	}
	target, _, ok := im.Target("policy/gw.json")
	if !ok {
		t.Fatal("no policy")
	}
	if _, _, err := store.Load(t.Context(), "image/"+tufrepo.TargetFileName(target.Path, target.SHA256)); err != nil {
		t.Fatal(err)
	}
	return im.State().Timestamp
}

// Every call fails once, before and after it persisted; at no moment does the timestamp lead to a missing file, and
// running again succeeds.
func TestPublishSurvivesAFaultAtEveryCall(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	root := r.rootDoc(t, 1)
	one, two := r.release(t, 1), r.release(t, 2)
	objects := [][]tufrepo.Object{r.objects(root, one), r.objects(root, two)}
	for name, after := range map[string]bool{"fails": false, "persists and fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for failAt := 1; ; failAt++ {
				store := openStore(t)
				f := &faulty{Names: store, failAt: failAt, after: after}
				f.observe = func() { r.checkPublished(t, store, root) }
				failed := publishBoth(t, f, objects, one, two)
				if got := r.checkPublished(t, store, root); got != 2 {
					t.Fatalf("call %d: timestamp %d, want 2", failAt, got)
				}
				if !failed {
					return // failAt is past the last call
				}
			}
		})
	}
}

func publishBoth(t *testing.T, f *faulty, objects [][]tufrepo.Object, one, two release) (failed bool) {
	t.Helper()
	for i, rel := range []release{one, two} {
		err := tufrepo.Publish(t.Context(), f, objects[i], rel.stamp)
		if err != nil && !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		if err == nil {
			continue
		}
		failed = true
		if err := tufrepo.Publish(t.Context(), f, objects[i], rel.stamp); err != nil {
			t.Fatalf("second run: %v", err)
		}
	}
	return failed
}

func TestPublishAgainChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	store := openStore(t)
	rel := r.release(t, 3)
	objects := r.objects(r.rootDoc(t, 1), rel)
	for range 2 {
		if err := tufrepo.Publish(t.Context(), store, objects, rel.stamp); err != nil {
			t.Fatal(err)
		}
	}
	// A new timestamp over the same snapshot needs no objects.
	rel.version = 4
	if err := tufrepo.Publish(t.Context(), store, nil, r.stampOver(t, rel).stamp); err != nil {
		t.Fatal(err)
	}
}

func TestPublishRefusesToGoBack(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	store := openStore(t)
	rel := r.release(t, 3)
	if err := tufrepo.Publish(t.Context(), store, r.objects(r.rootDoc(t, 1), rel), rel.stamp); err != nil {
		t.Fatal(err)
	}
	older := r.release(t, 2)
	wantErr(t, tufrepo.Publish(t.Context(), store, r.objects(nil, older)[1:], older.stamp), tufrepo.ErrRollback)
	wantErr(t, tufrepo.Publish(t.Context(), store, nil, r.stampOver(t, rel).stamp), tufrepo.ErrRollback)
	changed := r.objects(nil, r.release(t, 3))[1:] // the published names with other bytes
	wantErr(t, tufrepo.Publish(t.Context(), store, changed, r.release(t, 4).stamp), artifacts.ErrExists)
	wantErr(t, tufrepo.Publish(t.Context(), store, []tufrepo.Object{{Name: "timestamp.json"}}, r.release(t, 5).stamp), tufrepo.ErrSpec)
}

func TestPublishRefusesDanglingTimestamp(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	rel := r.release(t, 1)
	objects := r.objects(r.rootDoc(t, 1), rel)
	for i, o := range objects {
		store := openStore(t)
		err := tufrepo.Publish(t.Context(), store, slices.Delete(slices.Clone(objects), i, i+1), rel.stamp)
		if o.Name == "1.root.json" { // nothing names a root
			continue
		}
		if !errors.Is(err, tufrepo.ErrMissing) {
			t.Errorf("without %s: got %v", o.Name, err)
		}
		if _, _, err := store.Load(t.Context(), "image/timestamp.json"); !errors.Is(err, artifacts.ErrNotFound) {
			t.Errorf("without %s the timestamp was published", o.Name)
		}
	}
}

// storeFetcher gives go-tuf's own client the published files; firmware comes from beside.
type storeFetcher struct {
	store    artifacts.Names
	firmware map[string][]byte
}

func (f storeFetcher) DownloadFile(address string, _ int64, _ time.Duration) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(u.Path, "/repo/")
	if data, ok := f.firmware[name]; ok {
		return data, nil
	}
	data, _, err := f.store.Load(context.Background(), name)
	if errors.Is(err, artifacts.ErrNotFound) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: 404, URL: address}
	}
	return data, err
}

// go-tuf's updater, which shares no verification state with ours, downloads through the published repository.
func TestOtherClientReadsThePublishedRepository(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	store := openStore(t)
	rel := r.release(t, 2)
	root := r.rootDoc(t, 1)
	if err := tufrepo.Publish(t.Context(), store, r.objects(root, rel), rel.stamp); err != nil {
		t.Fatal(err)
	}
	cfg := must(config.New("https://device.invalid/repo/image", root))(t)
	cfg.DisableLocalCache = true
	cfg.Fetcher = storeFetcher{store, map[string][]byte{
		"image/" + tufrepo.TargetFileName("sensor/1.2.0/rootfs", digest.Of([]byte("firmware"))): []byte("firmware"),
	}}
	up := must(updater.New(cfg))(t)
	up.UnsafeSetRefTime(now)
	for path, want := range map[string]string{"policy/gw.json": string(r.policy), "sensor/1.2.0/rootfs": "firmware"} {
		info := must(up.GetTargetInfo(path))(t)
		_, got, err := up.DownloadTarget(info, path, "")
		if err != nil || string(got) != want {
			t.Fatalf("%s: got %q, %v", path, got, err)
		}
	}
	if _, err := up.GetTargetInfo("sensor/9.9.9/rootfs"); err == nil {
		t.Fatal("found a target that does not exist")
	}
}
