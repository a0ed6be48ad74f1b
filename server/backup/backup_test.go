package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts/dirstore"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/backup"
	"github.com/cordon-ota/cordon/server/epoch"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/store"
)

var quiet = slog.New(slog.DiscardHandler)

func options(at time.Time) backup.Options {
	return backup.Options{Build: "test", Now: func() time.Time { return at }, Progress: func(string, int64, int64) {}}
}

// lived is a server that has published a release, with its keys.
func lived(t testing.TB) (*repositorytest.World, backup.Source) {
	t.Helper()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp")))
	w.Publish(w.Draft("lamp", "1.0", 1))
	keys := filepath.Join(t.TempDir(), "keys")
	for name, data := range map[string]string{"tuf-timestamp.pem": "key", "challenge.secret": "secret", ".new-123": "half"} {
		if err := errors.Join(os.MkdirAll(keys, 0o700), os.WriteFile(filepath.Join(keys, name), []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return w, backup.Source{DSN: w.DSN, KeysDir: keys, Blobs: w.Blobs, CopyBlobs: true}
}

func take(t testing.TB, s backup.Source) string {
	t.Helper()
	path, _, err := backup.Take(t.Context(), s, filepath.Join(t.TempDir(), "backups"), options(repositorytest.Noon))
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return path
}

// target is an empty place to restore into.
func target(t testing.TB) backup.Target {
	t.Helper()
	dir := t.TempDir()
	blobs, err := dirstore.Open(filepath.Join(dir, "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	return backup.Target{DataDir: dir, KeysDir: filepath.Join(dir, "keys"), DSN: "sqlite:" + filepath.Join(dir, "cordon.db"), Blobs: blobs}
}

func restore(t testing.TB, path string, to backup.Target) (backup.Result, error) {
	t.Helper()
	return backup.Restore(t.Context(), path, to, options(repositorytest.Noon.Add(time.Hour)), quiet)
}

func TestRestoreBringsRowsKeysAndImages(t *testing.T) {
	t.Parallel()
	w, source := lived(t)
	path, to := take(t, source), target(t)
	r, err := restore(t, path, to)
	if err != nil {
		t.Fatalf("Restore: %v", err)
	}
	s := repositorytest.Must(store.Open(t.Context(), to.DSN, quiet))
	defer s.Close()
	state := repositorytest.Must(epoch.Load(t.Context(), s))
	if state != r.State || state.Epoch == 0 || state.Events != r.Manifest.Events || !state.TakenAt.Equal(repositorytest.Noon) {
		t.Errorf("got state %+v, want %+v", state, r.State)
	}
	row := repositorytest.Must(s.Release(t.Context(), "lamp/1.0"))
	for _, sum := range repositorytest.Must(repository.BlobsOf(row)) {
		want := repositorytest.Must(io.ReadAll(repositorytest.Must(w.Blobs.Open(t.Context(), sum, 0, -1))))
		got := repositorytest.Must(io.ReadAll(repositorytest.Must(to.Blobs.Open(t.Context(), sum, 0, -1))))
		if !bytes.Equal(got, want) {
			t.Errorf("blob %s differs", sum)
		}
	}
	key := filepath.Join(to.KeysDir, "tuf-timestamp.pem")
	if b := repositorytest.Must(os.ReadFile(key)); string(b) != "key" || repositorytest.Must(os.Stat(key)).Mode().Perm() != 0o600 {
		t.Errorf("got key %q of mode %v", b, repositorytest.Must(os.Stat(key)).Mode())
	}
	if names := repositorytest.Must(os.ReadDir(to.KeysDir)); len(names) != 2 {
		t.Errorf("got keys %v, want the two that are whole", names)
	}
	events := repositorytest.Must(s.LastEvents(t.Context(), "server", 1))
	if len(events) != 1 || events[0].Type != "server.restored" || events[0].Number != r.Manifest.Events+1 {
		t.Errorf("got events %+v", events)
	}
	if _, err := os.Stat(filepath.Join(to.DataDir, backup.Unfinished)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the restore left its mark: %v", err)
	}
	if _, err := restore(t, path, to); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("a second restore: got %v, want ErrNotEmpty", err)
	}
}

// A backup that lost a byte anywhere, or was cut off anywhere, is refused, and nothing has changed by then.
func TestRefusesADamagedBackup(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	path := take(t, source)
	whole := repositorytest.Must(os.ReadFile(path))
	refuse := func(what string, b []byte) {
		t.Helper()
		if _, _, err := backup.Read(bytes.NewReader(b), nil); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", what, err)
		}
	}
	if _, _, err := backup.Read(bytes.NewReader(whole), nil); err != nil {
		t.Fatal(err)
	}
	step := max(1, len(whole)/997)
	for at := 0; at < len(bytes.TrimRight(whole, "\x00")); at += step {
		changed := bytes.Clone(whole)
		changed[at] ^= 1
		if bytes.Equal(content(t, changed), content(t, whole)) {
			continue // padding of the tar format, which holds nothing
		}
		refuse("changed", changed)
		refuse("cut", whole[:at])
	}
	refuse("with another word in its manifest", bytes.Replace(whole, []byte(`"build":"test"`), []byte(`"build":"tess"`), 1))
	refuse("with more behind it", append(bytes.Clone(whole), "more"...))
	refuse("empty", nil)

	to := target(t)
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	before := list(t, to.DataDir)
	if _, err := restore(t, path, to); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
	if after := list(t, to.DataDir); after != before {
		t.Errorf("a refused restore changed something:\n%s\n%s", before, after)
	}
}

// content is what an archive says, without the padding; nil when it cannot be read.
func content(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	m, _, err := backup.Read(bytes.NewReader(b), func(name string, data []byte) error {
		out.WriteString(name)
		out.Write(data)
		return nil
	})
	if err != nil {
		return nil
	}
	fmt.Fprintf(&out, "%+v", m)
	return out.Bytes()
}

// list names everything below a folder with its size.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			out.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRefusesMissingAndChangedImages(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	path := take(t, source)
	images := repositorytest.Must(filepath.Glob(filepath.Join(filepath.Dir(path), "blobs", "*", "*")))
	if len(images) < 3 {
		t.Fatalf("got images %v", images)
	}
	b := repositorytest.Must(os.ReadFile(images[0]))
	b[0] ^= 1
	if err := os.WriteFile(images[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, target(t)); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("changed: got %v, want ErrDamaged", err)
	}
	if err := os.Remove(images[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, target(t)); !errors.Is(err, backup.ErrMissing) {
		t.Errorf("missing: got %v, want ErrMissing", err)
	}
	// A second backup into the folder brings it back, and copies nothing else.
	if _, _, err := backup.Take(t.Context(), source, filepath.Dir(path), options(repositorytest.Noon.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, target(t)); err != nil {
		t.Errorf("after another backup: %v", err)
	}
}

// Images that were left to the artifact store must be there.
func TestImagesLeftToTheStore(t *testing.T) {
	t.Parallel()
	w, source := lived(t)
	source.CopyBlobs = false
	path, to := take(t, source), target(t)
	if _, err := restore(t, path, to); !errors.Is(err, backup.ErrMissing) {
		t.Errorf("another store: got %v, want ErrMissing", err)
	}
	to = target(t)
	to.Blobs = w.Blobs
	if _, err := restore(t, path, to); err != nil {
		t.Errorf("the same store: %v", err)
	}
}

func TestBackupWithoutKeysNeedsThem(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	keys := source.KeysDir
	source.KeysDir = ""
	path, to := take(t, source), target(t)
	if b := repositorytest.Must(os.ReadFile(path)); bytes.Contains(b, []byte("keys/")) {
		t.Error("the backup holds keys")
	}
	if _, err := restore(t, path, to); !errors.Is(err, backup.ErrNoKeys) {
		t.Errorf("got %v, want ErrNoKeys", err)
	}
	if err := os.CopyFS(to.KeysDir, os.DirFS(keys)); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, to); err != nil {
		t.Errorf("with the keys brought: %v", err)
	}
}

func TestKeysAreNeverOverwritten(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	path, to := take(t, source), target(t)
	mine := filepath.Join(to.KeysDir, "tuf-timestamp.pem")
	if err := errors.Join(os.Mkdir(to.KeysDir, 0o700), os.WriteFile(mine, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, to); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("got %v, want ErrNotEmpty", err)
	}
	if b := repositorytest.Must(os.ReadFile(mine)); string(b) != "mine" {
		t.Errorf("the key is %q now", b)
	}
}

// forged is the backup again, with another manifest and the right seal: checksums are no signatures.
func forged(t *testing.T, path string, change func(*backup.Manifest)) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, data []byte) error {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600})
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	m, _, err := backup.Read(bytes.NewReader(repositorytest.Must(os.ReadFile(path))), add)
	if err != nil {
		t.Fatal(err)
	}
	change(&m)
	manifest := repositorytest.Must(json.Marshal(m))
	err = errors.Join(add("manifest.json", manifest), add("manifest.sha256", []byte(digest.Of(manifest).String())), w.Close())
	if err = errors.Join(err, os.WriteFile(path, out.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// A backup that says it holds no keys must not bring any: they would take the place of those that the operator brought.
func TestRefusesHiddenKeys(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	path, to := forged(t, take(t, source), func(m *backup.Manifest) { m.Keys = false }), target(t)
	mine := filepath.Join(to.KeysDir, "tuf-timestamp.pem")
	if err := errors.Join(os.Mkdir(to.KeysDir, 0o700), os.WriteFile(mine, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, to); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
	if b := repositorytest.Must(os.ReadFile(mine)); string(b) != "mine" {
		t.Errorf("the key is %q now", b)
	}
	path = forged(t, take(t, source), func(*backup.Manifest) {})
	if _, err := restore(t, path, target(t)); err != nil {
		t.Errorf("the same with an honest manifest: %v", err)
	}
}

// What a killed restore left is finished by the same one, and by no other; whatever was there already is taken over.
func TestRestoreThatWasCutOffIsFinished(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	path := take(t, source)
	sum := digest.Of(repositorytest.Must(os.ReadFile(path)))
	mark := func(to backup.Target, sum digest.SHA256) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(to.DataDir, backup.Unfinished), []byte(sum.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	early := target(t) // killed while keys were written
	mark(early, sum)
	if err := errors.Join(os.Mkdir(early.KeysDir, 0o700), os.WriteFile(filepath.Join(early.KeysDir, "challenge.secret"), []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(t, path, early); err != nil {
		t.Errorf("killed while keys were written: %v", err)
	}
	late := target(t) // killed after the database was filled
	first := repositorytest.Must(restore(t, path, late))
	mark(late, sum)
	again, err := restore(t, path, late)
	if err != nil || again.State != first.State {
		t.Errorf("killed at the end: got %+v, %v, want %+v", again.State, err, first.State)
	}
	foreign := target(t)
	mark(foreign, digest.Of([]byte("another backup")))
	if _, err := restore(t, path, foreign); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("over the restore of another backup: got %v, want ErrNotEmpty", err)
	}
}

func TestRefusesAClockBehindTheBackup(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	path, to := take(t, source), target(t)
	_, err := backup.Restore(t.Context(), path, to, options(repositorytest.Noon.Add(-time.Minute)), quiet)
	if !errors.Is(err, epoch.ErrClock) {
		t.Errorf("got %v, want ErrClock", err)
	}
}

// A backup that is being written is not to be seen, and what a killed one left is removed by the next.
func TestUnfinishedBackupIsNone(t *testing.T) {
	t.Parallel()
	_, source := lived(t)
	dir := filepath.Join(t.TempDir(), "backups")
	stop := errors.New("stop")
	o := options(repositorytest.Noon)
	o.Progress = func(what string, _, _ int64) {
		if files := repositorytest.Must(filepath.Glob(filepath.Join(dir, "*.backup"))); len(files) > 0 {
			t.Errorf("during %s: there is %v already", what, files)
		}
		if what == "releases" {
			panic(stop)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_, _, _ = backup.Take(t.Context(), source, dir, o)
	}()
	left := filepath.Join(dir, ".partial-999")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := backup.Take(t.Context(), source, dir, options(repositorytest.Noon)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed backup left is still there: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	_, source := lived(f)
	source.CopyBlobs = false
	whole := repositorytest.Must(os.ReadFile(take(f, source)))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, sum, err := backup.Read(bytes.NewReader(b), nil)
		switch {
		case err == nil && sum != digest.Of(b):
			t.Errorf("got sum %s of %s", sum, digest.Of(b))
		case err != nil && !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNewer):
			t.Errorf("got %v", err)
		}
	})
}

func FuzzDecodeRows(f *testing.F) {
	shape := store.TableShape{Name: "t", Columns: []store.ColumnShape{
		{Name: "a", Kind: store.KindInt}, {Name: "b", Kind: store.KindText}, {Name: "c", Kind: store.KindBytes}, {Name: "d", Kind: store.KindBool},
	}}
	f.Add([]byte(`[1,"x","AQI=",true]` + "\n" + `[-9223372036854775808,null,"",false]` + "\n"))
	f.Add([]byte(`[1.5,"x","?",1]`))
	f.Add([]byte(`[1,"x"]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := int64(0)
		rows, err := backup.DecodeRows(b, shape, func(row []any) error {
			seen++
			for i, c := range shape.Columns {
				ok := row[i] == nil
				switch c.Kind {
				case store.KindInt:
					_, is := row[i].(int64)
					ok = ok || is
				case store.KindText:
					_, is := row[i].(string)
					ok = ok || is
				case store.KindBytes:
					_, is := row[i].([]byte)
					ok = ok || is
				case store.KindBool:
					_, is := row[i].(bool)
					ok = ok || is
				}
				if !ok {
					t.Errorf("column %s is a %T", c.Name, row[i])
				}
			}
			return nil
		})
		if err == nil && rows != seen {
			t.Errorf("got %d rows, saw %d", rows, seen)
		}
	})
}
