package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
)

// authority issues server certificates the way cordond does: the chain carries the CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pin() digest.SHA256 { return digest.Of(a.cert.Raw) }

func (a authority) leaf(t *testing.T, ip net.IP, chain ...[]byte) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{ip},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key}
}

func serve(t *testing.T, cert tls.Certificate, version uint16, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

var loopback = net.IPv4(127, 0, 0, 1)

func newClient(t *testing.T, a authority, h http.HandlerFunc) (*api.Client, *[]time.Duration) {
	t.Helper()
	url := serve(t, a.leaf(t, loopback, a.cert.Raw), tls.VersionTLS13, h)
	var mu sync.Mutex
	var waits []time.Duration
	c, err := api.New(api.Config{URL: url, CASHA256: a.pin(), Token: "secret", Wait: func(_ context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		waits = append(waits, d)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c, &waits
}

func status(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"version":"1","initialised":true}`)
}

func TestPinAcceptsOnlyTheNamedCA(t *testing.T) {
	t.Parallel()
	mine, other := newAuthority(t), newAuthority(t)
	elsewhere := net.IPv4(192, 0, 2, 1)
	tests := []struct {
		name string
		cert tls.Certificate
		want error
	}{
		{"chain with the CA", mine.leaf(t, loopback, mine.cert.Raw), nil},
		{"chain without the CA", mine.leaf(t, loopback), api.ErrCA},
		{"another CA", other.leaf(t, loopback, other.cert.Raw), api.ErrCA},
		{"leaf of another CA beside the pinned CA", other.leaf(t, loopback, mine.cert.Raw), api.ErrCA},
		{"leaf for another host", mine.leaf(t, elsewhere, mine.cert.Raw), api.ErrCA},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := api.New(api.Config{URL: serve(t, tt.cert, tls.VersionTLS13, status), CASHA256: mine.pin(), Token: "secret"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Status(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("Status() error = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestPinRefusesALeafThatIsItsOwnPin(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	leaf := a.leaf(t, loopback, a.cert.Raw)
	c, err := api.New(api.Config{URL: serve(t, leaf, tls.VersionTLS13, status), CASHA256: digest.Of(leaf.Certificate[0])})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrCA) {
		t.Errorf("Status() error = %v, want ErrCA", err)
	}
}

func TestPoolAcceptsOnlyItsCA(t *testing.T) {
	t.Parallel()
	mine, other := newAuthority(t), newAuthority(t)
	url := serve(t, mine.leaf(t, loopback, mine.cert.Raw), tls.VersionTLS13, status)
	for _, tt := range []struct {
		ca   authority
		want error
	}{{mine, nil}, {other, api.ErrCA}} {
		pool := x509.NewCertPool()
		pool.AddCert(tt.ca.cert)
		c, err := api.New(api.Config{URL: url, CA: pool})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(t.Context()); !errors.Is(err, tt.want) {
			t.Errorf("Status() error = %v, want %v", err, tt.want)
		}
	}
}

func TestRefusesTLS12(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	url := serve(t, a.leaf(t, loopback, a.cert.Raw), tls.VersionTLS12, status)
	c, err := api.New(api.Config{URL: url, CASHA256: a.pin(), Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("Status() over TLS 1.2 succeeded")
	}
}

func TestNewRefusesWhatCannotBeProven(t *testing.T) {
	t.Parallel()
	pin := digest.Of([]byte("ca"))
	for name, cfg := range map[string]api.Config{
		"no https":         {URL: "http://cordon.example", CASHA256: pin},
		"a path":           {URL: "https://cordon.example/api", CASHA256: pin},
		"a user":           {URL: "https://me@cordon.example", CASHA256: pin},
		"no host":          {URL: "https://", CASHA256: pin},
		"no CA":            {URL: "https://cordon.example"},
		"CA and pin":       {URL: "https://cordon.example", CASHA256: pin, CA: x509.NewCertPool()},
		"newline in token": {URL: "https://cordon.example", CASHA256: pin, Token: "a\nb"},
	} {
		if _, err := api.New(cfg); err == nil {
			t.Errorf("%s: New() succeeded", name)
		}
	}
}

func TestRedirectDoesNotCarryTheToken(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c, _ := newClient(t, a, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			t.Error("the client followed a redirect")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("Status() took a redirect for an answer")
	}
}

func TestProblemBecomesError(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, newAuthority(t), func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.Header.Get("Authorization"), "Bearer secret"; got != want {
			t.Errorf("Authorization = %q, want %q", got, want)
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"type":"about:blank#token_expired","title":"The token has expired","status":401,"reason":"token_expired","request_id":"r1"}`)
	})
	_, err := c.Status(t.Context())
	var problem *api.Error
	if !errors.As(err, &problem) {
		t.Fatalf("Status() error = %v, want *api.Error", err)
	}
	if got, want := api.ReasonOf(err), reason.TokenExpired; got != want {
		t.Errorf("ReasonOf = %q, want %q", got, want)
	}
	if got, want := err.Error(), "The token has expired (token_expired) [request r1]"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestPageOfAProxyIsNotShown(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, newAuthority(t), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<html>\x1b[2J"+strings.Repeat("x", 1<<20))
	})
	_, err := c.Status(t.Context())
	if got, want := fmt.Sprint(err), "the server answered 403 Forbidden"; got != want {
		t.Errorf("error = %q, want %q", got, want)
	}
}

func TestRetriesOnlyWhatIsIdempotent(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	calls := map[string]int{}
	c, waits := newClient(t, newAuthority(t), func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls[r.Method+" "+r.URL.Path]++
		if r.Method == http.MethodGet && calls["GET "+r.URL.Path] == 3 {
			status(w, r)
			return
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"title":"busy","status":503,"reason":"server_busy","request_id":"r"}`)
	})
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("Status() error = %v, want the third attempt to succeed", err)
	}
	for _, d := range *waits {
		if d < 7*time.Second {
			t.Errorf("waited %v, want at least the 7 s of Retry-After", d)
		}
	}
	if _, err := c.CreatePerson(t.Context(), api.PersonRequest{Name: "alice"}); api.ReasonOf(err) != reason.ServerBusy {
		t.Errorf("CreatePerson() error = %v, want server_busy", err)
	}
	if got, want := calls["POST /api/v1/people"], 1; got != want {
		t.Errorf("POST people was sent %d times, want %d", got, want)
	}
}

func TestUnreachableIsRetriedAndNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + l.Addr().String()
	l.Close()
	waits := 0
	c, err := api.New(api.Config{URL: url, CASHA256: digest.Of(nil), Attempts: 3, Wait: func(context.Context, time.Duration) error { waits++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrUnreachable) {
		t.Errorf("Status() error = %v, want ErrUnreachable", err)
	}
	if waits != 2 {
		t.Errorf("waited %d times, want 2", waits)
	}
}

func TestAllWalksEveryPage(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, newAuthority(t), func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("after") {
		case "":
			fmt.Fprint(w, `{"items":[{"name":"alice"}],"next":"a b"}`)
		case "a b":
			fmt.Fprint(w, `{"items":[{"name":"bob"}]}`)
		}
	})
	var got []string
	for p, err := range api.All(t.Context(), c.People) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"alice", "bob"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestPathsAreEscaped(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, newAuthority(t), func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.EscapedPath(), "/api/v1/devices/..%2Fpeople"; got != want {
			t.Errorf("path = %q, want %q", got, want)
		}
		fmt.Fprint(w, `{}`)
	})
	if _, err := c.Device(t.Context(), "../people"); err != nil {
		t.Error(err)
	}
	if _, err := c.RepoFile(t.Context(), "../api/v1/people"); err == nil {
		t.Error("RepoFile left the repository")
	}
}

// uploads is the blob route with faults: it takes the bytes of a chunk only up to cut, once.
type uploads struct {
	mu   sync.Mutex
	have []byte
	cut  int
	puts []int64
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	offset, _ := strconv.Atoi(r.Header.Get(api.HeaderUploadOffset))
	if r.Method == http.MethodPut {
		u.puts = append(u.puts, int64(offset))
		if offset != len(u.have) {
			w.Header().Set(api.HeaderUploadOffset, strconv.Itoa(len(u.have)))
			w.WriteHeader(http.StatusConflict)
			return
		}
		if u.cut > 0 {
			b, _ := io.ReadAll(io.LimitReader(r.Body, int64(u.cut)))
			u.have, u.cut = append(u.have, b...), 0
			panic(http.ErrAbortHandler)
		}
		b, _ := io.ReadAll(r.Body)
		if len(b) > api.UploadChunk {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		u.have = append(u.have, b...)
	}
	w.Header().Set(api.HeaderUploadOffset, strconv.Itoa(len(u.have)))
	w.WriteHeader(http.StatusNoContent)
}

func TestSendContinuesAfterALostConnection(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("cordon "), api.UploadChunk/4)
	u := &uploads{cut: 1000}
	c, _ := newClient(t, newAuthority(t), u.ServeHTTP)
	var last int64
	err := c.Send(t.Context(), digest.Of(data), int64(len(data)), bytes.NewReader(data), func(n int64) { last = n })
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(u.have, data) || last != int64(len(data)) {
		t.Errorf("server has %d bytes, progress says %d, want %d", len(u.have), last, len(data))
	}
	if diff := cmp.Diff([]int64{0, 1000, 1000 + api.UploadChunk}, u.puts); diff != "" {
		t.Errorf("offsets of PUT: %s", diff)
	}
}

func TestSendFollowsTheServersOffset(t *testing.T) {
	t.Parallel()
	data := []byte("an image that another run has begun")
	u := &uploads{have: bytes.Clone(data[:10])}
	c, _ := newClient(t, newAuthority(t), u.ServeHTTP)
	if err := c.Send(t.Context(), digest.Of(data), int64(len(data)), bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{10}, u.puts); diff != "" {
		t.Errorf("offsets of PUT: %s", diff)
	}
}

func TestSendGivesUpOnAServerThatStandsStill(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, newAuthority(t), func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(api.HeaderUploadOffset, "0") })
	if err := c.Send(t.Context(), digest.Of(nil), 5, strings.NewReader("bytes"), nil); !errors.Is(err, api.ErrAnswer) {
		t.Errorf("Send() error = %v, want ErrAnswer", err)
	}
}

func TestRefusesImpossibleOffset(t *testing.T) {
	t.Parallel()
	for _, offset := range []string{"-1", "6", "x", ""} {
		c, _ := newClient(t, newAuthority(t), func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(api.HeaderUploadOffset, offset) })
		if _, err := c.Uploaded(t.Context(), digest.Of(nil), 5); !errors.Is(err, api.ErrAnswer) {
			t.Errorf("offset %q: error = %v, want ErrAnswer", offset, err)
		}
	}
}

func FuzzProblem(f *testing.F) {
	f.Add([]byte(`{"type":"about:blank#token_expired","title":"The token has expired","status":401,"reason":"token_expired","request_id":"r1","remedy":"x"}`))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		err := api.ProblemOf(body)
		var e *api.Error
		if !errors.As(err, &e) || e.Status != http.StatusForbidden || e.Title == "" || err.Error() == "" {
			t.Errorf("ProblemOf = %#v", err)
		}
	})
}
