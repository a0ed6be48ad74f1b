package client_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
)

// TestRefusesWhatDoesNotAgree offers releases that are wrong in one place each; the device finds it before it fetches
// a byte of the image.
func TestRefusesWhatDoesNotAgree(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 2000)
	other := newKey(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := func() artifacts.Release { return release("2.0.0", 5, image) }
	for _, tc := range []struct {
		name   string
		want   reason.Reason
		attack func(d *device)
	}{
		{"image swapped in the director metadata", reason.MetadataInvalid, func(d *device) {
			rel := good()
			d.server.publish(rel, image, d.server.ci, nil)
			rel.Components[0].SHA256 = digest.Of([]byte("evil"))
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"target that the image repository does not have", reason.MetadataInvalid, func(d *device) {
			rel := good()
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"image swapped by whoever controls all online keys", reason.StatementMismatch, func(d *device) {
			rel := good()
			evil := []byte("evil")
			d.server.publish(rel, image, d.server.ci, func(path string, files map[string]tufrepo.File) {
				files[path] = tufrepo.File{Length: int64(len(evil)), SHA256: digest.Of(evil), Custom: files[path].Custom}
			})
			rel.Components[0].SHA256, rel.Components[0].Length = digest.Of(evil), int64(len(evil))
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"custom that differs from the statement", reason.StatementMismatch, func(d *device) {
			rel := good()
			d.server.publish(rel, image, d.server.ci, func(path string, files map[string]tufrepo.File) {
				c := artifacts.CustomOf(rel, rel.Components[0])
				c.Counter++
				b, _ := c.Encode()
				files[path] = tufrepo.File{Length: rel.Components[0].Length, SHA256: rel.Components[0].SHA256, Custom: b}
			})
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"bundle of a stranger", reason.PublisherRefused, func(d *device) {
			rel := good()
			d.server.publish(rel, image, stranger, nil)
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"release without a bundle", reason.PublisherRefused, func(d *device) {
			rel := good()
			d.server.publish(rel, image, d.server.ci, func(path string, files map[string]tufrepo.File) { delete(files, path+artifacts.BundleSuffix) })
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"metadata of another device", reason.MetadataForOtherDevice, func(d *device) {
			rel := good()
			d.server.publish(rel, image, d.server.ci, nil)
			d.server.offer("aaaaaaaaaaaaaaaaaaaaaaaaaa", &rel)
		}},
		{"director metadata signed by another key", reason.MetadataInvalid, func(d *device) {
			rel := good()
			d.server.publish(rel, image, d.server.ci, nil)
			d.server.online["director"] = other
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"timestamp signed by another key", reason.MetadataInvalid, func(d *device) {
			d.server.online["timestamp"] = other
			d.publish("2.0.0", 5, image)
		}},
		{"root that nobody trusted signed", reason.MetadataInvalid, func(d *device) {
			d.publish("2.0.0", 5, image)
			d.server.root = other
			d.server.imageRoots = append(d.server.imageRoots, d.server.rootDoc(2, map[string]ed25519.PrivateKey{"timestamp": other, "snapshot": other, "targets": other}))
		}},
		{"expired metadata", reason.MetadataExpired, func(d *device) {
			d.publish("2.0.0", 5, image)
			d.now = d.now.Add(25 * time.Hour)
		}},
		{"wrong hardware", reason.HardwareIncompatible, func(d *device) {
			rel := good()
			rel.Components[0].HardwareIDs = []string{"rev-a"}
			d.server.publish(rel, image, d.server.ci, nil)
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"unknown installer", reason.HardwareIncompatible, func(d *device) {
			rel := good()
			rel.Components[0].Installer = "rauc"
			d.server.publish(rel, image, d.server.ci, nil)
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"withdrawn release", reason.ReleaseWithdrawn, func(d *device) {
			d.server.policy.Withdrawn = []digest.SHA256{digest.Of(image)}
			d.publish("2.0.0", 5, image)
		}},
		{"release below the offline minimum", reason.DowngradeRefused, func(d *device) {
			d.server.policy.MinimumCounter = 6
			d.publish("2.0.0", 5, image)
		}},
		{"recovery flag that the offline policy does not know", reason.RecoveryNotListed, func(d *device) {
			rel := good()
			rel.Recovery = true
			d.server.publish(rel, image, d.server.ci, nil)
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"release that requires another before", reason.IntermediateRequired, func(d *device) {
			rel := good()
			rel.Requires = 4
			d.server.publish(rel, image, d.server.ci, nil)
			d.server.offer(d.client.DeviceID().String(), &rel)
		}},
		{"counter that would wear the TPM out", reason.IntermediateRequired, func(d *device) {
			d.publish("2.0.0", 1<<40, image)
		}},
		{"raised counter base", reason.DowngradeRefused, func(d *device) {
			d.server.base++
			d.publish("2.0.0", 5, image)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.enroll()
			fetched := false
			d.server.set(func() {
				d.server.onImage = func(w http.ResponseWriter, r *http.Request, b []byte) { fetched = true }
			})
			tc.attack(d)
			d.wantRefused(tc.want)
			if fetched {
				t.Error("the device fetched the image")
			}
			if _, err := os.Stat(filepath.Join(d.slots, "next")); err == nil {
				t.Error("a slot was named for the next boot")
			}
		})
	}
}

func TestRefusesOlderMetadata(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.server.offer(d.client.DeviceID().String(), nil)
	oldTimestamp, oldDirector := d.server.timestamp, d.server.director
	d.server.sign()
	d.server.offer(d.client.DeviceID().String(), nil)
	if r := d.check(); r.Refusals != nil {
		t.Fatalf("Check = %+v", r)
	}
	d.server.timestamp = oldTimestamp
	d.wantRefused(reason.MetadataExpired)
	d.server.sign()
	d.server.dirVersion, d.server.director = 7, oldDirector
	d.wantRefused(reason.MetadataExpired)
}

func TestRefusesDowngrade(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.install("1.1.0", 3, randomImage(t, 1000))
	d.publish("1.0.0", 2, randomImage(t, 1001))
	d.wantRefused(reason.DowngradeRefused)
}

func TestRecoveryReleaseIsExemptFromTheCounter(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.install("1.1.0", 3, randomImage(t, 1000))
	image := randomImage(t, 1002)
	d.server.policy.Recovery = []digest.SHA256{digest.Of(image)}
	rel := release("0.9.0", 1, image)
	rel.Recovery = true
	d.server.publish(rel, image, d.server.ci, nil)
	d.server.offer(d.client.DeviceID().String(), &rel)
	if r := d.check(); r.Update == nil || !r.Update.Recovery() {
		t.Errorf("Check = %+v, want the recovery release", r)
	}
}

// TestEditedStateNeverChangesWhatIsTrusted edits, replaces and deletes every file of the state directory, and then
// offers an older release: the counter in the TPM still refuses it, and an honest release is still installed.
func TestEditedStateNeverChangesWhatIsTrusted(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.server.imageRoots = append(d.server.imageRoots, d.server.rootDoc(2, map[string]ed25519.PrivateKey{
		"timestamp": d.server.online["timestamp"], "snapshot": d.server.online["snapshot"], "targets": d.server.root}))
	d.install("1.1.0", 3, randomImage(t, 1000))
	evil := newRepos(t)
	evil.sign()
	var names []string
	err := filepath.WalkDir(d.state, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil || len(names) < 5 || !slices.Contains(names, filepath.Join(d.state, "image", "2.root.json")) {
		t.Fatalf("state holds %v, %v", names, err)
	}
	older := release("1.0.0", 2, randomImage(t, 1001))
	d.server.publish(older, nil, d.server.ci, nil)
	edits := map[string]func(path string) error{
		"deleted":   os.Remove,
		"emptied":   func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"null":      func(p string) error { return os.WriteFile(p, []byte("null"), 0o600) },
		"huge":      func(p string) error { return os.Truncate(p, 64<<20) },
		"evil root": func(p string) error { return os.WriteFile(p, evil.imageRoots[0], 0o600) },
		"evil time": func(p string) error { return os.WriteFile(p, evil.timestamp, 0o600) },
		"evil state": func(p string) error {
			return os.WriteFile(p, []byte(`{"device":"`+d.client.DeviceID().String()+`","enrolled":true,"base":99999999,"floor":{"unix":99999999999},"boot":{"result":"ok"}}`), 0o600)
		},
		"a folder": func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Mkdir(p, 0o700)
		},
	}
	for what, edit := range edits {
		for _, path := range names {
			if _, err := os.Lstat(path); err != nil {
				if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := edit(path); err != nil {
				t.Fatalf("%s %s: %v", what, path, err)
			}
			d.restart()
			d.server.offer(d.client.DeviceID().String(), &older)
			r := d.check()
			if r.Update != nil || !slices.ContainsFunc(r.Refusals, func(r client.Refusal) bool { return strings.Contains(r.Detail, "below the device's 3") }) {
				t.Fatalf("%s %s: Check = %+v, want %s", filepath.Base(path), what, r, reason.DowngradeRefused)
			}
			if info, err := os.Lstat(path); err == nil && info.IsDir() {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	d.install("1.2.0", 4, randomImage(t, 1003))
}

func TestServerWithAnotherCAIsNotSpokenTo(t *testing.T) {
	t.Parallel()
	d, other := newDevice(t), newDevice(t)
	d.server.ca = other.server.ca
	d.restart()
	if e, err := d.client.Enroll(t.Context()); err == nil {
		t.Errorf("Enroll = %+v, want an error", e)
	}
	if len(d.server.pending) != 0 {
		t.Error("the device sent its keys to a server it does not know")
	}
}

func TestPollAfterALostAnswerIsTheSameBytes(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.check()
	d.server.sign()
	lost := false
	d.server.set(func() {
		d.server.onLost = func([]byte) bool { first := !lost; lost = true; return first }
	})
	if _, err := d.client.Check(t.Context()); err == nil {
		t.Fatal("Check did not notice the lost answer")
	}
	d.restart() // also over a restart of the process
	d.check()
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	for i := 1; i < len(d.server.bodies); i++ {
		if bytes.Equal(d.server.bodies[i], d.server.bodies[i-1]) {
			return
		}
	}
	t.Error("the poll was not sent again byte for byte")
}

func TestEnrollsAgainWhenTheServerForgotTheDevice(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	if _, err := d.client.Step(t.Context()); err != nil {
		t.Fatalf("Step: %v", err)
	}
	d.server.set(func() { d.server.spki = nil })
	r, err := d.client.Step(t.Context())
	if err != nil || r.Verdict != "affirmed" {
		t.Errorf("Step = %+v, %v, want a proven device", r, err)
	}
}

func TestRefusesAnEndlessAnswer(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	for _, header := range []bool{true, false} {
		d.server.set(func() {
			d.server.onPoll = func(w http.ResponseWriter, r *http.Request) bool {
				if header {
					for range 100 {
						w.Header().Add("X-Filler", strings.Repeat("a", 4000))
					}
				}
				w.WriteHeader(http.StatusOK)
				for range 1000 {
					if _, err := w.Write(make([]byte, 1<<16)); err != nil {
						break
					}
				}
				return true
			}
		})
		if r, err := d.client.Check(t.Context()); err == nil {
			t.Errorf("Check = %+v, want an error", r)
		}
	}
}

func TestServerThatNeverHasEnoughIsRefused(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.enroll()
	d.server.set(func() {
		d.server.onAnswer = func(p *wire.PollAnswer) { p.Challenge, p.EvidenceWanted = testChallenge, wire.WantLog }
	})
	d.wantRefused(reason.DeviceUnproven)
	if n := len(d.server.polls); n > 8 {
		t.Errorf("%d polls in two checks", n)
	}
}
