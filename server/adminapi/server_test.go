package adminapi_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/adminapi"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/platform"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/repository/repositorytest"
	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// admin is the admin API on TLS with everything behind it. Each answer is held against openapi.yaml.
type admin struct {
	*repositorytest.World
	t      *testing.T
	api    *adminapi.Server
	server *httptest.Server
	log    *lockedBuffer
	tokens map[string]string // by person
	roots  *x509.CertPool

	auditLog *tilelog.Log // works only when a test calls Round
	logKey   *tilelog.Key
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newAdmin(t *testing.T) *admin {
	t.Helper()
	w := repositorytest.New(t)
	a := &admin{World: w, t: t, log: &lockedBuffer{}, tokens: map[string]string{}}
	log := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	key, certificate := reportKey(t)
	reports, err := report.New(report.Config{
		Store: w.Store, Catalog: w.Service.Catalog, Blobs: w.Blobs, Key: key, Certificate: certificate,
		Server: "https://devices.example:8443", TrustDomain: "fleet.example", Build: "test", Now: w.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.logKey = repositorytest.Must(tilelog.NewKey("fleet.example/audit", private))
	a.auditLog = tilelog.New(tilelog.Config{
		Store: w.Store, Dir: t.TempDir(), Key: a.logKey, Policy: func() []byte { return nil }, Every: time.Hour, Now: w.Now, Log: log,
	})
	t.Cleanup(a.auditLog.Close)
	s := &adminapi.Server{
		Log:   a.auditLog,
		Store: w.Store, Blobs: w.Blobs, Repository: w.Service, Files: repository.NewFiles(w.Service), Reports: reports,
		Enforcer: segment.NewEnforcer(w.Store, segment.NewDoor(), w.Service.Catalog, time.Second, w.Now, log),
		Authn:    authn.New(w.Store, w.Now), Terms: fleet.Terms{Lease: 2 * time.Hour, Grace: 24 * time.Hour}, Now: w.Now,
		Retention: retention.New(w.Store, w.Blobs, w.Service, retention.Config{Every: time.Hour, Grace: 24 * time.Hour, Uploads: 168 * time.Hour},
			w.Now, log, func(retention.Result) {}),
		Platform: platform.New(w.Store, w.Service),
		Status: func() api.Status {
			return api.Status{Version: "test", TrustDomain: "fleet.example", DeviceURL: "https://devices.example:8443", Keys: []api.OnlineKey{}}
		},
	}
	e := echo.New()
	e.HTTPErrorHandler = problem.Handler(log)
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Response().Header().Set(problem.RequestIDHeader, "0123456789abcdef")
			return next(c)
		}
	})
	s.Register(e)
	a.api = s
	a.server = httptest.NewTLSServer(held(t, e))
	t.Cleanup(a.server.Close)
	a.roots = x509.NewCertPool()
	a.roots.AddCert(a.server.Certificate())
	return a
}

func reportKey(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key := repositorytest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	uri := repositorytest.Must(url.Parse(report.URI("fleet.example")))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: repositorytest.Noon.AddDate(-1, 0, 0), NotAfter: repositorytest.Noon.AddDate(1, 0, 0),
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	return key, repositorytest.Must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
}

// held holds each answer below /api/v1 against the OpenAPI document.
func held(t *testing.T, next http.Handler) http.Handler {
	t.Helper()
	doc := document(t)
	doc.Servers = openapi3.Servers{{URL: "/api/v1"}}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/api/v1/") {
			next.ServeHTTP(w, r)
			return
		}
		record := httptest.NewRecorder()
		next.ServeHTTP(record, r)
		if err := agrees(router, r, record); err != nil {
			t.Errorf("%s %s: %d: the answer is not what openapi.yaml says: %v", r.Method, r.URL.Path, record.Code, err)
		}
		for k, v := range record.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(record.Code)
		_, _ = w.Write(record.Body.Bytes())
	})
}

func agrees(router routers.Router, r *http.Request, record *httptest.ResponseRecorder) error {
	route, params, err := router.FindRoute(r)
	if err != nil {
		if record.Code == http.StatusNotFound || record.Code == http.StatusMethodNotAllowed {
			return nil // neither side knows it
		}
		return err
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 record.Code, Header: record.Header(),
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, MultiError: true,
			ExcludeResponseBody: record.Header().Get("Content-Type") == "application/yaml", // the document itself, a string to OpenAPI
		},
	}
	in.SetBodyBytes(record.Body.Bytes())
	return openapi3filter.ValidateResponse(r.Context(), in)
}

// person adds a person to the database and returns the client that speaks for it.
func (a *admin) person(name string, roles ...string) *api.Client {
	a.t.Helper()
	token := authn.NewToken()
	err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{
		store.PutPerson{Person: store.Person{Name: name, Roles: roles, At: a.Now()}},
		store.AddToken{Token: store.Token{Hash: authn.Hash(token), Person: name, At: a.Now(), Expires: a.Now().AddDate(0, 0, 30)}},
	}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.tokens[name] = token
	return a.client(token)
}

func (a *admin) client(token string) *api.Client {
	a.t.Helper()
	c, err := api.New(api.Config{URL: a.server.URL, CA: a.roots, Token: token, Attempts: 1})
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// send sends a request that the client would not.
func (a *admin) send(method, path, token string, header map[string]string, body string) (int, http.Header, string) {
	a.t.Helper()
	req := repositorytest.Must(http.NewRequestWithContext(a.t.Context(), method, a.server.URL+path, strings.NewReader(body)))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := a.server.Client().Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, res.Header, string(repositorytest.Must(io.ReadAll(res.Body)))
}

// device puts a device into the database.
func (a *admin) device(label string, change func(*fleet.Device)) string {
	a.t.Helper()
	sum := digest.Of([]byte(label))
	d := fleet.Device{
		ID: deviceID(label), Product: "lamp", HardwareID: repositorytest.Hardware, Profile: "board", Lifecycle: fleet.Active, Standing: fleet.Affirmed,
		Tier: fleet.TierInventory, AdmittedBy: "inventory", EKSPKI: sum, TLSKey: sum, AKPublic: []byte("ak"), AKName: sum[:], EnrolledAt: a.Now(), ProvenAt: a.Now(),
		LeaseUntil: a.Now().Add(time.Hour), Segment: fleet.Production,
	}
	if change != nil {
		change(&d)
	}
	if err := a.Store.Commit(a.t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: d}}}); err != nil {
		a.t.Fatal(err)
	}
	return d.ID
}

func wantReason(t *testing.T, what string, err error, want reason.Reason) {
	t.Helper()
	if got := api.ReasonOf(err); got != want {
		t.Errorf("%s: got %v, want the reason %s", what, err, want)
	}
}
