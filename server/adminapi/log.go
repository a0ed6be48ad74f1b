package adminapi

import (
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
)

// The audit log as C2SP tlog-tiles says, so that an auditor can copy it whole and compute it again.

// retryLog is when to ask again for what this replica's log does not reach yet.
const retryLog = 2 * time.Second

// maxTileName bounds the name of a tile; the longest that can be is far below.
const maxTileName = 80

func (s *Server) logCheckpoint(c echo.Context, _ authn.Caller) error {
	note, err := s.Log.Checkpoint(c.Request().Context())
	if errors.Is(err, tilelog.ErrNotYet) {
		return problem.Busy(err, retryLog)
	}
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMETextPlainCharsetUTF8, note)
}

func (s *Server) logTile(c echo.Context, _ authn.Caller) error {
	level, err := strconv.ParseUint(c.Param("level"), 10, 8)
	if err != nil || strconv.FormatUint(level, 10) != c.Param("level") {
		return problem.Malformed("a tile's level is a number")
	}
	index, partial, err := tileName(c.Param("*"))
	if err != nil {
		return err
	}
	b, err := s.Log.Tile(level, index, partial)
	return sendTile(c, b, err)
}

func (s *Server) logEntries(c echo.Context, _ authn.Caller) error {
	index, partial, err := tileName(c.Param("*"))
	if err != nil {
		return err
	}
	b, err := s.Log.Entries(index, partial)
	return sendTile(c, b, err)
}

// tileName reads the one form of a tile's name: 067, x001/x234/067, 067.p/8.
func tileName(name string) (index uint64, partial uint8, err error) {
	if len(name) <= maxTileName {
		index, partial, err = layout.ParseTileIndexPartial(name)
	}
	if err != nil || len(name) > maxTileName || tlog.EntriesPath(index, partial) != "tile/entries/"+name {
		return 0, 0, problem.Malformed("a tile is named like 067, x001/x234/067 or 067.p/8")
	}
	return index, partial, nil
}

func sendTile(c echo.Context, b []byte, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return problem.NotFound("tile " + c.Request().URL.Path)
	}
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEOctetStream, b)
}
