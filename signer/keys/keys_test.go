package keys_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-ota/cordon/signer/keys"
)

func newKey(t testing.TB, kind keys.Type) (path string, pub crypto.PublicKey) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key.pem")
	pub, err := keys.New(kind, path)
	if err != nil {
		t.Fatal(err)
	}
	return path, pub
}

func TestKeyGoesThroughItsFiles(t *testing.T) {
	t.Parallel()
	for _, kind := range []keys.Type{keys.Holder, keys.Publisher} {
		path, pub := newKey(t, kind)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
			t.Errorf("%s: mode %v, want %v", kind, got, want)
		}
		key, err := keys.Load(path, kind)
		if err != nil {
			t.Fatal(err)
		}
		public, err := keys.LoadPublic(keys.PublicPath(path), kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range []crypto.PublicKey{key.Public(), public} {
			if !got.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
				t.Errorf("%s: the file holds another key", kind)
			}
		}
	}
}

func TestKeyIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	path, _ := newKey(t, keys.Holder)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.New(keys.Holder, path); !errors.Is(err, keys.ErrExists) {
		t.Errorf("New() error = %v, want ErrExists", err)
	}
	if err := os.Remove(keys.PublicPath(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.New(keys.Holder, path); !errors.Is(err, keys.ErrExists) {
		t.Errorf("New() error = %v, want ErrExists", err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the key was overwritten")
	}
}

func TestLoadRefusesTheOtherType(t *testing.T) {
	t.Parallel()
	path, _ := newKey(t, keys.Publisher)
	if _, err := keys.Load(path, keys.Holder); !errors.Is(err, keys.ErrType) {
		t.Errorf("Load() error = %v, want ErrType", err)
	}
	if _, err := keys.LoadPublic(keys.PublicPath(path), keys.Holder); !errors.Is(err, keys.ErrType) {
		t.Errorf("LoadPublic() error = %v, want ErrType", err)
	}
	if _, err := keys.Load(keys.PublicPath(path), keys.Publisher); err == nil {
		t.Error("Load() took a public key")
	}
}

func TestLoadRefusesAKeyThatOthersCanRead(t *testing.T) {
	t.Parallel()
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		path, _ := newKey(t, keys.Holder)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Load(path, keys.Holder); !errors.Is(err, keys.ErrPermission) {
			t.Errorf("mode %v: error = %v, want ErrPermission", mode, err)
		}
	}
}

func TestLoadRefusesOtherCurves(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.ParsePrivate(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); !errors.Is(err, keys.ErrType) {
		t.Errorf("ParsePrivate() error = %v, want ErrType", err)
	}
}

func TestParseRefusesMoreThanOneKey(t *testing.T) {
	t.Parallel()
	path, _ := newKey(t, keys.Holder)
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.ParsePrivate(append(private, private...)); !errors.Is(err, keys.ErrNotKey) {
		t.Errorf("ParsePrivate() error = %v, want ErrNotKey", err)
	}
	if _, err := keys.ParsePrivate(append(private, make([]byte, 1<<20)...)); !errors.Is(err, keys.ErrNotKey) {
		t.Errorf("ParsePrivate() error = %v, want ErrNotKey", err)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, kind := range []keys.Type{keys.Holder, keys.Publisher} {
		path, _ := newKey(f, kind)
		for _, p := range []string{path, keys.PublicPath(path)} {
			b, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := keys.ParsePrivate(b); err == nil {
			if _, err := keys.TypeOf(key.Public()); err != nil {
				t.Error(err)
			}
		}
		if pub, err := keys.ParsePublic(b); err == nil {
			if _, err := keys.TypeOf(pub); err != nil {
				t.Error(err)
			}
		}
	})
}
