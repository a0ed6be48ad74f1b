package interop_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/demo"
	"github.com/cordon-ota/cordon/conformance/interop"
	"github.com/cordon-ota/cordon/conformance/npm"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// tufClient is tuf-js with a metadata folder of its own, which begins with the root of the trust bundle.
type tufClient struct {
	npm    npm.Client
	dir    string
	ca     string // file
	base   string // URL of the repository
	target string // folder
}

func newTUFClient(t *testing.T, trust wire.Trust, base string) *tufClient {
	t.Helper()
	c := &tufClient{npm: javascript(t), dir: t.TempDir(), ca: keep(t, "ca.pem", []byte(trust.ServerCA)), base: base, target: t.TempDir()}
	if code, said := c.run(t, "--metadata-dir", c.dir, "init", keep(t, "root.json", trust.ImageRoot)); code != 0 {
		t.Fatalf("init: %s", said)
	}
	return c
}

func (c *tufClient) run(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	out, err := c.npm.TUF(t.Context(), c.ca, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out.Code, out.Stdout + out.Stderr
}

// download returns the bytes of a target, or what tuf-js said against it.
func (c *tufClient) download(t *testing.T, target string, more ...string) (content []byte, said string) {
	t.Helper()
	args := append([]string{"--metadata-dir", c.dir, "--metadata-url", c.base, "--target-dir", c.target, "--target-base-url", c.base + "targets/", "--target-name", target}, more...)
	code, said := c.run(t, append(args, "download")...)
	if code != 0 {
		return nil, said
	}
	return readFile(t, strings.TrimSpace(said)), ""
}

// tamperer serves the repository of a real server, changed.
type tamperer struct {
	url string

	mu     sync.Mutex
	change func(path string, body []byte) []byte
	seen   map[string][]byte // newest answer per path, unchanged
}

func newTamperer(t *testing.T, s *demo.Stage, upstream string) *tamperer {
	t.Helper()
	x := &tamperer{seen: map[string][]byte{}}
	client := s.Client()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		res, err := client.Get(upstream + r.URL.Path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if res.StatusCode == http.StatusOK {
			body = x.pass(r.URL.Path, body)
		}
		w.WriteHeader(res.StatusCode)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	x.url = server.URL + wire.PathImage
	return x
}

func (x *tamperer) pass(path string, body []byte) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seen[path] = body
	if x.change == nil {
		return body
	}
	return x.change(path, body)
}

func (x *tamperer) tamper(change func(path string, body []byte) []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.change = change
}

func (x *tamperer) last(path string) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Clone(x.seen[path])
}

// tuf-js shares no code with ours.
func TestTUFJS(t *testing.T) {
	t.Parallel()
	s := newStage(t, demo.StageConfig{})
	var results []interop.Result
	record := func(what, words string) {
		results = append(results, interop.Result{Who: "tuf-js " + npm.Version("tuf-js"), What: what, Want: verdict(words), Said: words})
	}
	t.Run("reads the open road", func(t *testing.T) { readsTheOpenRoad(t, s, record) })
	t.Run("refuses what is tampered with", func(t *testing.T) { refusesWhatIsTamperedWith(t, s, record) })
	t.Run("follows the holders", func(t *testing.T) { followsTheHolders(t, s, record) })
	compareTable(t, "tuf-js", results)
}

// It starts from the trust bundle and reads what stands open, over TLS.
func readsTheOpenRoad(t *testing.T, s *demo.Stage, record func(what, words string)) {
	trust := trustOf(t, s)
	c := newTUFClient(t, trust, trust.Server+wire.PathImage)
	for _, open := range []struct{ what, target string }{
		{"publisher policy", "policy/gateway.json"}, {"release bundle", "gateway/1.0/system.sigstore.json"}, {"Reference Values", "gateway/1.0/system.refvalues.json"},
	} {
		content, said := c.download(t, open.target)
		if said != "" {
			t.Errorf("%s: %s", open.target, said)
			continue
		}
		if strings.HasSuffix(open.target, artifacts.BundleSuffix) {
			if product, err := provenance.ClaimedProduct(content); err != nil || product != "gateway" {
				t.Errorf("%s: got product %q, %v", open.target, product, err)
			}
		}
		record(open.what, "")
	}
	// Firmware is in the signed metadata, and its bytes pass the artifact door only.
	if _, said := c.download(t, "gateway/1.0/system"); !strings.Contains(said, "DownloadHTTPError") || !strings.Contains(said, "404") {
		t.Errorf("firmware: got %q, want 404", said)
	}
	record("firmware, which has its own door", "DownloadHTTPError")
	if _, said := c.download(t, "gateway/9.9/system.sigstore.json"); !strings.Contains(said, "is not in the repository") {
		t.Errorf("a release that is not there: got %q", said)
	}
	stranger := *c
	stranger.ca = ""
	if _, said := stranger.download(t, "policy/gateway.json"); !strings.Contains(said, "fetch failed") {
		t.Errorf("without the server's CA: got %q, want that TLS fails", said)
	}
	record("anything, without the server's CA", "fetch failed")
}

// What an attacker on the way or in the store does to our repository, tuf-js refuses too: the metadata, not our own
// client, carries the protection.
func refusesWhatIsTamperedWith(t *testing.T, s *demo.Stage, record func(what, words string)) {
	trust := trustOf(t, s)
	x := newTamperer(t, s, trust.Server)
	const target = "gateway/1.0/system.sigstore.json"
	timestamp := wire.PathImage + "timestamp.json"

	c := newTUFClient(t, trust, x.url)
	if _, said := c.download(t, target); said != "" {
		t.Fatalf("through the proxy, unchanged: %s", said)
	}
	old := x.last(timestamp)
	sbom := []byte(`{"bomFormat":"CycloneDX"}`)
	image := parts.TestUKI(t, parts.UKISpec{Version: "1.1", Kernel: parts.TestKernels(t)[1]})
	release(t, s, "1.1", image, "--key", "publisher.pem", "--sbom", "system="+keep(t, "sbom.json", sbom))
	if content, said := c.download(t, "gateway/1.1/system.sbom.json"); !bytes.Equal(content, sbom) {
		t.Fatalf("SBOM of the new release: got %q, %s", content, said)
	}
	record("SBOM of a release that is new since the last visit", "")
	only := func(end string, change func([]byte) []byte) func(string, []byte) []byte {
		return func(path string, body []byte) []byte {
			if !strings.HasSuffix(path, end) {
				return body
			}
			return change(bytes.Clone(body))
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	renumber := func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":`), []byte(`"version":1`), 1) }
	grow := func(b []byte) []byte { return append(b, ' ') }
	tests := []struct {
		name, target, says string
		change             func(string, []byte) []byte
		more               []string
		fresh              bool // a client that has seen nothing yet
	}{
		{"rolled-back timestamp", target, "BadVersionError", only("/timestamp.json", func([]byte) []byte { return old }), nil, false},
		{"changed timestamp", target, "UnsignedMetadataError", only("/timestamp.json", renumber), nil, true},
		{"changed snapshot", target, "Expected hash", only(".snapshot.json", flip), nil, true},
		{"changed targets", target, "Expected hash", only(".targets.json", flip), nil, true},
		{"changed product role", target, "Expected hash", only(".gateway.json", flip), nil, true},
		{"swapped target", target, "Expected hash", only(".system.sigstore.json", flip), nil, true},
		{"target with a tail", target, "DownloadLengthMismatchError", only(".system.sigstore.json", grow), nil, true},
		{"frozen for a day", target, "ExpiredMetadataError", nil, []string{"--now", time.Now().Add(25 * time.Hour).UTC().Format(time.RFC3339)}, true},
	}
	for _, test := range tests {
		client := c
		if test.fresh {
			client = newTUFClient(t, trust, x.url)
		}
		if err := os.RemoveAll(filepath.Join(client.target, "gateway%2F1.0%2Fsystem.sigstore.json")); err != nil {
			t.Fatal(err)
		}
		x.tamper(test.change)
		content, said := client.download(t, test.target, test.more...)
		if content != nil || said == "" || !strings.Contains(said, test.says) {
			t.Errorf("%s: got %d bytes, %q, want %s", test.name, len(content), said, test.says)
		}
		record(test.name, test.says)
	}
	x.tamper(nil)
	if _, said := c.download(t, target); said != "" {
		t.Errorf("the client that was lied to does not recover: %s", said)
	}
}

// One holder goes and another comes: a client that starts from the old root finds the new one, and takes no other.
func followsTheHolders(t *testing.T, s *demo.Stage, record func(what, words string)) {
	trust := trustOf(t, s)
	x := newTamperer(t, s, trust.Server)
	old := newTUFClient(t, trust, x.url)
	const target = "policy/gateway.json"
	if _, said := old.download(t, target); said != "" {
		t.Fatalf("before: %s", said)
	}
	ceremony(t, s,
		"keys new --type holder --out iris.pem",
		"root rotate --dir ceremony --add iris.pub.pem --remove henry.pub.pem",
		"root sign --dir ceremony --key hanna.pem",
		"root sign --dir ceremony --key henry.pem",
		"root sign --dir ceremony --key iris.pem",
		"root apply --dir ceremony --token-file "+s.Path("alice.token"),
	)
	x.tamper(func(path string, body []byte) []byte {
		if !strings.HasSuffix(path, "/2.root.json") {
			return body
		}
		return bytes.Replace(body, []byte(`"threshold":2`), []byte(`"threshold":1`), 1)
	})
	if _, said := newTUFClient(t, trust, x.url).download(t, target); !strings.Contains(said, "UnsignedMetadataError") {
		t.Errorf("a new root that nobody signed: got %q", said)
	}
	record("a next root that the holders did not sign", "UnsignedMetadataError")
	x.tamper(nil)
	for name, c := range map[string]*tufClient{"has seen the repository before": old, "starts from the trust bundle": newTUFClient(t, trust, x.url)} {
		if _, said := c.download(t, target); said != "" {
			t.Errorf("a client that %s: %s", name, said)
		}
		if root := readFile(t, filepath.Join(c.dir, "root.json")); !bytes.Equal(root, x.last(wire.PathImage+"2.root.json")) {
			t.Errorf("a client that %s did not keep the second root", name)
		}
	}
	record("the next root, signed by the holders before and after", "")
}
