package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Headers of HEAD and PUT /api/v1/blobs/{sha256}. Both requests carry Upload-Length, PUT Upload-Offset too; every answer
// carries Upload-Offset.
const (
	HeaderUploadOffset = "Upload-Offset"
	HeaderUploadLength = "Upload-Length"
)

// steadyBytes is what has to arrive between two breaks of the line so that they do not count as failures.
const steadyBytes = 1 << 20

// Uploaded says how far the upload of a blob has come; a blob that the server has never seen stands at 0.
func (c *Client) Uploaded(ctx context.Context, d digest.SHA256, length int64) (Upload, error) {
	var last error
	for attempt := 1; attempt <= c.attempts; attempt++ {
		u, err := c.uploaded(ctx, d, length)
		if err == nil {
			return u, nil
		}
		last = err
		pause, again := pauseAfter(err, attempt)
		if !again || attempt == c.attempts || ctx.Err() != nil {
			break
		}
		if waitErr := c.wait(ctx, pause); waitErr != nil {
			return Upload{}, fmt.Errorf("%w (gave up: %w)", err, waitErr)
		}
	}
	return Upload{}, last
}

func (c *Client) uploaded(ctx context.Context, d digest.SHA256, length int64) (Upload, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodHead, "/api/v1/blobs/"+d.String(), nil, nil)
	if err != nil {
		return Upload{}, err
	}
	req.Header.Set(HeaderUploadLength, strconv.FormatInt(length, 10))
	res, err := c.send(req)
	var problem *Error
	if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
		return Upload{Length: length}, nil
	}
	if err != nil {
		return Upload{}, err
	}
	defer res.Body.Close()
	return uploadOf(res.Header, length)
}

// Send uploads a blob from where its upload stands, in chunks of at most UploadChunk, and continues after lost
// connections. progress is called with the bytes that the server holds; nil is allowed.
func (c *Client) Send(ctx context.Context, d digest.SHA256, length int64, r io.ReaderAt, progress func(int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	at, err := c.Uploaded(ctx, d, length)
	if err != nil {
		return err
	}
	progress(at.Offset)
	for failed := 0; at.Offset < length; {
		next, err := c.chunk(ctx, d, length, at.Offset, r)
		if err == nil && next.Offset > at.Offset {
			at, failed = next, 0
			progress(at.Offset)
			continue
		}
		if err == nil {
			err = fmt.Errorf("%w: the upload of %s stands still at %d", ErrAnswer, d, next.Offset)
		}
		failed++
		pause, again := pauseAfter(err, failed)
		var problem *Error
		if errors.As(err, &problem) && problem.Status == http.StatusConflict {
			pause, again = 0, true // the server stands elsewhere: ask where
		}
		if failed == 1 && errors.Is(err, ErrUnreachable) {
			pause = 0 // the line broke: ask on a new one; the server answers when it has settled what arrived
		}
		if !again || failed >= c.attempts || ctx.Err() != nil {
			return err
		}
		if waitErr := c.wait(ctx, pause); waitErr != nil {
			return fmt.Errorf("%w (gave up: %w)", err, waitErr)
		}
		before := at.Offset
		if at, err = c.Uploaded(ctx, d, length); err != nil {
			return err
		}
		if at.Offset-before >= steadyBytes {
			failed = 0 // the line breaks, but the upload goes on: that may happen any number of times
		}
		progress(at.Offset)
	}
	return nil
}

func (c *Client) chunk(ctx context.Context, d digest.SHA256, length, offset int64, r io.ReaderAt) (Upload, error) {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	n := min(UploadChunk, length-offset)
	req, err := c.request(ctx, http.MethodPut, "/api/v1/blobs/"+d.String(), nil, io.NewSectionReader(r, offset, n))
	if err != nil {
		return Upload{}, err
	}
	req.ContentLength = n
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(HeaderUploadOffset, strconv.FormatInt(offset, 10))
	req.Header.Set(HeaderUploadLength, strconv.FormatInt(length, 10))
	res, err := c.send(req)
	if err != nil {
		return Upload{}, err
	}
	defer res.Body.Close()
	return uploadOf(res.Header, length)
}

func uploadOf(h http.Header, length int64) (Upload, error) {
	offset, err := strconv.ParseInt(h.Get(HeaderUploadOffset), 10, 64)
	if err != nil || offset < 0 || offset > length {
		return Upload{}, fmt.Errorf("%w: %s is %.40q for a blob of %d bytes", ErrAnswer, HeaderUploadOffset, h.Get(HeaderUploadOffset), length)
	}
	return Upload{Offset: offset, Length: length, Complete: offset == length}, nil
}
