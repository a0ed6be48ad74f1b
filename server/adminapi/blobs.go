package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Headers of a resumable upload.
const (
	headerOffset = "Upload-Offset"
	headerLength = "Upload-Length"
)

func (s *Server) blob(c echo.Context) (sum digest.SHA256, length int64, err error) {
	if sum, err = digest.Parse(c.Param("sha256")); err != nil {
		return sum, 0, problem.Malformed("a blob is named by 64 lower-case hex digits")
	}
	length, err = strconv.ParseInt(c.Request().Header.Get(headerLength), 10, 64)
	if err != nil || length < 1 || length > artifacts.MaxImageBytes {
		return sum, 0, problem.Malformed("the header %s must be 1 to %d", headerLength, int64(artifacts.MaxImageBytes))
	}
	return sum, length, nil
}

// settleWait bounds how long the question how far an upload is waits for a request that may just be ending.
const settleWait = 10 * time.Second

// headBlob says how far an upload has come.
func (s *Server) headBlob(c echo.Context, _ authn.Caller) error {
	sum, length, err := s.blob(c)
	if err != nil {
		return err
	}
	s.uploads.settled(c.Request().Context(), sum, settleWait)
	offset, err := s.Blobs.Uploaded(c.Request().Context(), sum, length)
	if err == nil && offset == length {
		err = s.touch(c.Request().Context(), sum)
	}
	if err != nil {
		return uploadError(err)
	}
	setUpload(c, offset, length)
	return c.NoContent(http.StatusNoContent)
}

func setUpload(c echo.Context, offset, length int64) {
	c.Response().Header().Set(headerOffset, strconv.FormatInt(offset, 10))
	c.Response().Header().Set(headerLength, strconv.FormatInt(length, 10))
}

// putBlob continues an upload. A chunk that does not continue where the upload stands is 409 with the right offset.
func (s *Server) putBlob(c echo.Context, _ authn.Caller) error {
	sum, length, err := s.blob(c)
	if err != nil {
		return err
	}
	offset, err := strconv.ParseInt(c.Request().Header.Get(headerOffset), 10, 64)
	if err != nil || offset < 0 || offset > length {
		return problem.Malformed("the header %s must be 0 to %d", headerOffset, length)
	}
	defer s.uploads.begin(sum)()
	now, err := s.Blobs.Write(c.Request().Context(), sum, length, offset, c.Request().Body)
	crash.Here(crash.UploadWritten)
	setUpload(c, now, length)
	if err == nil && now == length {
		err = s.touch(c.Request().Context(), sum)
	}
	if err != nil {
		return uploadError(err)
	}
	return c.NoContent(http.StatusNoContent)
}

// touch notes that a publisher is told that the blob is there, and so will rely on it. One that is being removed is busy
// for a moment: then it can be uploaded again.
func (s *Server) touch(ctx context.Context, sum digest.SHA256) error {
	err := s.Store.Commit(ctx, store.Change{Writes: []store.Write{store.TouchBlob{SHA256: sum, At: s.Now()}}})
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%s is being removed: %w", sum, artifacts.ErrUnavailable)
	}
	return err
}

func uploadError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return problem.TooLarge(tooLarge.Limit)
	case errors.Is(err, artifacts.ErrOffset):
		return problem.New(http.StatusConflict, reason.Conflict, "the upload stands at another offset; continue there")
	case errors.Is(err, artifacts.ErrDigestMismatch), errors.Is(err, artifacts.ErrLengthMismatch):
		return problem.New(http.StatusUnprocessableEntity, reason.ArtifactMismatch, "the bytes are not those of the announced digest and length; the upload starts over")
	}
	return problem.Busy(fmt.Errorf("cannot store the blob: %w", err), retryStore)
}
