package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/s3store"
	"github.com/cordon-ota/cordon/artifacts/storetest"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

func config(server *parts.S3, bucket string) s3store.Config {
	access, secret := server.Keys()
	return s3store.Config{
		Endpoint: server.Endpoint(), Bucket: bucket, Prefix: "cordon/test", Region: server.Region(),
		AccessKey: access + "\n", SecretKey: secret + "\n", Roots: server.Roots(), PathStyle: true,
	}
}

func open(t testing.TB, cfg s3store.Config) *s3store.Store {
	t.Helper()
	s, err := s3store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newStore is a store in a bucket of its own.
func newStore(t testing.TB) (*s3store.Store, s3store.Config) {
	t.Helper()
	cfg := config(parts.TestS3(t))
	return open(t, cfg), cfg
}

func TestContract(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*s3store.Config){
		"Checksums":   func(*s3store.Config) {},
		"NoChecksums": func(c *s3store.Config) { c.OmitChecksums, c.Prefix = true, "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var configs sync.Map
			storetest.Run(t, func(t *testing.T) artifacts.Store {
				cfg := config(parts.TestS3(t))
				change(&cfg)
				s := open(t, cfg)
				configs.Store(s, cfg)
				return s
			}, storetest.WithReopen(func(t *testing.T, s artifacts.Store) artifacts.Store {
				cfg, _ := configs.Load(s)
				again := open(t, cfg.(s3store.Config))
				configs.Store(again, cfg)
				return again
			}))
		})
	}
}

func write(t testing.TB, s artifacts.Store, b []byte, from, to int) {
	t.Helper()
	at, err := s.Write(t.Context(), digest.Of(b), int64(len(b)), int64(from), bytes.NewReader(b[from:to]))
	if err != nil || at != int64(to) {
		t.Fatalf("Write from %d to %d: got %d, %v", from, to, at, err)
	}
}

func wantUploaded(t testing.TB, s artifacts.Store, b []byte, want int) {
	t.Helper()
	if got, err := s.Uploaded(t.Context(), digest.Of(b), int64(len(b))); err != nil || got != int64(want) {
		t.Errorf("Uploaded: got %d, %v, want %d", got, err, want)
	}
}

func wantBlob(t testing.TB, s artifacts.Store, b []byte) {
	t.Helper()
	r, err := s.Open(t.Context(), digest.Of(b), 0, -1)
	if err != nil {
		t.Errorf("Open: %v", err)
		return
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b) {
		t.Errorf("blob: got %d bytes, %v, want the %d written", len(got), err, len(b))
	}
}

// wantNotTorn: a blob is readable whole or not at all.
func wantNotTorn(t testing.TB, s artifacts.Store, b []byte) {
	t.Helper()
	_, err := s.Stat(t.Context(), digest.Of(b))
	if errors.Is(err, artifacts.ErrNotFound) {
		return
	}
	if err != nil {
		t.Errorf("Stat: %v", err)
	}
	wantBlob(t, s, b)
}

// finish does what a publisher does: ask, continue, ask again.
func finish(t testing.TB, s artifacts.Store, b []byte) {
	t.Helper()
	d, size := digest.Of(b), int64(len(b))
	for range 100 {
		at, err := s.Uploaded(t.Context(), d, size)
		if err != nil {
			t.Fatalf("Uploaded: %v", err)
		}
		if at == size {
			return
		}
		at, err = s.Write(t.Context(), d, size, at, bytes.NewReader(b[at:]))
		if err != nil && !errors.Is(err, artifacts.ErrOffset) {
			t.Fatalf("Write: %v", err)
		}
		if at == size {
			return
		}
	}
	t.Fatal("the upload did not end")
}

func wantErr(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("%s: got %v, want %v", what, err, w)
		}
	}
}

// Cuts at, before and behind the ends of parts, each one taken up by another process.
func TestUploadOfPartsInPieces(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	const part = s3store.PartBytes
	b := storetest.Bytes(1, 3*part+777)
	cuts := []int{0, 1, part - 1, part, part + 1, 2*part - 5, 3 * part, 3*part + 776, 3*part + 777}
	for i := range cuts[1:] {
		write(t, s, b, cuts[i], cuts[i+1])
		s = open(t, cfg)
		wantUploaded(t, s, b, cuts[i+1])
	}
	wantBlob(t, s, b)
	wantKeys(t, cfg, 1)
}

func TestUploadOfWholeParts(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	for _, n := range []int{s3store.PartBytes, 2 * s3store.PartBytes} {
		b := storetest.Bytes(2, n)
		write(t, s, b, 0, n)
		wantBlob(t, s, b)
	}
	wantKeys(t, cfg, 2)
}

func TestWrongBytesInPartsAreThrownAway(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	b := storetest.Bytes(3, s3store.PartBytes+100)
	d, size := digest.Of(b), int64(len(b))
	bad := bytes.Clone(b)
	bad[5] ^= 1
	at, err := s.Write(t.Context(), d, size, 0, bytes.NewReader(bad[:s3store.PartBytes+10]))
	if at != s3store.PartBytes+10 || err != nil {
		t.Fatalf("Write: got %d, %v", at, err)
	}
	at, err = s.Write(t.Context(), d, size, at, bytes.NewReader(bad[at:]))
	wantErr(t, "Write", err, artifacts.ErrDigestMismatch)
	if at != 0 {
		t.Errorf("offset beside the error: got %d, want 0", at)
	}
	wantErr(t, "Stat", statErr(t, s, d), artifacts.ErrNotFound)
	wantKeys(t, cfg, 0)
	finish(t, s, b)
	wantBlob(t, s, b)
}

func statErr(t testing.TB, s artifacts.Store, d digest.SHA256) error {
	t.Helper()
	_, err := s.Stat(t.Context(), d)
	return err
}

// All bytes came while a larger size was announced: asking with the right size checks them.
func TestUploadAnnouncedTooLarge(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"Tail": 1000, "Parts": 2 * s3store.PartBytes, "Both": s3store.PartBytes + 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := newStore(t)
			b := storetest.Bytes(4, n)
			at, err := s.Write(t.Context(), digest.Of(b), int64(n)+1, 0, bytes.NewReader(b))
			if at != int64(n) || err != nil {
				t.Fatalf("Write: got %d, %v", at, err)
			}
			wantUploaded(t, s, b, n)
			wantBlob(t, s, b)
		})
	}
}

func TestUploadBeyondTheSizeIsThrownAway(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	b := storetest.Bytes(5, 1000)
	for _, ask := range []func() error{
		func() error { _, err := s.Uploaded(t.Context(), digest.Of(b), 500); return err },
		func() error {
			_, err := s.Write(t.Context(), digest.Of(b), 500, 0, bytes.NewReader(b[:500]))
			if !errors.Is(err, artifacts.ErrLengthMismatch) {
				t.Errorf("Write: got %v, want ErrLengthMismatch", err)
			}
			return nil
		},
	} {
		write(t, s, b, 0, 600)
		if err := ask(); err != nil {
			t.Error(err)
		}
		wantUploaded(t, s, b, 0)
		wantKeys(t, cfg, 0)
	}
}

// Several publishers of one large blob: each of them ends with it, and nothing stays behind.
func TestConcurrentUploadsOfParts(t *testing.T) {
	t.Parallel()
	_, cfg := newStore(t)
	b := storetest.Bytes(6, 2*s3store.PartBytes+99)
	var wg sync.WaitGroup
	for range 3 {
		s := open(t, cfg)
		wg.Go(func() { finish(t, s, b) })
	}
	wg.Wait()
	wantBlob(t, open(t, cfg), b)
}

// hookReader calls hook once, after its bytes were read.
type hookReader struct {
	r    io.Reader
	hook func()
}

func (h *hookReader) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	if err != nil && h.hook != nil {
		h.hook()
		h.hook = nil
	}
	return n, err
}

// A rival moves the upload while this one reads: what the rival stored is not overwritten, whether it began the upload
// or continued it, with a tail or with a part.
func TestRivalIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ start, mine, rival int }{
		"BothBegin":    {0, 500, 1000},
		"BothContinue": {10, 500, 1000},
		"RivalAPart":   {0, 500, s3store.PartBytes + 1000},
		"MineAPart":    {10, s3store.PartBytes + 500, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cfg := newStore(t)
			rival := open(t, cfg)
			b := storetest.Bytes(11, 2*s3store.PartBytes)
			d, size := digest.Of(b), int64(len(b))
			if test.start > 0 {
				write(t, s, b, 0, test.start)
			}
			hook := func() { write(t, rival, b, test.start, test.rival) }
			r := io.MultiReader(&hookReader{bytes.NewReader(b[test.start:500]), hook}, bytes.NewReader(b[500:test.mine]))
			at, err := s.Write(t.Context(), d, size, int64(test.start), r)
			wantErr(t, "Write", err, artifacts.ErrOffset)
			if at != int64(test.rival) {
				t.Errorf("offset beside the error: got %d, want %d", at, test.rival)
			}
			wantUploaded(t, s, b, test.rival)
			finish(t, s, b)
			wantBlob(t, s, b)
			wantKeys(t, cfg, 1)
		})
	}
}

// A rival overwrites a part that is already counted: no blob may come of it.
func TestForeignPartNeverGetsIntoABlob(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	b := storetest.Bytes(7, s3store.PartBytes+100)
	write(t, s, b, 0, s3store.PartBytes+1)
	overwritePart(t, cfg, digest.Of(b), storetest.Bytes(8, s3store.PartBytes))
	at, err := s.Write(t.Context(), digest.Of(b), int64(len(b)), s3store.PartBytes+1, bytes.NewReader(b[s3store.PartBytes+1:]))
	wantErr(t, "Write", err, artifacts.ErrOffset)
	if at != 0 {
		t.Errorf("offset beside the error: got %d, want 0", at)
	}
	wantErr(t, "Stat", statErr(t, s, digest.Of(b)), artifacts.ErrNotFound)
	finish(t, s, b)
	wantBlob(t, s, b)
}

// What a lifecycle rule or a hand took away is noticed, and the upload starts again.
func TestLostPartsStartTheUploadAgain(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, cfg s3store.Config, d digest.SHA256){
		"Parts":        abortUploads,
		"Tail":         func(t *testing.T, cfg s3store.Config, d digest.SHA256) { removeKeys(t, cfg, d.String()+".") },
		"State":        func(t *testing.T, cfg s3store.Config, d digest.SHA256) { putKey(t, cfg, "uploads/"+d.String(), "{}") },
		"DamagedTail":  func(t *testing.T, cfg s3store.Config, d digest.SHA256) { damageKeys(t, cfg, d.String()+".", true) },
		"ForeignTail":  func(t *testing.T, cfg s3store.Config, d digest.SHA256) { damageKeys(t, cfg, d.String()+".", false) },
		"EmptiedState": func(t *testing.T, cfg s3store.Config, d digest.SHA256) { putKey(t, cfg, "uploads/"+d.String(), "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, cfg := newStore(t)
			b := storetest.Bytes(9, 2*s3store.PartBytes)
			write(t, s, b, 0, s3store.PartBytes+500)
			lose(t, cfg, digest.Of(b))
			finish(t, s, b)
			wantBlob(t, s, b)
		})
	}
}

func TestDamagedDocumentIsNotServed(t *testing.T) {
	t.Parallel()
	s, cfg := newStore(t)
	if err := s.Create(t.Context(), "a/b", []byte("the document")); err != nil {
		t.Fatal(err)
	}
	damageKeys(t, cfg, "names/a/b!", true)
	data, _, err := s.Load(t.Context(), "a/b")
	wantErr(t, "Load", err, artifacts.ErrUnavailable)
	if len(data) > 0 {
		t.Errorf("got %q beside the error", data)
	}
}

func TestPrefixesKeepStoresApart(t *testing.T) {
	t.Parallel()
	one, cfg := newStore(t)
	cfg.Prefix = "cordon/test2"
	two := open(t, cfg)
	b := storetest.Bytes(10, 100)
	finish(t, one, b)
	if err := one.Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Stat", statErr(t, two, digest.Of(b)), artifacts.ErrNotFound)
	if names, err := two.List(t.Context(), "", "", 10); len(names) > 0 || err != nil {
		t.Errorf("List: got %q, %v", names, err)
	}
}

// More names than one answer holds.
func TestListBeyondOnePage(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	testListBeyondOnePage(t, s)
}

func testListBeyondOnePage(t *testing.T, s *s3store.Store) {
	var wg sync.WaitGroup
	for worker := range 10 {
		wg.Go(func() {
			for i := range 101 {
				name := "n/" + strings.Repeat("x", worker) + "/" + strings.Repeat("y", i+1)
				if worker == 0 {
					name = "n/" + strings.Repeat("z", i+1)
				}
				if err := s.Create(t.Context(), name, nil); err != nil {
					t.Errorf("Create: %v", err)
				}
			}
		})
	}
	wg.Wait()
	names, err := s.List(t.Context(), "n/", "", 2000)
	if err != nil || len(names) != 1010 {
		t.Errorf("List: got %d names, %v, want 1010", len(names), err)
	}
}

func TestOpenRefusesConfig(t *testing.T) {
	t.Parallel()
	good := s3store.Config{Endpoint: "https://127.0.0.1:1", Bucket: "bucket", AccessKey: "a", SecretKey: "s"}
	for name, spoil := range map[string]func(*s3store.Config){
		"no endpoint":   func(c *s3store.Config) { c.Endpoint = "" },
		"scheme":        func(c *s3store.Config) { c.Endpoint = "ftp://127.0.0.1" },
		"path":          func(c *s3store.Config) { c.Endpoint += "/bucket" },
		"user":          func(c *s3store.Config) { c.Endpoint = "https://u:p@127.0.0.1" },
		"no bucket":     func(c *s3store.Config) { c.Bucket = "" },
		"bucket":        func(c *s3store.Config) { c.Bucket = "../x" },
		"prefix":        func(c *s3store.Config) { c.Prefix = "a/../b" },
		"long prefix":   func(c *s3store.Config) { c.Prefix = strings.Repeat("a/", 150) + "a" },
		"no access key": func(c *s3store.Config) { c.AccessKey = " \n" },
		"no secret key": func(c *s3store.Config) { c.SecretKey = "" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := s3store.Open(t.Context(), cfg); !errors.Is(err, s3store.ErrConfig) {
			t.Errorf("%s: got %v, want %v", name, err, s3store.ErrConfig)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, good := newStore(t)
	for name, test := range map[string]struct {
		spoil func(*s3store.Config)
		want  error
		text  string
	}{
		"wrong secret":     {func(c *s3store.Config) { c.SecretKey = "wrong-secret" }, s3store.ErrCredentials, "check the files with the access key and the secret key"},
		"wrong access key": {func(c *s3store.Config) { c.AccessKey = "nobody" }, s3store.ErrCredentials, "check the files with the access key and the secret key"},
		"no such bucket":   {func(c *s3store.Config) { c.Bucket = "not-made-yet" }, s3store.ErrBucket, `make bucket "not-made-yet"`},
		"other region":     {func(c *s3store.Config) { c.Region = "eu-west-9" }, artifacts.ErrUnavailable, "set the region"},
		"other CA":         {func(c *s3store.Config) { c.Roots = nil }, artifacts.ErrUnavailable, "name the file with its CA"},
		"nobody there":     {func(c *s3store.Config) { c.Endpoint = "https://127.0.0.1:1" }, artifacts.ErrUnavailable, "cannot try conditional writes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			test.spoil(&cfg)
			_, err := s3store.Open(t.Context(), cfg)
			wantErr(t, "Open", err, artifacts.ErrUnavailable, test.want)
			if err != nil && (!strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), cfg.SecretKey)) {
				t.Errorf("got %q, want %q in it and no secret", err, test.text)
			}
		})
	}
}

func TestCancelledOpen(t *testing.T) {
	t.Parallel()
	_, cfg := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s3store.Open(ctx, cfg)
	wantErr(t, "Open", err, context.Canceled)
}

func TestDecodeStateIsStrict(t *testing.T) {
	t.Parallel()
	good := string(s3store.SampleState())
	if again, err := s3store.DecodeState([]byte(good)); err != nil || string(again) != good {
		t.Fatalf("got %s, %v, want %s", again, err, good)
	}
	for name, b := range map[string]string{
		"empty": "", "object": "{}", "null": "null", "trailing": good + "x", "unknown": `{"extra":1,` + good[1:],
		"version": strings.Replace(good, `"version":1`, `"version":2`, 1), "hash": strings.Replace(good, `"hash":"`, `"hash":"AAAA`, 1),
		"no id": strings.Replace(good, `"upload_id":"f2a1",`, ``, 1), "no ETag": strings.Replace(good, `0cc175b9c0f1b6a831c399e269772661`, ``, 1),
		"wildcard": strings.Replace(good, `0cc175b9c0f1b6a831c399e269772661`, `*`, 1), "tail": strings.Replace(good, `"length":7`, `"length":9000000`, 1),
		"negative": strings.Replace(good, `"length":7`, `"length":-7`, 1), "path": strings.Replace(good, `"suffix":"`, `"suffix":"../`, 1),
		"huge": good + strings.Repeat(" ", 1<<20),
	} {
		if _, err := s3store.DecodeState([]byte(b)); !errors.Is(err, s3store.ErrState) {
			t.Errorf("%s: got %v, want %v", name, err, s3store.ErrState)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(s3store.SampleState())
	f.Add([]byte(`{"version":1,"hash":"","tail":{"suffix":"A","length":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := s3store.DecodeState(b)
		if err != nil {
			if !errors.Is(err, s3store.ErrState) {
				t.Errorf("got %v, want %v", err, s3store.ErrState)
			}
			return
		}
		if third, err := s3store.DecodeState(again); err != nil || !bytes.Equal(third, again) {
			t.Errorf("a second form: %s, %v, want %s", third, err, again)
		}
	})
}
