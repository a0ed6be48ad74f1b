package deviceapi

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// MaxRedirectLife is how long a URL past the door may live: for so long nothing can be taken back.
const MaxRedirectLife = time.Minute

// Presigner makes a URL with which anybody can read one range of one artifact until it expires. The range is part of what
// is signed. It needs no connection, keeps nothing, and may be called at once.
type Presigner interface {
	Presign(ctx context.Context, d digest.SHA256, rangeHeader string, life time.Duration) (string, error)
}

// Redirects say for which products the door may send a device elsewhere. The zero value sends nobody.
type Redirects struct {
	Presigner Presigner
	Products  []string
	Life      time.Duration
}

// redirect returns where the device may fetch the range itself, "" if the door sends it: the device did not say that it
// can follow, the product has not opted in, or the redirect cannot be written down. Each URL has its event before it is
// given out, so a device that asks for more of them than there are events is served by the door.
func (s *Server) redirect(ctx context.Context, c echo.Context, grant segment.Grant, sum digest.SHA256, part span) string {
	product, _, _ := strings.Cut(grant.Release, "/")
	r, header := s.Redirects, c.Request().Header
	if r.Presigner == nil || header.Get(wire.HeaderRedirect) == "" || header.Get("Range") == "" || !slices.Contains(r.Products, product) {
		return ""
	}
	life := min(r.Life, MaxRedirectLife)
	u, err := r.Presigner.Presign(ctx, sum, header.Get("Range"), life)
	if err != nil {
		s.Log.ErrorContext(ctx, "cannot presign; the door sends the artifact", "error", err)
		return ""
	}
	now := s.Now()
	ok, suppressed, _ := s.redirected().Allow(grant.Device, now)
	if !ok {
		return ""
	}
	data := map[string]any{"artifact": sum, "release": grant.Release, "from": part.from, "to": part.to, "expires": now.Add(life).UTC()}
	if suppressed > 0 {
		data["suppressed"] = suppressed
	}
	err = s.Store.Commit(context.WithoutCancel(ctx), store.Change{
		Events: []store.Event{{At: now, Type: audit.ArtifactPresigned, Actor: "door", Subject: grant.Device, Data: data}},
	})
	if err != nil {
		s.Log.ErrorContext(ctx, "cannot write an audit event of the door", "type", audit.ArtifactPresigned, "error", err)
		return ""
	}
	return u
}
