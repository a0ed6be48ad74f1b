package s3store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/cordon-ota/cordon/artifacts"
)

// Codes that say "not now", whatever the status is: CompleteMultipartUpload answers 200 first and its error later.
var retryCodes = []string{"InternalError", "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "RequestTimeout", "Throttling",
	"RequestLimitExceeded", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted", conflictCode}

// conflictCode: another conditional write of the same key was under way.
const conflictCode = "ConditionalRequestConflict"

// try calls until it succeeds, its failure is final, the attempts are used up or the context ends. call gets the number
// of the attempt: after the first one, an earlier attempt may have been carried out although its answer was lost.
func (s *Store) try(ctx context.Context, verb string, call func(attempt int) error) error {
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cannot %s: %w", verb, err)
		}
		err := call(attempt)
		if err == nil {
			return nil
		}
		if ctxErr := ctx.Err(); ctxErr != nil {
			return fmt.Errorf("cannot %s: %w", verb, ctxErr)
		}
		if attempt+1 >= s.attempts || !worthAnotherTry(err) {
			return s.explain(verb, err)
		}
		if err := pause(ctx, attempt); err != nil {
			return fmt.Errorf("cannot %s: %w", verb, err)
		}
	}
}

// pause waits 50 to 100 ms, doubled by every earlier attempt, or until the context ends.
func pause(ctx context.Context, attempt int) error {
	base := 50 * time.Millisecond << attempt
	timer := time.NewTimer(base + rand.N(base))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func worthAnotherTry(err error) bool {
	if errors.Is(err, errAnswer) {
		return false
	}
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		// No answer: the connection failed. Another try does not make a certificate trusted.
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		return !untrusted
	}
	if slices.Contains(retryCodes, r.Code) {
		return true
	}
	switch r.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return r.StatusCode >= 500
}

// errAnswer is an answer that breaks the protocol.
var errAnswer = errors.New("the server's answer is not what S3 prescribes")

// explain makes an error that says what to do. What is not there becomes artifacts.ErrNotFound; everything else
// artifacts.ErrUnavailable, for the caller who did not expect this very code.
func (s *Store) explain(verb string, err error) error {
	r, _ := errors.AsType[minio.ErrorResponse](err)
	switch {
	case r.Code == minio.NoSuchKey:
		return fmt.Errorf("cannot %s: %w (%w)", verb, artifacts.ErrNotFound, err)
	case r.Code == minio.NoSuchBucket:
		return fmt.Errorf("%w: cannot %s: %w: make bucket %q on %s, or correct its name in the configuration (%w)",
			artifacts.ErrUnavailable, verb, ErrBucket, s.bucket, s.core.EndpointURL().Host, err)
	case r.Code == minio.AccessDenied:
		return fmt.Errorf("%w: cannot %s: %w: it must be allowed to list bucket %q and to read, write and delete below %q (%w)",
			artifacts.ErrUnavailable, verb, ErrCredentials, s.bucket, s.prefix, err)
	case r.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%w: cannot %s: the clocks of this machine and of the S3 server differ too much (%w)", artifacts.ErrUnavailable, verb, err)
	case r.Code == "AuthorizationHeaderMalformed" || r.Code == minio.InvalidRegion:
		return fmt.Errorf("%w: cannot %s: set the region of the bucket in the configuration (%w)", artifacts.ErrUnavailable, verb, err)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized || r.Code == "XAdminUserNotFound":
		// InvalidAccessKeyId, SignatureDoesNotMatch, ExpiredToken and what other servers call them; versitygw answers an
		// unknown access key with a 404 and a code of its own.
		return fmt.Errorf("%w: cannot %s: %w (%s): check the files with the access key and the secret key (%w)", artifacts.ErrUnavailable, verb, ErrCredentials, r.Code, err)
	}
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return fmt.Errorf("%w: cannot %s: the certificate of the S3 server is not trusted: name the file with its CA in the configuration (%w)", artifacts.ErrUnavailable, verb, err)
	}
	return fmt.Errorf("%w: cannot %s: %w", artifacts.ErrUnavailable, verb, err)
}

func code(err error) string {
	r, _ := errors.AsType[minio.ErrorResponse](err)
	return r.Code
}

// refusedByCondition: the object is not in the state that the write was conditional on.
func refusedByCondition(err error) bool {
	r, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && (r.StatusCode == http.StatusPreconditionFailed || r.Code == minio.PreconditionFailed || r.Code == conflictCode ||
		r.StatusCode == http.StatusConflict)
}
