package repository

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/problem"
)

// Files serves the open part of the repositories: metadata, and the targets that are no firmware. Firmware bytes pass
// the artifact door only.
type Files struct {
	service *Service
}

// NewFiles makes the handlers for a repository.
func NewFiles(s *Service) *Files { return &Files{service: s} }

const immutable = "public, max-age=31536000, immutable"

// Register adds the routes. A file that is not there is 404: TUF clients probe for the next root.
func (f *Files) Register(e *echo.Echo) {
	get := func(path string, h echo.HandlerFunc) { e.GET(path, notCachedUnless200(h)) }
	get(wire.PathImage+"timestamp.json", f.timestamp)
	get(wire.PathImage+"targets/*", f.target)
	get(wire.PathImage+":file", f.metadata)
	get(wire.PathDirector+":file", f.directorRoot)
}

// notCachedUnless200: a cache that keeps "there is no 2.root.json" would hold back a root rotation.
func notCachedUnless200(h echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Header().Set("Cache-Control", "no-cache")
		return h(c)
	}
}

func (f *Files) timestamp(c echo.Context) error {
	catalog := f.service.Catalog()
	if !catalog.Initialised() {
		return problem.NotFound("timestamp yet: the server is uninitialised")
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, catalog.Timestamp)
}

func (f *Files) metadata(c echo.Context) error {
	return f.named(c, tufrepo.StorePrefix+c.Param("file"))
}

func (f *Files) named(c echo.Context, name string) error {
	if artifacts.ValidStoredName(name) != nil {
		return problem.NotFound("file " + path.Base(name))
	}
	data, err := f.document(c.Request().Context(), name)
	if errors.Is(err, artifacts.ErrNotFound) {
		return problem.NotFound("file " + path.Base(name))
	}
	if err != nil {
		return problem.Busy(err, retryStore)
	}
	c.Response().Header().Set("Cache-Control", immutable)
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, data)
}

// document reads a document from the database, which has every one of them before the artifact store: a device renews its
// lease while the store is away. The store is asked for what the database does not give.
func (f *Files) document(ctx context.Context, name string) ([]byte, error) {
	if data, err := f.service.store.MetadataFile(ctx, name); err == nil {
		return data, nil
	}
	data, _, err := f.service.artifacts.Load(ctx, name)
	return data, err
}

// directorRoot serves N.root.json of the Director; everything else of it is per device and travels in poll answers.
func (f *Files) directorRoot(c echo.Context) error {
	for i, root := range f.service.Catalog().DirectorRoots {
		if c.Param("file") == tufrepo.FileName(int64(i)+1, tufrepo.RoleRoot) {
			c.Response().Header().Set("Cache-Control", immutable)
			return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, root)
		}
	}
	return problem.NotFound("director file " + c.Param("file"))
}

// target serves targets/<dir>/<sha256>.<base>: offline ones from the store's names, a release's documents from its
// blobs. A firmware image under the same path is refused here, whoever asks.
func (f *Files) target(c echo.Context) error {
	name := c.Param("*")
	dir, base := path.Split(name)
	hex, base, ok := strings.Cut(base, ".")
	sum, err := digest.Parse(hex)
	if !ok || err != nil {
		return problem.NotFound("target " + name)
	}
	catalog := f.service.Catalog()
	if _, offline := catalog.OfflineFiles[dir+base]; offline {
		return f.named(c, tufrepo.StorePrefix+"targets/"+name)
	}
	if !catalog.document(dir, base, sum) {
		return problem.NotFound("open target " + name)
	}
	return f.blob(c.Request().Context(), c, sum)
}

// document reports whether dir+base with that digest is a published document beside a component.
func (c *Catalog) document(dir, base string, sum digest.SHA256) bool {
	product, _, _ := strings.Cut(dir, "/")
	p := c.Products[product]
	if p == nil {
		return false
	}
	for _, r := range p.Releases {
		if r.Name+"/" == dir {
			want, ok := r.Documents[base]
			return ok && want == sum
		}
	}
	return false
}

func (f *Files) blob(ctx context.Context, c echo.Context, sum digest.SHA256) error {
	r, err := f.service.artifacts.Open(ctx, sum, 0, -1)
	if err != nil {
		return problem.Busy(err, retryStore)
	}
	defer r.Close()
	c.Response().Header().Set("Cache-Control", immutable)
	c.Response().Header().Set("Content-Type", echo.MIMEApplicationJSON)
	c.Response().WriteHeader(http.StatusOK)
	if _, err := io.Copy(c.Response(), r); err != nil {
		panic(http.ErrAbortHandler) // a short body must not look complete
	}
	return nil
}
