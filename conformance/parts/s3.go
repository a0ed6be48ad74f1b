package parts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

// The S3 server: versitygw (Apache-2.0) over a folder. It is a process of its own because it changes its working folder
// and allows one gateway per process, and because its module drags in five message brokers.
func versitygw() goTool {
	return goTool{name: "versitygw", pkg: "github.com/versity/versitygw/cmd/versitygw", version: "v1.8.0"}
}

const s3Region = "us-east-1"

// S3 is a running S3 server with TLS on a loopback port.
type S3 struct {
	dir       string
	temp      string // removed by Stop; empty when the caller named the folder
	server    s3Server
	program   string
	port      int
	accessKey string
	secretKey string
	certPEM   []byte
	proc      *process
}

// StartS3 starts a server that keeps its buckets in dir; an empty dir means a temporary folder that goes with the
// server. The first call on a machine builds the server, which takes minutes and needs the Go module proxy; the result
// stays in the cache.
func StartS3(ctx context.Context, dir string) (*S3, error) {
	return startS3(ctx, dir, s3Server{tool: versitygw(), argv: versitygwArgv, accessVariable: "ROOT_ACCESS_KEY", secretVariable: "ROOT_SECRET_KEY"})
}

// s3Server is what one server program has of its own.
type s3Server struct {
	tool                           goTool
	argv                           func(s *S3) []string // arguments
	env                            []string
	accessVariable, secretVariable string
}

func versitygwArgv(s *S3) []string {
	return []string{"--port", s.address(), "--cert", s.CertificateFile(), "--key", filepath.Join(s.dir, "certs", "private.key"),
		"--region", s3Region, "--keep-alive", "--quiet", "posix", "--versioning-dir", filepath.Join(s.dir, "versions"), filepath.Join(s.dir, "data")}
}

func startS3(ctx context.Context, dir string, server s3Server) (*S3, error) {
	program, err := server.tool.build(ctx)
	if err != nil {
		return nil, err
	}
	s := &S3{server: server, program: program, accessKey: "K" + rand.Text()[:19], secretKey: rand.Text()}
	for range 3 {
		if err = s.prepare(dir); err != nil {
			break
		}
		if s.port, err = FreePort(ctx, "127.0.0.1"); err != nil {
			break
		}
		if err = s.launch(ctx); err == nil {
			return s, nil
		}
		// The free port may be taken before the server binds it.
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	s.removeTemp()
	return nil, err
}

// prepare makes the folders and the certificate.
func (s *S3) prepare(dir string) error {
	if s.dir != "" {
		return nil
	}
	var err error
	if dir == "" {
		if s.temp, err = os.MkdirTemp("", "cs3"); err != nil {
			return fmt.Errorf("cannot make folder for the S3 server: %w", err)
		}
		dir = s.temp
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("cannot use folder for the S3 server: %w", err)
	}
	certs := filepath.Join(dir, "certs") // as MinIO looks for them
	err = errors.Join(os.MkdirAll(filepath.Join(dir, "data"), 0o700), os.MkdirAll(filepath.Join(dir, "versions"), 0o700), os.MkdirAll(certs, 0o700))
	if err != nil {
		return fmt.Errorf("cannot make folder for the S3 server: %w", err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "data"), "user.cordon", []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot keep S3 objects in %s: the file system has no user attributes (%w); set TMPDIR to one that has, such as ext4", dir, err)
	}
	certPEM, keyPEM, err := loopbackCertificate()
	if err != nil {
		return err
	}
	err = errors.Join(writeFile(filepath.Join(certs, "public.crt"), certPEM, 0o644), writeFile(filepath.Join(certs, "private.key"), keyPEM, 0o600))
	if err != nil {
		return fmt.Errorf("cannot write certificate of the S3 server: %w", err)
	}
	s.dir, s.certPEM = dir, certPEM
	return nil
}

func (s *S3) launch(ctx context.Context) error {
	var err error
	s.proc, err = startProcess(processConfig{
		Argv: append([]string{s.program}, s.server.argv(s)...),
		Env:  append([]string{s.server.accessVariable + "=" + s.accessKey, s.server.secretVariable + "=" + s.secretKey, "HOME=" + s.dir}, s.server.env...),
		Log:  filepath.Join(s.dir, "s3.log"), Stop: "TERM", Clean: s.temp,
	})
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Roots()}, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	err = s.proc.waitReady(ctx, s.server.tool.name, func() error {
		r, err := client.Get(s.Endpoint())
		if err != nil {
			return err
		}
		if r.StatusCode >= http.StatusInternalServerError { // it listens before it knows its buckets
			err = errors.New(r.Status)
		}
		return errors.Join(err, r.Body.Close())
	})
	if err != nil {
		s.proc.stop()
	}
	return err
}

func (s *S3) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Endpoint is the server's URL.
func (s *S3) Endpoint() string { return "https://" + s.address() }

// Region is the server's region.
func (s *S3) Region() string { return s3Region }

// Keys are the credentials that may do everything.
func (s *S3) Keys() (access, secret string) { return s.accessKey, s.secretKey }

// Roots trusts the server's certificate and nothing else.
func (s *S3) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.certPEM)
	return pool
}

// CertificateFile is the PEM file with the server's certificate, for a configuration that names a file of roots.
func (s *S3) CertificateFile() string { return filepath.Join(s.dir, "certs", "public.crt") }

// PID is the process id of the server.
func (s *S3) PID() int { return s.proc.pid }

// Dir is the folder of the server, which also holds its log.
func (s *S3) Dir() string { return s.dir }

// NewBucket makes an empty bucket with a name that no other has, and returns its name.
func (s *S3) NewBucket(ctx context.Context) (string, error) { return s.newBucket(ctx, false) }

// NewLockedBucket makes an empty bucket with object lock, and so with versioning.
func (s *S3) NewLockedBucket(ctx context.Context) (string, error) { return s.newBucket(ctx, true) }

func (s *S3) newBucket(ctx context.Context, lock bool) (string, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Roots()}}
	defer transport.CloseIdleConnections()
	client, err := minio.New(s.address(), &minio.Options{
		Creds: credentials.NewStaticV4(s.accessKey, s.secretKey, ""), Secure: true, Region: s3Region,
		BucketLookup: minio.BucketLookupPath, Transport: transport,
	})
	if err != nil {
		return "", fmt.Errorf("cannot reach the S3 server: %w", err)
	}
	name := "b" + strings.ToLower(rand.Text())
	if err := client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: s3Region, ObjectLocking: lock}); err != nil {
		return "", fmt.Errorf("cannot make a bucket: %w", err)
	}
	return name, nil
}

// Stop ends the server. It may be called twice.
func (s *S3) Stop() error {
	s.proc.stop()
	s.removeTemp()
	return nil
}

// Kill ends the server at once, as a crash would. Restart brings it back if it was started with a folder; the
// temporary folder of a server without one goes with it.
func (s *S3) Kill() { s.proc.kill() }

// Restart starts a killed server again, over the same folder and at the same address.
func (s *S3) Restart(ctx context.Context) error { return s.launch(ctx) }

func (s *S3) removeTemp() {
	if s.temp != "" {
		os.RemoveAll(s.temp)
	}
}

// loopbackCertificate makes a self-signed certificate for 127.0.0.1.
func loopbackCertificate() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "cordon test S3"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}
