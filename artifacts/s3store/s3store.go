// Package s3store keeps artifacts in a bucket of an S3 server.
//
// It promises what artifacts.Store says, also between several processes that share the bucket, and needs no lock: every
// change of something that moves is one conditional write. A blob becomes readable in one step, after its digest was
// checked, and every byte that is sent carries its SHA-256, which the server compares. It refuses a server that ignores
// conditional writes (Open tries them), because such a server would lose updates without a word. It does not compare
// the digest of a blob again when it reads: a reader that must not trust the server does, as every device does. Documents
// are small, so Load compares theirs.
// Trusted with availability only: an attacker who controls the bucket can withhold or change bytes, and every change is
// noticed by TUF, the bundle or the digest.
//
// Layout under the prefix: blobs/<hex>, uploads/<hex> (how far an upload is) beside uploads/<hex>.<random> (its last
// bytes), names/<name>!, probe. Only List and Walk list. What a crash can leave behind is an unfinished multipart upload
// or one uploads/<hex>.<random>: Walk finds both and RemoveUpload removes them.
// The access key needs s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts
// below the prefix, and s3:ListBucket and s3:ListBucketMultipartUploads on the bucket; without s3:ListBucket a missing
// object answers 403 instead of 404. In a bucket with versioning Remove removes versions, or nothing would ever be freed:
// that needs s3:ListBucketVersions and s3:DeleteObjectVersion. Object lock needs s3:PutObjectRetention and
// s3:GetObjectRetention. What neither of them has is used like a plain bucket.
package s3store

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Errors of Open, and of every other call that meets the same condition later. ErrBucket, ErrCredentials and ErrServer
// come together with artifacts.ErrUnavailable.
var (
	ErrConfig      = errors.New("configuration of the S3 store is not valid")
	ErrBucket      = errors.New("bucket is not there")
	ErrCredentials = errors.New("the S3 server refuses the access key")
	ErrServer      = errors.New("the S3 server cannot be used as a store")
)

const (
	defaultRegion = "us-east-1"
	defaultIdle   = 2 * time.Minute
	maxPrefix     = 256 // with it the longest key stays below the 1024 bytes that S3 allows
	attempts      = 4   // of one request, before the store counts as unavailable
	settleTimeout = time.Minute
)

// Config says where the bucket is and how it is reached.
type Config struct {
	Endpoint  string         // https://host[:port], or http:// where the way to the server is protected otherwise
	Bucket    string         // must exist; the store never makes one
	Prefix    string         // Optional: folder inside the bucket, as in "cordon/prod"; default: the whole bucket
	Region    string         // Optional: default us-east-1, which most servers that are not AWS use
	AccessKey string         // content of the access key file; white space around it is ignored
	SecretKey string         // content of the secret key file; white space around it is ignored
	Roots     *x509.CertPool // Optional: CAs of the server's certificate; default: those of the system
	PathStyle bool           // Optional: bucket in the path instead of the host name, for servers without a wildcard name
	// Optional: do not store SHA-256 sums as x-amz-checksum-sha256, for servers that refuse the header. Sums still
	// travel as x-amz-content-sha256, so what is uploaded stays checked.
	OmitChecksums bool
	// Optional: a connection on which nothing moves for this long is given up; default 2 minutes.
	IdleTimeout time.Duration
	// Optional: URL of the server as devices reach it, for presigned URLs; default Endpoint.
	PublicEndpoint string
	LockMode       LockMode         // Optional: Retain locks blobs in this mode, in a bucket with object lock
	LockFor        time.Duration    // how long; needed with LockMode
	Now            func() time.Time // Optional: time.Now; says until when a lock runs
}

// Store is a bucket with artifacts. All methods may be called at once.
type Store struct {
	core      *minio.Core
	public    *minio.Core // signs URLs; never connects
	bucket    string
	prefix    string // empty or with a slash at its end
	checksums bool
	attempts  int // a test that wants to see each failure sets 1
	features  Features
	lockMode  LockMode
	lockFor   time.Duration
	now       func() time.Time
}

var (
	_ artifacts.Store    = (*Store)(nil)
	_ artifacts.Walker   = (*Store)(nil)
	_ artifacts.Retainer = (*Store)(nil)
)

// Open connects to the bucket and checks that the key may write there and that the server holds to conditional writes.
// It returns ErrConfig for a Config that cannot work, and ErrBucket, ErrCredentials or ErrServer, each with what to do.
// A server that cannot be reached wraps artifacts.ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.probe(ctx); err != nil {
		return nil, err
	}
	if err := s.learn(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func newStore(cfg Config) (*Store, error) {
	secure, host, err := splitEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: endpoint: %w", ErrConfig, err)
	}
	if err := cfg.validLock(); err != nil {
		return nil, err
	}
	if err := s3utils.CheckValidBucketNameStrict(cfg.Bucket); err != nil {
		return nil, fmt.Errorf("%w: bucket %.80q: %w", ErrConfig, cfg.Bucket, err)
	}
	prefix := strings.Trim(cfg.Prefix, "/")
	if prefix != "" {
		if err := artifacts.ValidStoredName(prefix); err != nil || len(prefix) > maxPrefix {
			return nil, fmt.Errorf("%w: prefix %.80q: want at most %d bytes of what a stored name may hold", ErrConfig, cfg.Prefix, maxPrefix)
		}
		prefix += "/"
	}
	access, secret := strings.TrimSpace(cfg.AccessKey), strings.TrimSpace(cfg.SecretKey)
	if access == "" || secret == "" {
		return nil, fmt.Errorf("%w: access key and secret key must not be empty", ErrConfig)
	}
	options := &minio.Options{
		Creds:        credentials.NewStaticV4(access, secret, ""),
		Secure:       secure,
		Region:       cfg.Region,
		BucketLookup: minio.BucketLookupAuto,
		Transport:    newTransport(cfg.Roots, cfg.IdleTimeout),
		MaxRetries:   1, // this package retries whole calls, bodies included
	}
	if options.Region == "" {
		options.Region = defaultRegion
	}
	if cfg.PathStyle {
		options.BucketLookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(host, options)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s := &Store{core: core, public: core, bucket: cfg.Bucket, prefix: prefix, checksums: !cfg.OmitChecksums, attempts: attempts,
		lockMode: cfg.LockMode, lockFor: cfg.LockFor, now: cfg.Now}
	if s.now == nil {
		s.now = time.Now
	}
	if cfg.PublicEndpoint == "" {
		return s, nil
	}
	public := *options
	if public.Secure, host, err = splitEndpoint(cfg.PublicEndpoint); err != nil {
		return nil, fmt.Errorf("%w: public endpoint: %w", ErrConfig, err)
	}
	if s.public, err = minio.NewCore(host, &public); err != nil {
		return nil, fmt.Errorf("%w: public endpoint: %w", ErrConfig, err)
	}
	return s, nil
}

func (c Config) validLock() error {
	switch {
	case c.LockMode != LockNone && c.LockMode != LockGovernance && c.LockMode != LockCompliance:
		return fmt.Errorf("%w: lock mode %.20q is neither %q nor %q", ErrConfig, c.LockMode, LockGovernance, LockCompliance)
	case c.LockMode != LockNone && (c.LockFor < 24*time.Hour || c.LockFor > farAway):
		return fmt.Errorf("%w: a lock runs for at least a day", ErrConfig)
	case c.LockMode == LockNone && c.LockFor != 0:
		return fmt.Errorf("%w: a time to lock blobs for needs a lock mode", ErrConfig)
	}
	return nil
}

// splitEndpoint takes a URL apart; one without a scheme means https.
func splitEndpoint(text string) (secure bool, host string, err error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return false, "", err
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return false, "", fmt.Errorf("scheme is %q, want https or http", u.Scheme)
	}
	if u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return false, "", fmt.Errorf("%.120q is more or less than https://host[:port]", u.Redacted())
	}
	return u.Scheme == "https", u.Host, nil
}

// probe tries the conditional writes that Create, Swap and every upload rest on.
func (s *Store) probe(ctx context.Context) error {
	data := []byte("cordon tries here whether the server holds to conditional writes\n")
	key := s.prefix + "probe"
	put := func(match string) error {
		return s.try(ctx, "try conditional writes", func(int) error {
			_, err := s.putOnce(ctx, key, data, condition{match: match}, nil)
			return err
		})
	}
	if err := put(mustNotExist); err != nil && !refusedByCondition(err) {
		return err
	}
	for what, match := range map[string]string{"If-None-Match": mustNotExist, "If-Match": strings.Repeat("0", 32)} {
		err := put(match)
		if err == nil {
			return fmt.Errorf("%w: %w: it ignores %s, so two writers would overwrite each other; use one with conditional writes", artifacts.ErrUnavailable, ErrServer, what)
		}
		if !refusedByCondition(err) {
			return err
		}
	}
	got, _, err := s.get(ctx, key, int64(len(data)))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%w: %w: object %q holds something else; give this store a prefix of its own", artifacts.ErrUnavailable, ErrServer, key)
	}
	return nil
}

func (s *Store) blobKey(d digest.SHA256) string { return s.prefix + "blobs/" + d.String() }

func (s *Store) stateKey(d digest.SHA256) string { return s.prefix + "uploads/" + d.String() }
