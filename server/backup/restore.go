package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/epoch"
	"github.com/cordon-ota/cordon/server/store"
)

// Target is what is restored into. Database and key folder must be empty; blobs that the artifact store has already are
// left as they are.
type Target struct {
	DataDir string
	KeysDir string
	DSN     string
	Blobs   artifacts.Blobs
}

// Unfinished is the file in the data directory of a restore that has begun and not ended. A server refuses to start there.
const Unfinished = "restore.incomplete"

// Result is what a restore came to.
type Result struct {
	Manifest Manifest
	State    epoch.State
}

// Restore makes a new server out of a backup. Everything is read and checked before anything changes. A restore that was
// killed is finished by the same one again. Errors to test for: ErrDamaged, ErrNewer, ErrMissing, ErrNotEmpty, ErrNoKeys,
// epoch.ErrClock.
func Restore(ctx context.Context, path string, t Target, o Options, log *slog.Logger) (Result, error) {
	m, sum, err := Verify(ctx, path, o.Progress)
	if err != nil {
		return Result{}, err
	}
	now := o.Now().UTC()
	next, err := epoch.Next(m.Epoch, m.TakenAt, now)
	if err != nil {
		return Result{}, err
	}
	r := &restoration{path: path, target: t, options: o, manifest: m, sum: sum, log: log,
		state: epoch.State{Epoch: next, RestoredAt: now, Backup: sum, TakenAt: m.TakenAt, Events: m.Events}}
	if err := r.check(ctx); err != nil {
		return Result{}, err
	}
	if r.done { // all but the last step was made before
		return r.end()
	}
	if err := writeDurable(r.marker(), []byte(sum.String()+"\n")); err != nil {
		return Result{}, err
	}
	if err := r.blobs(ctx); err != nil {
		return Result{}, err
	}
	if err := r.rows(ctx); err != nil {
		return Result{}, err
	}
	return r.end()
}

type restoration struct {
	path     string
	target   Target
	options  Options
	manifest Manifest
	sum      digest.SHA256
	state    epoch.State
	log      *slog.Logger

	resumed bool // an earlier run of this restore was cut off
	done    bool // and had filled the database already
}

func (r *restoration) marker() string { return filepath.Join(r.target.DataDir, Unfinished) }

// check says whether all of it can be done, before anything changes.
func (r *restoration) check(ctx context.Context) error {
	b, err := os.ReadFile(r.marker())
	switch {
	case err == nil && strings.TrimSpace(string(b)) == r.sum.String():
		r.resumed = true
	case err == nil:
		return fmt.Errorf("%w: the restore of another backup was begun in %s", ErrNotEmpty, r.target.DataDir)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot look at the data directory: %w", err)
	}
	if err := r.checkDatabase(ctx); err != nil {
		return err
	}
	if err := r.checkKeys(); err != nil {
		return err
	}
	for _, blob := range r.manifest.Blobs {
		if err := r.checkBlob(ctx, blob); err != nil {
			return err
		}
	}
	return nil
}

func (r *restoration) checkDatabase(ctx context.Context) error {
	err := store.CheckRestore(ctx, r.target.DSN, r.manifest.Schema)
	if !errors.Is(err, store.ErrNotEmpty) {
		return err
	}
	if !r.resumed {
		return fmt.Errorf("%w: %w", ErrNotEmpty, err)
	}
	var there epoch.State
	readErr := store.ReadSnapshot(ctx, r.target.DSN, func(s *store.Snapshot) (err error) {
		there, err = epoch.Load(ctx, s)
		return err
	})
	if readErr != nil {
		return readErr
	}
	if there.Backup != r.sum {
		return fmt.Errorf("%w: %w", ErrNotEmpty, err)
	}
	r.state, r.done = there, true
	return nil
}

func (r *restoration) checkKeys() error {
	files, err := os.ReadDir(r.target.KeysDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot look at the key folder: %w", err)
	}
	switch {
	case r.manifest.Keys && len(files) > 0 && !r.resumed:
		return fmt.Errorf("%w: there are keys in %s", ErrNotEmpty, r.target.KeysDir)
	case !r.manifest.Keys && len(files) == 0:
		return fmt.Errorf("%w: bring the key folder of the old server to %s first", ErrNoKeys, r.target.KeysDir)
	}
	return nil
}

func (r *restoration) checkBlob(ctx context.Context, blob Blob) error {
	size, err := r.target.Blobs.Stat(ctx, blob.SHA256)
	switch {
	case err == nil && size == blob.Length:
		return nil
	case err == nil:
		return fmt.Errorf("%w: the artifact store has %d bytes of %s, the backup says %d", ErrMissing, size, blob.SHA256, blob.Length)
	case !errors.Is(err, artifacts.ErrNotFound):
		return fmt.Errorf("cannot look at the artifact store: %w", err)
	case !blob.Kept:
		return fmt.Errorf("%w: the backup left %s to the artifact store, which does not have it", ErrMissing, blob.SHA256)
	}
	return nil
}

// blobs brings what the artifact store does not have.
func (r *restoration) blobs(ctx context.Context) error {
	for i, blob := range r.manifest.Blobs {
		r.options.Progress("images into the artifact store", int64(i), int64(len(r.manifest.Blobs)))
		at, err := r.target.Blobs.Uploaded(ctx, blob.SHA256, blob.Length)
		if err == nil && at < blob.Length {
			err = r.upload(ctx, blob, at)
		}
		if err != nil {
			return fmt.Errorf("cannot restore image %s: %w", blob.SHA256, err)
		}
	}
	return nil
}

func (r *restoration) upload(ctx context.Context, blob Blob, at int64) error {
	f, err := os.Open(blobPath(filepath.Dir(r.path), blob.SHA256))
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := r.target.Blobs.Write(ctx, blob.SHA256, blob.Length, at, io.NewSectionReader(f, at, blob.Length-at))
	if err == nil && now != blob.Length {
		err = fmt.Errorf("%w: it stands at %d of %d", artifacts.ErrOffset, now, blob.Length)
	}
	return err
}

// rows reads the archive once more, from the beginning, and puts keys and rows where they belong. The database takes them
// in one transaction, which ends only when the whole archive was read and is the one that was checked.
func (r *restoration) rows(ctx context.Context) error {
	f, err := os.Open(r.path)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	value, err := r.state.Encode()
	if err != nil {
		return err
	}
	change := store.Restored{
		At: r.state.RestoredAt, Setting: store.PutSetting{Name: epoch.Setting, Value: value}, EventNumber: r.manifest.Events + 1,
		Event: store.Event{At: r.state.RestoredAt, Type: audit.ServerRestored, Actor: "server", Subject: "server", Data: map[string]any{
			"backup": r.sum, "taken_at": r.state.TakenAt, "epoch": r.state.Epoch, "events": r.state.Events, "build": r.options.Build,
		}},
	}
	return store.Restore(ctx, r.target.DSN, r.manifest.Schema, change, r.log, func(l *store.Loader) error { return r.load(f, l) })
}

func (r *restoration) load(f io.Reader, l *store.Loader) error {
	tables := map[string]Table{}
	for _, t := range r.manifest.Tables {
		tables[t.Name] = t
	}
	rows := map[string]int64{}
	_, sum, err := Read(f, func(name string, data []byte) error {
		if key, ok := strings.CutPrefix(name, keyPrefix); ok {
			return r.key(key, data)
		}
		table, _ := tableOf(name)
		t, ok := tables[table]
		if !ok {
			return damaged("the manifest does not know table %s", table)
		}
		n, err := decodeRows(data, t.TableShape, func(row []any) error { return l.Add(t.TableShape, row) })
		rows[table] += n
		r.options.Progress("rows of "+table, rows[table], t.Rows)
		if err != nil {
			return fmt.Errorf("cannot restore %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sum != r.sum {
		return damaged("it changed while it was read")
	}
	for name, t := range tables {
		if rows[name] != t.Rows {
			return damaged("table %s has %d rows, its manifest says %d", name, rows[name], t.Rows)
		}
	}
	return nil
}

func (r *restoration) key(name string, data []byte) error {
	if err := os.MkdirAll(r.target.KeysDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the key folder: %w", err)
	}
	return writeDurable(filepath.Join(r.target.KeysDir, name), data)
}

// end takes the mark away: from now on a server may start here.
func (r *restoration) end() (Result, error) {
	if err := os.Remove(r.marker()); err != nil {
		return Result{}, fmt.Errorf("cannot end the restore: %w", err)
	}
	return Result{Manifest: r.manifest, State: r.state}, syncDir(r.target.DataDir)
}

// writeDurable writes a file of mode 0600 whole or not at all.
func writeDurable(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), partialPattern)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}
