package repository_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
)

func serve(t *testing.T, s *repository.Service) *httptest.Server {
	t.Helper()
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(slog.New(slog.DiscardHandler))
	repository.NewFiles(s).Register(e)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return server
}

func get(t *testing.T, url string) (int, http.Header, []byte) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, body
}

func TestFilesAreServedWithTheirCaching(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	server := serve(t, w.Service)
	if status, _, _ := get(t, server.URL+wire.PathImage+"timestamp.json"); status != http.StatusNotFound {
		t.Errorf("timestamp of an uninitialised server: got %d", status)
	}
	w.Apply(w.First(w.Policy("lamp")))
	draft := w.Draft("lamp", "1.0", 1)
	w.Publish(draft)
	c := w.Service.Catalog()
	policy := digest.Of(c.OfflineFiles[artifacts.PolicyPath("lamp")])
	component := draft.Release.Components[0]
	beside := wire.PathImage + "targets/lamp/1.0/"
	image, other := component.SHA256.String(), digest.Of([]byte("other")).String()
	for path, want := range map[string]struct {
		status int
		cache  string
	}{
		wire.PathImage + "timestamp.json":                                                 {200, "no-cache"},
		wire.PathImage + "1.root.json":                                                    {200, "public, max-age=31536000, immutable"},
		wire.PathImage + "2.root.json":                                                    {404, "no-cache"},
		wire.PathImage + "2.snapshot.json":                                                {200, "public, max-age=31536000, immutable"},
		wire.PathImage + "1.lamp.json":                                                    {200, "public, max-age=31536000, immutable"},
		wire.PathImage + "1.kettle.json":                                                  {404, "no-cache"},
		wire.PathImage + "targets/policy/" + policy.String() + ".lamp.json":               {200, "public, max-age=31536000, immutable"},
		wire.PathImage + "targets/policy/" + other + ".lamp.json":                         {404, "no-cache"},
		wire.PathImage + "targets/policy/lamp.json":                                       {404, "no-cache"},
		beside + component.ReferenceValues.String() + ".system.refvalues.json":            {200, "public, max-age=31536000, immutable"},
		beside + draft.Request.SBOMs["system"].String() + ".system.sbom.json":             {200, "public, max-age=31536000, immutable"},
		beside + image + ".system":                                                        {404, "no-cache"}, // firmware: the door only
		beside + image + ".system.sbom.json":                                              {404, "no-cache"},
		beside + strings.Repeat("0", 64) + ".system":                                      {404, "no-cache"},
		beside + component.ReferenceValues.String() + ".system":                           {404, "no-cache"},
		wire.PathImage + "targets/pump/1.0/" + component.ReferenceValues.String() + ".x":  {404, "no-cache"},
		wire.PathImage + "targets/" + image:                                               {404, "no-cache"},
		wire.PathImage + "targets/..%2f..%2ftimestamp.json":                               {404, "no-cache"},
		wire.PathImage + "..%2fimage%2f1.root.json":                                       {404, "no-cache"},
		wire.PathImage + "%2e%2e%2f%2e%2e%2fetc%2fpasswd":                                 {404, "no-cache"},
		wire.PathImage + "targets/policy/%2e%2e/policy/" + policy.String() + ".lamp.json": {404, "no-cache"},
		wire.PathImage + "targets/" + policy.String() + ".policy%2flamp.json":             {404, "no-cache"},
		wire.PathImage + strings.Repeat("a", 300) + ".json":                               {404, "no-cache"},
		wire.PathDirector + "1.root.json":                                                 {200, "public, max-age=31536000, immutable"},
		wire.PathDirector + "2.root.json":                                                 {404, "no-cache"},
		wire.PathDirector + "timestamp.json":                                              {404, "no-cache"},
	} {
		status, header, body := get(t, server.URL+path)
		if status != want.status || header.Get("Cache-Control") != want.cache {
			t.Errorf("%s: got %d, %q, want %d, %q", path, status, header.Get("Cache-Control"), want.status, want.cache)
		}
		if bytes.Contains(body, draft.Image[:64]) {
			t.Errorf("%s: firmware came out", path)
		}
	}
}

// Somebody else's TUF client gets along with what is served.
func TestGoTUFClientFollows(t *testing.T) {
	t.Parallel()
	w := repositorytest.New(t)
	w.Apply(w.First(w.Policy("lamp"), w.Policy("pump")))
	server := serve(t, w.Service)
	dir := t.TempDir()
	root := w.Service.Catalog().ImageRoots[0]
	refresh := func() *updater.Updater {
		t.Helper()
		cfg := repositorytest.Must(config.New(server.URL+strings.TrimSuffix(wire.PathImage, "/"), root))
		cfg.LocalMetadataDir, cfg.LocalTargetsDir = dir, dir
		cfg.RemoteTargetsURL = server.URL + wire.PathImage + "targets"
		up := repositorytest.Must(updater.New(cfg))
		up.UnsafeSetRefTime(w.Now())
		if err := up.Refresh(); err != nil {
			t.Fatalf("Refresh: %v", err)
		}
		return up
	}
	refresh()
	draft := w.Draft("lamp", "1.0", 1)
	w.Publish(draft)
	w.Holders[2] = repositorytest.Key()
	rotation := w.Ceremony(repositorytest.Offline{Version: 2, Policies: []artifacts.Policy{w.Policy("lamp")}}) // pump is gone
	rotation.ImageRoots = [][]byte{w.ImageRoot(2, nil)}
	w.Apply(rotation)
	up := refresh()
	for path, want := range map[string]digest.SHA256{
		artifacts.PolicyPath("lamp"):                  digest.Of(w.Service.Catalog().OfflineFiles[artifacts.PolicyPath("lamp")]),
		"lamp/1.0/system":                             draft.Release.Components[0].SHA256,
		"lamp/1.0/system" + artifacts.ReferenceSuffix: draft.Release.Components[0].ReferenceValues,
		"lamp/1.0/system" + artifacts.SBOMSuffix:      draft.Request.SBOMs["system"],
	} {
		info, err := up.GetTargetInfo(path)
		if err != nil || digest.SHA256(info.Hashes["sha256"]) != want {
			t.Errorf("%s: got %v, want %s", path, err, want)
			continue
		}
		_, body, err := up.DownloadTarget(info, "", "")
		if firmware := path == "lamp/1.0/system"; firmware != (err != nil) {
			t.Errorf("%s: download: %v", path, err)
		} else if !firmware && digest.Of(body) != want {
			t.Errorf("%s: other bytes", path)
		}
	}
	if tufrepo.FileName(2, tufrepo.RoleRoot) != "2.root.json" || len(w.Service.Catalog().ImageRoots) != 2 {
		t.Error("the root was not rotated")
	}
}
