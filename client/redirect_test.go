package client_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/wire"
)

// elsewhere is a second server of firmware bytes, with a CA of its own, and what it and the door were asked.
type elsewhere struct {
	*httptest.Server
	host  string
	ca    []byte
	serve http.HandlerFunc // Optional: instead of the image

	mu    sync.Mutex
	asked []string // "door bytes=0-", "elsewhere bytes=0-", ...
	leaks []string // what the second server learned about the device
}

func newElsewhere(t *testing.T, image []byte) *elsewhere {
	t.Helper()
	e, own := &elsewhere{}, &server{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.note("elsewhere", r)
		if e.serve != nil {
			e.serve(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
	}))
	e.TLS = &tls.Config{Certificates: []tls.Certificate{own.certificate(t)}, ClientAuth: tls.RequestClientCert}
	e.ca = own.ca
	e.Config.ErrorLog = log.New(io.Discard, "", 0)
	e.StartTLS()
	t.Cleanup(e.Close)
	e.host = strings.Replace(strings.TrimPrefix(e.URL, "https://"), "127.0.0.1", "localhost", 1)
	return e
}

func (e *elsewhere) note(who string, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, strings.TrimSpace(who+" "+r.Header.Get("Range")))
	if who == "door" {
		return
	}
	if len(r.TLS.PeerCertificates) > 0 {
		e.leaks = append(e.leaks, "client certificate")
	}
	for name := range r.Header {
		if name != "Range" && name != "User-Agent" {
			e.leaks = append(e.leaks, name)
		}
	}
}

// door redirects whoever says that it can follow.
func (e *elsewhere) door(location string) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, r *http.Request, b []byte) {
		e.note("door", r)
		if r.Header.Get(wire.HeaderRedirect) == "" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
			return
		}
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// install brings the image to a device with these downloads in its trust bundle, over the door that redirects.
func (e *elsewhere) install(t *testing.T, image []byte, location string, downloads ...wire.Download) (*device, []client.Refusal, error) {
	t.Helper()
	d := newDevice(t)
	d.cfg = func(c *client.Config) { c.Trust.Downloads = downloads }
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, image)
	d.server.set(func() { d.server.onImage = e.door(location) })
	r := d.check()
	if r.Update == nil {
		t.Fatalf("Check = %+v, want an update", r)
	}
	refused, err := r.Update.Install(t.Context())
	return d, refused, err
}

func (e *elsewhere) want(t *testing.T, want ...string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(e.asked, want) {
		t.Errorf("requests: got %q, want %q", e.asked, want)
	}
	if len(e.leaks) > 0 {
		t.Errorf("the other server learned %q", e.leaks)
	}
}

func (e *elsewhere) download() wire.Download { return wire.Download{Host: e.host, CA: string(e.ca)} }

func TestFollowsARedirectWithoutAnIdentity(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 3<<20)
	e := newElsewhere(t, image)
	d, refused, err := e.install(t, image, "https://"+e.host+"/bucket/blob?signature=x", e.download())
	if err != nil || refused != nil || !bytes.Equal(d.read("b.img"), image) {
		t.Fatalf("Install = %v, %v", refused, err)
	}
	e.want(t, "door bytes=0-", "elsewhere bytes=0-")
}

func TestAsksForARedirectOnlyWithDownloadsInTheTrustBundle(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 1<<20)
	e := newElsewhere(t, image)
	if _, refused, err := e.install(t, image, "https://"+e.host+"/x"); err != nil || refused != nil {
		t.Fatalf("Install = %v, %v", refused, err)
	}
	e.want(t, "door")
}

// A line that breaks goes on where it stood, with a new URL.
func TestRedirectedDownloadGoesOn(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 5<<20)
	e := newElsewhere(t, image)
	first := true
	e.serve = func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			w = &cutter{ResponseWriter: w, left: 2 << 20}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
	}
	d, refused, err := e.install(t, image, "https://"+e.host+"/x", e.download())
	if err != nil || refused != nil || !bytes.Equal(d.read("b.img"), image) {
		t.Fatalf("Install = %v, %v", refused, err)
	}
	e.want(t, "door bytes=0-", "elsewhere bytes=0-", "door bytes=2097152-", "elsewhere bytes=2097152-")
}

// Wherever a redirect leads, and whatever answers there: the device gets its image from the door.
func TestTheDoorSendsWhatNobodyElseDoes(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 2<<20)
	wrong := bytes.Clone(image)
	wrong[1<<20] ^= 1
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, test := range map[string]struct {
		location func(e *elsewhere) string
		serve    http.HandlerFunc
		trust    func(e *elsewhere) wire.Download
		reached  bool
	}{
		"plain HTTP":   {location: func(e *elsewhere) string { return "http://" + e.host + "/x" }},
		"another host": {location: func(*elsewhere) string { return "https://elsewhere.example/x" }},
		"another port": {location: func(*elsewhere) string { return "https://localhost:1/x" }},
		"user in URL":  {location: func(e *elsewhere) string { return "https://user@" + e.host + "/x" }},
		"no URL":       {location: func(*elsewhere) string { return "" }},
		"relative":     {location: func(*elsewhere) string { return "/device/v1/poll" }},
		"long":         {location: func(e *elsewhere) string { return "https://" + e.host + "/" + strings.Repeat("x", 9000) }},
		"untrusted CA": {trust: func(e *elsewhere) wire.Download { return wire.Download{Host: e.host} }},
		"expired":      {serve: status(http.StatusForbidden), reached: true},
		"missing":      {serve: status(http.StatusNotFound), reached: true},
		"whole answer": {serve: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(image) }, reached: true},
		"second":       {serve: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, reached: true},
		"breaks early": {serve: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, reached: true},
		"other content": {serve: func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(wrong))
		}, reached: true},
		"other range": {serve: func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=5-")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
		}, reached: true},
		"endless": {serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-2097151/2097152")
			w.WriteHeader(http.StatusPartialContent)
			for r.Context().Err() == nil {
				if _, err := w.Write(wrong); err != nil {
					return
				}
			}
		}, reached: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newElsewhere(t, image)
			e.serve = test.serve
			location, trust := "https://"+e.host+"/x", e.download()
			if test.location != nil {
				location = test.location(e)
			}
			if test.trust != nil {
				trust = test.trust(e)
			}
			d, refused, err := e.install(t, image, location, trust)
			if err != nil || refused != nil || !bytes.Equal(d.read("b.img"), image) {
				t.Fatalf("Install = %v, %v", refused, err)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if last := e.asked[len(e.asked)-1]; !strings.HasPrefix(last, "door") {
				t.Errorf("requests: got %q, want the door last", e.asked)
			}
			if got := slices.Contains(e.asked, "elsewhere bytes=0-"); got != test.reached || len(e.leaks) > 0 {
				t.Errorf("the other server was asked: %v, and learned %q", e.asked, e.leaks)
			}
		})
	}
}

// Wrong bytes from both are refused, and the device does not go round in circles.
func TestWrongBytesFromBothAreRefused(t *testing.T) {
	t.Parallel()
	image := randomImage(t, 1<<20)
	e := newElsewhere(t, bytes.Repeat([]byte("x"), len(image)))
	d := newDevice(t)
	d.cfg = func(c *client.Config) { c.Trust.Downloads = []wire.Download{e.download()} }
	d.restart()
	d.enroll()
	d.publish("1.1.0", 3, image)
	door := e.door("https://" + e.host + "/x")
	d.server.set(func() {
		d.server.onImage = func(w http.ResponseWriter, r *http.Request, b []byte) { door(w, r, bytes.Repeat([]byte("y"), len(b))) }
	})
	r := d.check()
	refused, err := r.Update.Install(t.Context())
	if err != nil || len(refused) == 0 || refused[0].Reason != reason.ArtifactMismatch {
		t.Errorf("Install = %v, %v, want %s", refused, err, reason.ArtifactMismatch)
	}
	d.wantNotStaged()
	e.want(t, "door bytes=0-", "elsewhere bytes=0-", "door")
}
