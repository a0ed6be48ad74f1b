package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
)

// chapters is the story, in order.
var chapters = []chapter{
	{"The server starts for the first time", "not ready; token makes two people", (*world).bootstrap},
	{"Two holders sign the roots and the policy", "one signature is not enough", (*world).ceremony},
	{"CI publishes the recovery release and 1.0", "only the policy's publisher", (*world).publishFirst},
	{"An auditor's witness watches the log", "named offline, cosigns", (*world).watch},
	{"Three genuine TPMs enroll, two are claimed", "unclaimed gets nothing", (*world).enroll},
	{"Both devices prove their boot and get 1.0", "1.0 proven on A and B", (*world).firstUpdate},
	{"1.1 is published, A updates", "done only after the proof", (*world).secondUpdate},
	{"Somebody changes B's boot chain", "quarantine, exact event named", (*world).tamper},
	{"B is locked out, recovers, is let back", "recovery only, two persons", (*world).recover},
	{"An attacker replays what was seen", "each refused by name", (*world).replay},
	{"An attacker swaps an image in the store", "artifact_mismatch", (*world).swapImage},
	{"The auditor checks the report offline", "verifies; one flipped bit does not", (*world).audit},
}

func tlsConfig(pool *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}

func (w *world) tokenFile(person string) string { return w.path(person + ".token") }

func (w *world) trustFile() string { return w.path("trust.json") }

// by adds the flags that say which server, and who asks, to a command line of cordonctl.
func (w *world) by(person string, args ...string) []string {
	return append(args, "--server", w.adminURL(), "--ca-sha256", w.pin.String(), "--token-file", w.tokenFile(person))
}

var loggedCA = regexp.MustCompile(`ca_sha256=([0-9a-f]{64})`)

// bootstrap starts cordond on an empty folder and makes the accounts.
func (w *world) bootstrap(ctx context.Context) (string, error) {
	w.say("cordond starts with an empty data directory: it makes its keys, its CA and a one-time token.")
	if err := w.startServer(ctx); err != nil {
		return "", err
	}
	code, err := w.status(ctx, "/readyz")
	if err != nil || code != http.StatusServiceUnavailable {
		return "", fmt.Errorf("/readyz should answer 503 before the ceremony, got %d, error %v", code, err)
	}
	w.ok("/readyz answers 503: nobody has signed anything yet")
	log, err := os.ReadFile(w.server.log)
	if err != nil {
		return "", err
	}
	found := loggedCA.FindSubmatch(log)
	if found == nil {
		return "", errors.New("cordond did not print the SHA-256 of its CA")
	}
	if w.pin, err = digest.Parse(string(found[1])); err != nil {
		return "", err
	}
	w.ok("it prints the SHA-256 of its CA, which all tools below pin: %s", w.pin)
	if err := w.oneTimeToken(); err != nil {
		return "", err
	}
	return "503 until signed; void after two", w.accounts(ctx)
}

func (w *world) oneTimeToken() error {
	file := w.path("cordon-data", "admin.token")
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Mode().Perm() != 0o600 {
		return fmt.Errorf("the one-time token has mode %v", info.Mode())
	}
	w.ok("the one-time token lies in a file that only its owner may read")
	return os.Symlink(file, w.tokenFile("bootstrap"))
}

// accounts makes the people of the story: two by the one-time token, the rest by the administrator among them.
func (w *world) accounts(ctx context.Context) error {
	for _, p := range []struct {
		by, name, role string
	}{
		{"bootstrap", "alice", api.RoleAdmin},
		{"bootstrap", "bob", api.RoleOperator},
		{"alice", "carol", api.RoleOperator},
		{"alice", "dave", api.RoleAuditor},
		{"alice", "ci-builder", api.RoleCI},
	} {
		args := []string{"person", "add", p.name, "--role", p.role, "--days", "7", "--token-out", w.tokenFile(p.name)}
		if _, err := w.must(ctx, "cordonctl", w.by(p.by, args...)...); err != nil {
			return err
		}
	}
	w.ok("it makes two accounts, alice (admin) and bob (operator); alice makes carol (operator), dave (auditor) and ci-builder")
	r, err := w.run(ctx, "cordonctl", w.by("bootstrap", "person", "add", "mallory", "--role", api.RoleAdmin, "--token-out", w.tokenFile("mallory"))...)
	if err != nil {
		return err
	}
	if err := r.says(1, string(reason.Unauthenticated)); err != nil {
		return err
	}
	w.ok("a third account with the one-time token is refused: %s", reason.Unauthenticated)
	return nil
}

// policy is what the holders sign for the product.
const policy = `product = "gateway"
[[publisher]]
name = "ci"
key_file = "publisher.pub.pem"
`

// ceremony makes keys, signs roots, policy and baseline, and writes the trust bundle.
func (w *world) ceremony(ctx context.Context) (string, error) {
	w.say("hanna and henry hold the offline keys. The server sees signatures of theirs, never a key.")
	if err := w.sign(ctx,
		"keys new --type holder --out hanna.pem",
		"keys new --type holder --out henry.pem",
		"keys new --type publisher --out publisher.pem",
		"keys new --type publisher --out stranger.pem",
		fmt.Sprintf("root init --server %s --ca-sha256 %s --dir ceremony --holder hanna.pub.pem --holder henry.pub.pem --threshold 2", w.adminURL(), w.pin),
		"root sign --dir ceremony --key hanna.pem",
	); err != nil {
		return "", err
	}
	r, err := w.run(ctx, "cordon-sign", "root", "apply", "--dir", "ceremony", "--token-file", w.tokenFile("alice"))
	if err != nil {
		return "", err
	}
	if err := r.says(1, "not enough holders have signed"); err != nil {
		return "", err
	}
	w.ok("with one of two signatures nothing can be applied: not enough holders have signed")
	if err := w.sign(ctx,
		"root sign --dir ceremony --key henry.pem",
		"root assemble --dir ceremony",
		"root apply --dir ceremony --token-file "+w.tokenFile("alice"),
	); err != nil {
		return "", err
	}
	w.ok("both signed: the roots of the Image and the Director repository are in force")
	if err := w.signPolicy(ctx); err != nil {
		return "", err
	}
	if err := w.provision(ctx); err != nil {
		return "", err
	}
	code, err := w.status(ctx, "/readyz")
	if err != nil || code != http.StatusOK {
		return "", fmt.Errorf("/readyz should answer 200 after the ceremony, got %d, error %v", code, err)
	}
	w.ok("/readyz answers 200")
	return "1 of 2 refused, 2 of 2 in force", nil
}

// signPolicy learns the platform from a reference machine and has policy, recovery image and baseline signed.
func (w *world) signPolicy(ctx context.Context) error {
	report, err := w.reference.boot(ctx)
	if err != nil {
		return err
	}
	var pcrs strings.Builder
	for _, index := range []int{0, 1, 2, 3, 6, 7} {
		fmt.Fprintf(&pcrs, "SHA256 PCR%02d %s\n", index, report.PCRs[index])
	}
	if err := os.WriteFile(w.path("pcrs.txt"), []byte(pcrs.String()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(w.path("policy.toml"), []byte(policy), 0o644); err != nil {
		return err
	}
	if err := w.sign(ctx,
		"product set --dir ceremony --policy policy.toml",
		"product recovery --dir ceremony --product gateway --image "+w.images[recovery],
		"product baseline --dir ceremony --product gateway --profile softpc-v1 --pcrs pcrs.txt",
		"root sign --dir ceremony --key hanna.pem",
		"root sign --dir ceremony --key henry.pem",
		"root apply --dir ceremony --token-file "+w.tokenFile("alice"),
	); err != nil {
		return err
	}
	w.ok("the policy of product gateway is signed: who may publish, which image is for recovery, what the platform measures")
	return nil
}

// provision writes the trust bundle, which belongs into the measured image of a device.
func (w *world) provision(ctx context.Context) error {
	if _, err := w.must(ctx, "cordonctl", "provision", "--server", w.adminURL(), "--ca-sha256", w.pin.String(), "--out", w.trustFile()); err != nil {
		return err
	}
	w.ok("the trust bundle is written: both roots, the server's CA and URL; it belongs into the measured image of every device")
	return nil
}

// publishFirst publishes the recovery release and 1.0.
func (w *world) publishFirst(ctx context.Context) (string, error) {
	w.say("ci-builder signs each release statement with the publisher key and hands it over.")
	r, err := w.publish(ctx, "1.0", "stranger.pem")
	if err != nil {
		return "", err
	}
	if err := r.says(1, string(reason.PublisherRefused)); err != nil {
		return "", err
	}
	w.ok("a release that is signed with a key that the policy does not name is refused: %s", reason.PublisherRefused)
	if err := w.published(ctx, recovery, "--recovery"); err != nil {
		return "", err
	}
	w.ok("gateway/%s, the recovery release, is published; its digest is on the signed list", recovery)
	if err := w.published(ctx, "1.0"); err != nil {
		return "", err
	}
	w.ok("gateway/1.0 is published; its Reference Values are part of the signed statement")
	r, err = w.publish(ctx, "1.0", "publisher.pem")
	if err != nil {
		return "", err
	}
	if err := r.says(0, "nothing changed"); err != nil {
		return "", err
	}
	w.ok("the same release again changes nothing")
	return "stranger refused, 0.9 and 1.0 published", nil
}

func (w *world) publish(ctx context.Context, version, key string, more ...string) (result, error) {
	args := []string{
		"publish", "--server", w.adminURL(), "--ca-sha256", w.pin.String(), "--token-file", w.tokenFile("ci-builder"),
		"--product", product, "--version", version, "--component", "system=" + w.images[version] + ",hw=" + hardware + ",installer=ab", "--key", key,
	}
	return w.run(ctx, "cordon-sign", append(args, more...)...)
}

// published publishes a release and checks that it is in signed metadata.
func (w *world) published(ctx context.Context, version string, more ...string) error {
	r, err := w.publish(ctx, version, "publisher.pem", more...)
	if err != nil {
		return err
	}
	if err := r.says(0, "published"); err != nil {
		return err
	}
	c, err := w.as("bob")
	if err != nil {
		return err
	}
	release, err := c.Release(ctx, product, version)
	if err != nil {
		return err
	}
	if release.State != api.ReleasePublished || release.Release.Components[0].ReferenceValues.IsZero() {
		return fmt.Errorf("%s is %s: %+v", release.Name, release.State, release.Release)
	}
	return nil
}

// enroll admits three TPMs; two of them are claimed by an operator.
func (w *world) enroll(ctx context.Context) (string, error) {
	w.say("Three machines leave the factory, each with its own TPM and image %s. Their agents enroll.", recovery)
	for name, into := range map[string]**device{"A": &w.a, "B": &w.b, "stranger": &w.stranger} {
		d, err := newDevice(ctx, w, name)
		if err != nil {
			return "", err
		}
		*into = d
		if _, err := d.boot(ctx); err != nil {
			return "", err
		}
	}
	for _, d := range []*device{w.a, w.b, w.stranger} {
		if err := d.expectPending(ctx); err != nil {
			return "", err
		}
	}
	w.ok("the server checked each TPM's certificate and keys, and keeps all three pending: a genuine TPM is not yet ours")
	for _, d := range []*device{w.a, w.b} {
		args := []string{"inventory", "set", d.id, "--product", product, "--hardware-id", hardware, "--profile", profile}
		if _, err := w.must(ctx, "cordonctl", w.by("bob", args...)...); err != nil {
			return "", err
		}
	}
	w.ok("bob lists A (%s) and B (%s) in the inventory", w.a.id, w.b.id)
	if err := w.stranger.expectPending(ctx); err != nil {
		return "", err
	}
	w.ok("the third one asks again and still gets nothing: %s", reason.DevicePending)
	return "2 claimed, 1 pending", nil
}

// expectPending runs the agent and expects that the device is known and gets nothing.
func (d *device) expectPending(ctx context.Context) error {
	s, err := d.agent(ctx)
	if err != nil {
		return err
	}
	if !s.refused(reason.DevicePending, false) || s.Staged != "" {
		return fmt.Errorf("%s should be pending, got %s", d.name, s)
	}
	now, err := d.seen(ctx)
	if err != nil {
		return err
	}
	if now.Lifecycle != "pending" || now.Offered != "" {
		return fmt.Errorf("%s is %s and offered %q", d.name, now.Lifecycle, now.Offered)
	}
	return nil
}

// seen is what the server says about the device.
func (d *device) seen(ctx context.Context) (api.Device, error) {
	c, err := d.w.as("bob")
	if err != nil {
		return api.Device{}, err
	}
	return c.Device(ctx, d.id)
}

// expectProven checks that the server has the proof of a release.
func (d *device) expectProven(ctx context.Context, release string) error {
	now, err := d.seen(ctx)
	if err != nil {
		return err
	}
	if now.Proven != release || now.Standing != "affirmed" || now.Offered != "" {
		return fmt.Errorf("%s should have proven %s: the server says proven %q, standing %s, offered %q", d.name, release, now.Proven, now.Standing, now.Offered)
	}
	return nil
}

// firstUpdate brings both devices to 1.0.
func (w *world) firstUpdate(ctx context.Context) (string, error) {
	for _, d := range []*device{w.a, w.b} {
		w.say("%s proves over a challenge that it booted the factory image, and is offered 1.0.", d.name)
		if err := d.stage(ctx, product+"/1.0"); err != nil {
			return "", err
		}
		now, err := d.seen(ctx)
		if err != nil {
			return "", err
		}
		if now.Proven != product+"/"+recovery {
			return "", fmt.Errorf("%s should have proven the factory image, the server says %q", d.name, now.Proven)
		}
		w.ok("the server has %s's proof of the factory image; %s has verified 1.0, written it to its other slot and asks for a restart", d.name, d.name)
		if err := d.finish(ctx, product+"/1.0"); err != nil {
			return "", err
		}
		w.ok("%s restarted, proved the boot of 1.0 and committed the slot", d.name)
	}
	return "1.0 proven on both", nil
}

// secondUpdate shows on A when an update counts as done.
func (w *world) secondUpdate(ctx context.Context) (string, error) {
	if err := w.remember(ctx); err != nil {
		return "", err
	}
	if err := w.published(ctx, "1.1"); err != nil {
		return "", err
	}
	w.ok("gateway/1.1, with another kernel, is published")
	if err := w.a.stage(ctx, product+"/1.1"); err != nil {
		return "", err
	}
	if err := w.a.expectOpen(ctx); err != nil {
		return "", err
	}
	w.ok("A has installed 1.1 into its other slot; the server still counts 1.0 as what A runs")
	report, err := w.a.boot(ctx)
	if err != nil {
		return "", err
	}
	if err := w.a.expectOpen(ctx); err != nil {
		return "", err
	}
	w.ok("A has restarted into slot %s; without a proof it still does not count", report.Slot)
	s, err := w.a.prove(ctx)
	if err != nil {
		return "", err
	}
	if !s.Committed {
		return "", fmt.Errorf("device A should have committed 1.1, got %s", s)
	}
	if err := w.a.expectProven(ctx, product+"/1.1"); err != nil {
		return "", err
	}
	w.ok("A's TPM quoted the new boot over a challenge: now the server says proven, and A keeps the slot")
	return "1.1 proven on A", nil
}

// expectOpen checks that 1.1 is offered to the device and not proven.
func (d *device) expectOpen(ctx context.Context) error {
	now, err := d.seen(ctx)
	if err != nil {
		return err
	}
	if now.Proven != product+"/1.0" || now.Offered != product+"/1.1" {
		return fmt.Errorf("%s: proven %q, offered %q; the update must not count yet", d.name, now.Proven, now.Offered)
	}
	return nil
}

func has(reasons []reason.Reason, r reason.Reason) bool { return slices.Contains(reasons, r) }
