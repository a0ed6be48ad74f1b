package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// Names of the story.
const (
	product  = "gateway"
	hardware = "board-a"
	profile  = "softpc-v1"
)

// world is everything that the story has on its stage.
type world struct {
	opt       Options
	dir       string
	temporary bool
	bin       string
	out       io.Writer
	summary   Summary

	kernels       []parts.KernelImage
	images        map[string]string // version -> UKI
	postgres      *parts.Postgres
	s3            *parts.S3 // nil with a directory
	server        server
	witness       witness // of the auditor
	relay         *relay  // the network between devices and server
	databaseRelay *relay  // likewise between server and PostgreSQL; nil with SQLite
	pin           digest.SHA256

	a, b, stranger, reference *device
	oldTimestamp              []byte // a timestamp that A verified long ago
	oldPoll                   *recording
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// prepare builds the programs and the images, and makes folders, network and database. Nothing of cordon runs yet.
func (w *world) prepare(ctx context.Context) error {
	for _, dir := range []string{"home", "tmp"} {
		if err := os.MkdirAll(w.path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := w.build(ctx); err != nil {
		return err
	}
	if err := w.buildImages(ctx); err != nil {
		return err
	}
	if err := w.makeRelay(); err != nil {
		return err
	}
	if err := w.trustTPMMaker(ctx); err != nil {
		return err
	}
	database, err := w.database(ctx)
	if err != nil {
		return err
	}
	bucket, err := w.bucket(ctx)
	if err != nil {
		return err
	}
	if err := w.configure(ctx, "https://"+w.relay.address(), database, bucket); err != nil {
		return err
	}
	w.relay.connectTo(w.server.devices)
	return nil
}

// makeRelay makes the network between devices and server.
func (w *world) makeRelay() error {
	var err error
	if w.opt.listen == nil {
		w.relay, err = newRelay()
		return err
	}
	l, err := w.opt.listen()
	if err != nil {
		return fmt.Errorf("cannot make the network: %w", err)
	}
	w.relay = newRelayOn(l)
	return nil
}

func (w *world) build(ctx context.Context) error {
	w.bin = w.opt.Bin
	if w.bin != "" {
		return nil
	}
	root, err := moduleDir(ctx)
	if err != nil {
		return err
	}
	w.bin = filepath.Join(root, ".build", "demo")
	fmt.Fprintf(w.out, "Building cordond, cordon-sign, cordon-agent and cordonctl.\n")
	return Build(ctx, w.bin)
}

// buildImages makes the images of all releases: two kernels as Debian ships them, a small initrd, and a command line.
func (w *world) buildImages(ctx context.Context) error {
	fmt.Fprintf(w.out, "Making unified kernel images out of two Debian kernels.\n")
	var err error
	if w.kernels, err = parts.Kernels(ctx, w.opt.Log); err != nil {
		return err
	}
	w.images = map[string]string{}
	for version, kernel := range map[string]parts.KernelImage{
		recovery: w.kernels[0], "1.0": w.kernels[0], "1.1": w.kernels[1], "1.2": w.kernels[0],
	} {
		if w.images[version], err = parts.BuildUKI(ctx, parts.UKISpec{Version: version, Kernel: kernel}); err != nil {
			return err
		}
	}
	return nil
}

// recovery is the version of the release that brings a quarantined device back; the devices leave the factory with it.
const recovery = "0.9"

// trustTPMMaker manufactures the first machine, on which the platform is measured later, and writes the certificates of
// its TPM's maker for the server.
func (w *world) trustTPMMaker(ctx context.Context) error {
	reference, err := newDevice(ctx, w, "reference")
	if err != nil {
		return err
	}
	w.reference = reference
	roots, intermediates, err := reference.machine.TPM().CARoots()
	if err != nil {
		return err
	}
	return os.WriteFile(w.path("ek-roots.pem"), append(roots, intermediates...), 0o644)
}

// database returns the line of the configuration that names the database.
func (w *world) database(ctx context.Context) (string, error) {
	if !w.opt.Postgres {
		return "", nil
	}
	var err error
	if w.postgres, err = parts.StartPostgres(ctx, w.opt.postgresDir); err != nil {
		return "", err
	}
	name, err := w.postgres.NewDatabase(ctx)
	if err != nil {
		return "", err
	}
	dsn, err := w.databaseURL(name)
	if err != nil {
		return "", err
	}
	file := w.path("database.dsn")
	if err := os.WriteFile(file, []byte(dsn+"\n"), 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("database_file = %q\n", file), nil
}

// bucket returns the section of the configuration that names the bucket for artifacts; none with a directory.
func (w *world) bucket(ctx context.Context) (string, error) {
	if !w.opt.S3 {
		return "", nil
	}
	var err error
	if w.s3, err = parts.StartS3(ctx, ""); err != nil {
		return "", err
	}
	name, err := w.s3.NewBucket(ctx)
	if err != nil {
		return "", err
	}
	access, secret := w.s3.Keys()
	files := map[string]string{"s3-access.key": access, "s3-secret.key": secret}
	for file, content := range files {
		if err := os.WriteFile(w.path(file), []byte(content+"\n"), 0o600); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("[s3]\nendpoint = %q\nbucket = %q\nregion = %q\naccess_key_file = %q\nsecret_key_file = %q\nca_file = %q\npath_style = true\n",
		w.s3.Endpoint(), name, w.s3.Region(), w.path("s3-access.key"), w.path("s3-secret.key"), w.s3.CertificateFile()), nil
}

// artifactFiles is the folder in which the bytes of artifacts lie in the end.
func (w *world) artifactFiles() string {
	if w.s3 != nil {
		return w.s3.Dir()
	}
	return w.path("cordon-data", "artifacts")
}

// databaseURL names a database through a relay, so that PostgreSQL may come back at another address.
func (w *world) databaseURL(name string) (string, error) {
	u, err := url.Parse(w.postgres.TCPDSN(name))
	if err != nil {
		return "", err
	}
	if w.databaseRelay, err = newRelay(); err != nil {
		return "", err
	}
	w.databaseRelay.connectTo(u.Host)
	u.Host = w.databaseRelay.address()
	return u.String(), nil
}

// close ends everything, the last first.
func (w *world) close() {
	w.stopServer()
	w.stopWitness()
	var errs []error
	for _, d := range []*device{w.a, w.b, w.stranger, w.reference} {
		if d != nil {
			errs = append(errs, d.machine.Close())
		}
	}
	for _, r := range []*relay{w.relay, w.databaseRelay} {
		if r != nil {
			r.close()
		}
	}
	if w.postgres != nil {
		errs = append(errs, w.postgres.Stop())
	}
	if w.s3 != nil {
		errs = append(errs, w.s3.Stop())
	}
	if w.temporary {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintf(w.opt.Log, "conformance: cannot clean up: %v\n", err)
	}
}

// invite tells how to look around and waits for the end.
func (w *world) invite(ctx context.Context) {
	fmt.Fprintf(w.out, `
Everything stays up until Ctrl-C.
  admin API       %s   (CA %s, SHA-256 %s)
  device API      https://%s
  metrics         http://%s/metrics
  tokens          %s
  trust bundle    %s
  devices         %s
  server's log    %s
Look around, for example:
  %s --server %s --ca-sha256 %s --token-file %s device list
`,
		w.adminURL(), w.path("cordon-data", "keys", "server-ca.crt"), w.pin, w.relay.address(), w.server.metrics,
		w.path("*.token"), w.trustFile(), w.path("devices"), w.server.log,
		filepath.Join(w.bin, "cordonctl"), w.adminURL(), w.pin, w.tokenFile("bob"))
	if w.a != nil {
		fmt.Fprintf(w.out, "A device polls when its agent runs. That of A:\n  %s --once %s\n", filepath.Join(w.bin, "cordon-agent"), strings.Join(w.a.flags(), " "))
	}
	<-ctx.Done()
}
