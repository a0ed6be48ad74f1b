package client_test

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
)

// offered is a device with an update that is verified and not yet installed.
func offered(t *testing.T, image []byte, hook func(http.ResponseWriter, *http.Request, []byte)) (*device, *client.Update) {
	t.Helper()
	d := newDevice(t)
	d.enroll()
	d.publish("1.1.0", 3, image)
	d.server.set(func() { d.server.onImage = hook })
	r := d.check()
	if r.Update == nil {
		t.Fatalf("Check = %+v, want an update", r)
	}
	return d, r.Update
}

func (d *device) wantNotStaged() {
	d.t.Helper()
	if d.client.Pending() {
		d.t.Error("an update is staged")
	}
}

func TestDownloadSurvivesBrokenConnections(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 3<<20)
	var requests atomic.Int32
	d, u := offered(t, image, func(w http.ResponseWriter, r *http.Request, b []byte) {
		if requests.Add(1) < 4 {
			w = &cutter{ResponseWriter: w, left: 700 << 10}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
	if refused, err := u.Install(t.Context()); err != nil || refused != nil {
		t.Fatalf("Install = %v, %v", refused, err)
	}
	if !bytes.Equal(d.read("b.img"), image) {
		t.Error("the slot does not hold the image")
	}
	if requests.Load() != 4 {
		t.Errorf("%d requests, want 4", requests.Load())
	}
}

// cutter breaks the connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		_, _ = c.ResponseWriter.Write(b[:c.left])
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestDownloadGoesOnAfterARestartAndSeesAChangedPrefix(t *testing.T) {
	t.Parallel()
	for _, changed := range []bool{false, true} {
		image := randomImage(t, 6<<20)
		var ranges []string
		broken := true
		hook := func(w http.ResponseWriter, r *http.Request, b []byte) {
			ranges = append(ranges, r.Header.Get("Range"))
			if broken {
				w = &cutter{ResponseWriter: w, left: 1 << 20}
				if len(ranges) > 4 {
					w = &cutter{ResponseWriter: w, left: 0}
				}
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		}
		d, u := offered(t, image, hook)
		if _, err := u.Install(t.Context()); err == nil {
			t.Fatal("Install did not notice that the server is gone")
		}
		if changed {
			slot := d.read("b.img")
			slot[5] ^= 1
			d.write("b.img", slot)
		}
		d.restart()
		d.server.set(func() { broken, ranges = false, nil })
		r := d.check()
		if r.Update == nil {
			t.Fatalf("Check = %+v, want the update again", r)
		}
		if refused, err := r.Update.Install(t.Context()); err != nil || refused != nil {
			t.Fatalf("Install = %v, %v", refused, err)
		}
		if !bytes.Equal(d.read("b.img"), image) {
			t.Error("the slot does not hold the image")
		}
		if !strings.HasPrefix(ranges[0], "bytes=") {
			t.Errorf("ranges = %q, want the download to go on", ranges)
		}
		if changed && (len(ranges) != 2 || ranges[1] != "") {
			t.Errorf("ranges = %q, want one download from the start after the changed prefix", ranges)
		}
	}
}

func TestRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 300<<10)
	swapped := bytes.Clone(image)
	swapped[len(swapped)-1] ^= 1
	for name, hook := range map[string]func(http.ResponseWriter, *http.Request, []byte){
		"swapped": func(w http.ResponseWriter, r *http.Request, b []byte) { _, _ = w.Write(swapped) },
		"longer as announced": func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
			_, _ = w.Write(append(bytes.Clone(b), 0))
		},
		"longer in chunks": func(w http.ResponseWriter, r *http.Request, b []byte) {
			_, _ = w.Write(b)
			http.NewResponseController(w).Flush()
			_, _ = w.Write(make([]byte, 100<<10))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, u := offered(t, image, hook)
			refused, err := u.Install(t.Context())
			if err != nil || len(refused) != 1 || refused[0].Reason != reason.ArtifactMismatch {
				t.Errorf("Install = %v, %v, want %s", refused, err, reason.ArtifactMismatch)
			}
			if n := len(d.read("b.img")); n > len(image) {
				t.Errorf("%d bytes were written for an image of %d", n, len(image))
			}
			d.wantNotStaged()
			d.wantReported(reason.ArtifactMismatch)
		})
	}
}

func TestGivesUpOnAServerThatSendsNothing(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.cfg = func(c *client.Config) { c.StallTimeout, c.MinSpeed = 50*time.Millisecond, 1<<20 }
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, randomImage(t, 1<<20))
	d.server.set(func() {
		d.server.onImage = func(w http.ResponseWriter, r *http.Request, b []byte) {
			_, _ = w.Write(b[:10])
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	r := d.check()
	if r.Update == nil {
		t.Fatalf("Check = %+v, want an update", r)
	}
	if refused, err := r.Update.Install(t.Context()); err == nil {
		t.Errorf("Install = %v, want an error", refused)
	}
	d.wantNotStaged()
}

func TestRefusalOfTheDoorIsAValue(t *testing.T) {
	t.Parallel()
	var s *server
	d, u := offered(t, randomImage(t, 1000), func(w http.ResponseWriter, r *http.Request, b []byte) {
		s.refuse(w, http.StatusForbidden, reason.DeviceQuarantined)
	})
	s = d.server
	refused, err := u.Install(t.Context())
	if err != nil || len(refused) != 1 || refused[0].Reason != reason.DeviceQuarantined {
		t.Errorf("Install = %v, %v, want %s", refused, err, reason.DeviceQuarantined)
	}
	d.wantNotStaged()
}
