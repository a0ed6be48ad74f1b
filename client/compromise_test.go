package client_test

import (
	"crypto/ed25519"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/signer/keys"
)

// named is slots of another kind, for devices with two of them.
type named struct {
	*installer.AB
	name string
}

func (n named) Name() string { return n.name }

// twoSlots gives a device a second pair of slots, for the installer "uki".
func twoSlots(t *testing.T) (d *device, second string) {
	t.Helper()
	d = newDevice(t)
	second = t.TempDir()
	for name, text := range map[string]string{"a.img": "the factory boot image", "active": "a\n", "running": "a\n"} {
		if err := os.WriteFile(filepath.Join(second, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.cfg = func(cfg *client.Config) {
		ab, err := installer.NewAB(second)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Installers = append(cfg.Installers, named{ab, "uki"})
	}
	d.restart()
	d.enroll()
	return d, second
}

// pair is a release of two components that belong together.
func pair(version string, counter uint64, system, boot []byte) artifacts.Release {
	rel := release(version, counter, system)
	rel.Components = append(rel.Components, artifacts.Component{
		Name: "boot", HardwareIDs: []string{hardware}, SHA256: digest.Of(boot), Length: int64(len(boot)), Installer: "uki",
	})
	return rel
}

// add signs a release and puts one of its components into the product role, as a server with all online keys can.
func (r *repos) add(rel artifacts.Release, name string, image []byte) {
	r.t.Helper()
	s, err := artifacts.NewStatement(rel)
	if err != nil {
		r.t.Fatalf("NewStatement: %v", err)
	}
	payload, err := s.Encode()
	if err != nil {
		r.t.Fatalf("Encode: %v", err)
	}
	bundle, err := keys.SignBundle(r.t.Context(), payload, artifacts.PayloadType, r.ci)
	if err != nil {
		r.t.Fatalf("SignBundle: %v", err)
	}
	component, _ := rel.Component(name)
	custom, err := artifacts.CustomOf(rel, component).Encode()
	if err != nil {
		r.t.Fatalf("Encode: %v", err)
	}
	path := artifacts.TargetPath(rel.Product, rel.Version, name)
	r.addFile(path+artifacts.BundleSuffix, bundle, r.releases)
	r.releases[path] = tufrepo.File{Length: component.Length, SHA256: component.SHA256, Custom: custom}
	r.images[component.SHA256] = image
}

// direct offers any set of targets.
func (r *repos) direct(device string, targets map[string]tufrepo.DirectorFile) {
	r.t.Helper()
	r.dirVersion++
	docs, err := tufrepo.SignDirector(tufrepo.DirectorSpec{Device: device, CounterBase: r.base, Version: r.dirVersion, Expires: r.expires, Targets: targets}, r.online["director"])
	if err != nil {
		r.t.Fatalf("SignDirector: %v", err)
	}
	r.director = docs
}

func targetsOf(rel artifacts.Release, names ...string) map[string]tufrepo.DirectorFile {
	out := map[string]tufrepo.DirectorFile{}
	for _, c := range rel.Components {
		if slices.Contains(names, c.Name) {
			out[artifacts.TargetPath(rel.Product, rel.Version, c.Name)] = tufrepo.DirectorFile{Length: c.Length, SHA256: c.SHA256}
		}
	}
	return out
}

// OT-11: the director drops one of the components that the publisher signed together.
func TestRefusesAPartOfARelease(t *testing.T) {
	t.Parallel()
	d, _ := twoSlots(t)
	system, boot := randomImage(t, 2000), randomImage(t, 2001)
	rel := pair("2.0.0", 5, system, boot)
	d.server.add(rel, "system", system)
	d.server.add(rel, "boot", boot)
	d.server.sign()
	d.server.direct(d.client.DeviceID().String(), targetsOf(rel, "boot"))
	d.wantRefused(reason.MetadataInvalid)
	d.server.direct(d.client.DeviceID().String(), targetsOf(rel, "boot", "system"))
	if r := d.check(); r.Update == nil {
		t.Errorf("Check = %+v, want the whole release", r)
	}
}

// Two builds of one version were signed, and an image of one of them is withdrawn. Whoever controls the online keys
// pairs the statement that is not withdrawn with the image that is.
func TestRefusesComponentsOfTwoBuildsOfOneVersion(t *testing.T) {
	t.Parallel()
	d, _ := twoSlots(t)
	system, boot, oldBoot := randomImage(t, 2000), randomImage(t, 2001), randomImage(t, 2002)
	now, before := pair("2.0.0", 5, system, boot), pair("2.0.0", 5, system, oldBoot)
	d.server.policy.Withdrawn = []digest.SHA256{digest.Of(oldBoot)}
	d.server.add(now, "system", system)
	d.server.add(before, "boot", oldBoot)
	d.server.sign()
	targets := targetsOf(now, "system")
	for path, f := range targetsOf(before, "boot") {
		targets[path] = f
	}
	d.server.direct(d.client.DeviceID().String(), targets)
	d.wantRefused(reason.StatementMismatch)
}

// The director and the publisher of another product that is made for the same hardware work together.
func TestRefusesAnotherProductWhereTheImageNamesTheDevices(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.cfg = func(cfg *client.Config) { cfg.Product = "doorbell" }
	d.restart()
	d.enroll()
	d.publish("2.0.0", 5, randomImage(t, 2000))
	d.wantRefused(reason.HardwareIncompatible)
}

// Somebody writes an older, genuine release into slot and journal between two boots, and a server without scruples
// affirms it: the counter in the TPM is asked again before anything becomes permanent.
func TestCommitAsksTheCounterAgain(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	older := randomImage(t, 1001)
	rel := release("1.0.0", 2, older)
	d.server.publish(rel, older, d.server.ci, nil)
	d.install("1.1.0", 3, randomImage(t, 1000))
	active := strings.TrimSpace(string(d.read("active")))
	other := map[string]string{"a": "b", "b": "a"}[active]
	d.write(other+".img", older)
	d.write("next", []byte(other+"\n"))
	journal := `{"step":"staged","product":"` + product + `","version":"1.0.0","parts":[{"component":"system","installer":"ab","sha256":"` +
		digest.Of(older).String() + `","length":1001,"offset":1001}],"resets":0}`
	if err := os.WriteFile(filepath.Join(d.state, "journal.json"), []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	d.server.offer(d.client.DeviceID().String(), nil)
	d.boot()
	if r := d.check(); !r.Proven {
		t.Fatalf("Check = %+v, want the server to affirm it", r)
	}
	refused, err := d.client.Commit(t.Context())
	if err != nil || !slices.ContainsFunc(refused, func(r client.Refusal) bool { return r.Reason == reason.DowngradeRefused }) {
		t.Errorf("Commit = %+v, %v, want %s", refused, err, reason.DowngradeRefused)
	}
	if got := strings.TrimSpace(string(d.read("active"))); got != active {
		t.Errorf("active = %s, want %s as before", got, active)
	}
}

// A journal that lost one of two components must not commit the other one alone.
func TestCommitWantsEveryComponent(t *testing.T) {
	t.Parallel()
	d, _ := twoSlots(t)
	system, boot := randomImage(t, 2000), randomImage(t, 2001)
	rel := pair("2.0.0", 5, system, boot)
	d.server.add(rel, "system", system)
	d.server.add(rel, "boot", boot)
	d.server.sign()
	d.server.offer(d.client.DeviceID().String(), nil)
	d.write("b.img", system)
	d.write("next", []byte("b\n"))
	journal := `{"step":"staged","product":"` + product + `","version":"2.0.0","parts":[{"component":"system","installer":"ab","sha256":"` +
		digest.Of(system).String() + `","length":2000,"offset":2000}],"resets":0}`
	if err := os.WriteFile(filepath.Join(d.state, "journal.json"), []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	d.boot()
	if r := d.check(); !r.Proven {
		t.Fatalf("Check = %+v, want the server to affirm it", r)
	}
	if refused, err := d.client.Commit(t.Context()); err != nil || refused == nil {
		t.Errorf("Commit = %+v, %v, want a refusal", refused, err)
	}
	if got := strings.TrimSpace(string(d.read("active"))); got != "a" {
		t.Errorf("active = %s, want a", got)
	}
}

// The state directory is lost, and the server controls all online keys: it names a base that makes the TPM's counter
// look new, at enrollment and in director metadata.
func TestBaseOutlivesTheStateDirectory(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		d := newDevice(t)
		d.enroll()
		d.install("1.1.0", 3, randomImage(t, 1000))
		wipe(t, d.state)
		d.restart()
		index, err := d.tpm.Counter()
		if err != nil {
			t.Fatal(err)
		}
		if again { // the fake server then answers with the index itself
			if e, err := d.client.Enroll(t.Context()); err == nil {
				t.Errorf("Enroll = %+v, want a refusal of the base", e)
			}
		}
		d.server.base = index
		d.publish("1.0.0", 2, randomImage(t, 1001))
		d.wantRefused(reason.DowngradeRefused)
	}
}

// An edited state that calls the counter new must not get the base anew either.
func TestStateCannotCallTheCounterNew(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.install("1.1.0", 3, randomImage(t, 1000))
	text := `{"device":"` + d.client.DeviceID().String() + `","counter_new":true}`
	if err := os.WriteFile(filepath.Join(d.state, "state.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.restart()
	if e, err := d.client.Enroll(t.Context()); err == nil {
		t.Errorf("Enroll = %+v, want a refusal of the base", e)
	}
}

// A server that was compromised once must not leave devices behind whose counter stands above every release.
func TestALowerBaseDoesNotOutliveTheServerThatToldIt(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	honest := d.server.base
	d.server.set(func() { d.server.onBase = func(uint64) uint64 { return 0 } })
	if _, err := d.client.Enroll(t.Context()); err != nil {
		t.Fatalf("Enroll: %v", err)
	}
	d.server.base = honest
	d.install("1.1.0", 3, randomImage(t, 1000))
}

// What the TPM remembers for good must make sense: a base above the counter would refuse every release for ever.
func TestRefusesABaseAboveTheCounter(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.server.set(func() { d.server.onBase = func(index uint64) uint64 { return index + 1 } })
	if e, err := d.client.Enroll(t.Context()); !errors.Is(err, client.ErrServer) {
		t.Errorf("Enroll = %+v, %v, want ErrServer", e, err)
	}
	d.server.set(func() { d.server.onBase = nil })
	d.enroll()
}

// The online keys were rotated, and are stolen once more: the thief brings back offline targets that were replaced, with
// a policy that does not withdraw the image yet. Only the offline role's own rotation may forget a version.
func TestRotatedOnlineKeysDoNotBringOldPoliciesBack(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		d := newDevice(t)
		d.enroll()
		image := randomImage(t, 2000)
		d.server.version = 7
		d.server.policy.Withdrawn = []digest.SHA256{digest.Of(image)}
		d.publish("2.0.0", 5, image)
		d.wantRefused(reason.ReleaseWithdrawn)
		d.server.online["timestamp"], d.server.online["snapshot"] = newKey(t), newKey(t)
		d.server.imageRoots = append(d.server.imageRoots, d.server.rootDoc(2, map[string]ed25519.PrivateKey{
			"timestamp": d.server.online["timestamp"], "snapshot": d.server.online["snapshot"], "targets": d.server.root}))
		d.server.policy.Withdrawn = nil
		d.server.version = 2 // the holders signed this one before the image was withdrawn
		d.server.sign()
		d.wantRefused(reason.MetadataExpired)
		if restart {
			d.restart()
			d.wantRefused(reason.MetadataExpired)
		}
		d.server.version = 8
		d.server.sign()
		if r := d.check(); r.Update == nil {
			t.Errorf("Check = %+v, want the newer policy to count", r)
		}
	}
}

// Folders of the state directory that lead elsewhere are not followed.
func TestStateDirectoryIsNotALinkToSomewhereElse(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	elsewhere := t.TempDir()
	if err := os.RemoveAll(filepath.Join(d.state, "image")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(d.state, "image")); err != nil {
		t.Fatal(err)
	}
	d.restart()
	d.enroll()
	d.check()
	if found, err := os.ReadDir(elsewhere); err != nil || len(found) > 0 {
		t.Errorf("elsewhere holds %v, %v, want nothing", found, err)
	}
}

// The server ends a text in the middle of where the device cuts it: half a character would be one that no JSON holds, and
// neither state nor claims could be written any more.
func TestCutTextsOfTheServerStayWritable(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	long := "x" + strings.Repeat("\u00e9", 1000)
	d.server.onPoll = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		b, err := json.Marshal(wire.Problem{Status: http.StatusForbidden, Reason: reason.DeviceRetired, Title: long, Next: long})
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(b) // a client that went away is its own problem
		return true
	}
	if _, err := d.client.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v", err)
	}
	s, err := client.ReadStatus(d.state)
	if err != nil || len(s.Refusals) != 1 || s.Refusals[0].Reason != reason.DeviceRetired {
		t.Fatalf("state after the refusal: %+v, %v", s.Refusals, err)
	}
	if got := s.Refusals[0].Detail; len(got) > 1024 || !strings.HasPrefix(long, strings.TrimSuffix(got, "?")) {
		t.Errorf("detail of %d bytes: %q", len(got), got)
	}
}

func wipe(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}
