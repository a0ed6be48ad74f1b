package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
	"github.com/cordon-ota/cordon/client/wire"
)

const token = "operator-token"

// server is an admin API with the routes that cordonctl uses, over the devices and releases of a verifytest.World. It is
// the contract's other side, not the product's server: client/ctl does not know that.
type server struct {
	http  *httptest.Server
	caPEM []byte
	caPin digest.SHA256
	w     *verifytest.World

	mu        sync.Mutex
	people    []api.Person
	inventory map[string]api.InventoryEntry
	lists     int               // pages of devices that were asked for
	log       map[string][]byte // files of the audit log
}

func newServer(w *verifytest.World) (*server, error) {
	s := &server{w: w, inventory: map[string]api.InventoryEntry{}}
	s.showLog(w.Log.Leaves, w.Log.Witnesses...)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/status", s.status)
	mux.HandleFunc("GET /repo/image/{file...}", s.root)
	mux.HandleFunc("GET /repo/director/{file}", s.root)
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /api/v1/people": s.listPeople, "POST /api/v1/people": s.addPerson,
		"POST /api/v1/people/{name}/token": s.newToken, "DELETE /api/v1/people/{name}": s.disable,
		"GET /api/v1/inventory": s.listInventory, "PUT /api/v1/inventory/{device}": s.setInventory,
		"DELETE /api/v1/inventory/{device}": s.removeInventory, "POST /api/v1/enroll-tokens": s.enrollToken,
		"GET /api/v1/devices": s.devices, "GET /api/v1/devices/{id}": s.device, "GET /api/v1/devices/{id}/why": s.why,
		"GET /api/v1/endorsement-denials": s.denials, "POST /api/v1/endorsement-denials": s.denials,
		"POST /api/v1/endorsement-denials/{id}/lift": s.liftDenial,
		"GET /api/v1/segments":                       s.segments, "GET /api/v1/segment-points": s.segmentPoints,
		"POST /api/v1/segment-breakers/{product}/resume": s.resume, "POST /api/v1/devices/{id}/{verb}": s.change, "GET /api/v1/releases": s.releases,
		"GET /api/v1/releases/{product}/{version}": s.release, "POST /api/v1/releases/{product}/{version}/{verb}": s.release,
		"GET /api/v1/retention": s.retentionPlan, "POST /api/v1/retention": s.collect,
		"GET /api/v1/appraisals/{id}": s.appraisal, "GET /api/v1/appraisals/{id}/log": s.appraisal, "GET /api/v1/devices/{id}/appraisals": s.appraisals,
		"GET /api/v1/baselines": s.baselines, "POST /api/v1/baselines": s.addBaseline, "GET /api/v1/baselines/{product}/{profile}": s.baseline,
		"GET /api/v1/baselines/{product}/{profile}/learn": s.learn, "GET /api/v1/releases/{product}/{version}/dry-run": s.dryRun,
		"GET /api/v1/report": s.report, "GET /api/v1/log/{file...}": s.logFile,
	} {
		mux.HandleFunc(pattern, s.allow(handler))
	}
	s.http = httptest.NewUnstartedServer(mux)
	cert, err := s.certificate()
	if err != nil {
		return nil, err
	}
	s.http.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	s.http.StartTLS()
	return s, nil
}

func (s *server) certificate() (tls.Certificate, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	s.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	s.caPin = digest.Of(caDER)
	return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, err
}

func (s *server) allow(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			problem(w, http.StatusUnauthorized, reason.TokenExpired, "the token is unknown")
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		next(w, r)
	}
}

func problem(w http.ResponseWriter, status int, r reason.Reason, detail string) {
	row, _ := reason.Lookup(r)
	b, err := json.Marshal(wire.Problem{Title: row.Title, Status: status, Detail: detail, Reason: r, RequestID: "request-7", Next: row.Remedy})
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(b)
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Write(b)
}

func read(r *http.Request, v any) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		panic(err)
	}
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	answer(w, api.Status{
		Version: "test", Initialised: true, TrustDomain: verifytest.TrustDomain, DeviceURL: verifytest.Server, ServerCA: string(s.caPEM),
		ServerCASHA256: s.caPin, ImageRoot: 2, DirectorRoot: 1, Targets: 2,
	})
}

func (s *server) root(w http.ResponseWriter, r *http.Request) {
	doc, ok := s.w.Metadata[r.PathValue("file")]
	if r.PathValue("file") == "timestamp.json" {
		doc, ok = s.w.Timestamp, true
	}
	if !ok {
		problem(w, http.StatusNotFound, reason.NotFound, "no such file")
		return
	}
	w.Write(doc)
}

func (s *server) listPeople(w http.ResponseWriter, _ *http.Request) {
	answer(w, api.Page[api.Person]{Items: s.people})
}

func (s *server) addPerson(w http.ResponseWriter, r *http.Request) {
	var q api.PersonRequest
	read(r, &q)
	if slices.Contains(q.Roles, "king") {
		problem(w, http.StatusBadRequest, reason.RequestMalformed, `there is no role "king"`)
		return
	}
	p := api.Person{Name: q.Name, Roles: q.Roles, CreatedAt: verifytest.Noon, ExpiresAt: verifytest.Noon.AddDate(0, 0, q.Days)}
	s.people = append(s.people, p)
	answer(w, api.PersonCreated{Person: p, Token: "secret-of-" + q.Name})
}

func (s *server) newToken(w http.ResponseWriter, r *http.Request) {
	answer(w, api.PersonCreated{Person: api.Person{Name: r.PathValue("name")}, Token: "second-of-" + r.PathValue("name")})
}

func (s *server) disable(w http.ResponseWriter, r *http.Request) {
	for i := range s.people {
		s.people[i].Disabled = s.people[i].Disabled || s.people[i].Name == r.PathValue("name")
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) listInventory(w http.ResponseWriter, _ *http.Request) {
	var out api.Page[api.InventoryEntry]
	for _, e := range s.inventory {
		out.Items = append(out.Items, e)
	}
	answer(w, out)
}

func (s *server) setInventory(w http.ResponseWriter, r *http.Request) {
	var e api.InventoryEntry
	read(r, &e)
	s.inventory[r.PathValue("device")] = e
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) removeInventory(w http.ResponseWriter, r *http.Request) {
	delete(s.inventory, r.PathValue("device"))
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) enrollToken(w http.ResponseWriter, r *http.Request) {
	var q api.EnrollTokenRequest
	read(r, &q)
	answer(w, api.EnrollTokenCreated{Token: "enroll-me", ExpiresAt: verifytest.Noon.Add(time.Duration(q.Minutes) * time.Minute)})
}

// devices answers one device per page, so that a client has to turn pages.
func (s *server) devices(w http.ResponseWriter, r *http.Request) {
	s.lists++
	records := s.w.Report().Devices
	i := slices.IndexFunc(records, func(d api.DeviceRecord) bool { return d.Device.ID == r.URL.Query().Get("after") }) + 1
	out := api.Page[api.Device]{Items: []api.Device{}}
	if i < len(records) {
		out.Items = append(out.Items, records[i].Device)
		out.Next = records[i].Device.ID
	}
	answer(w, out)
}

func (s *server) find(w http.ResponseWriter, r *http.Request) (api.Device, bool) {
	for _, record := range s.w.Report().Devices {
		if record.Device.ID == r.PathValue("id") {
			return record.Device, true
		}
	}
	problem(w, http.StatusNotFound, reason.NotFound, "there is no device "+r.PathValue("id"))
	return api.Device{}, false
}

func (s *server) device(w http.ResponseWriter, r *http.Request) {
	if d, ok := s.find(w, r); ok {
		d.Endorsement = &api.Endorsement{Key: digest.Of([]byte("ek")), Serial: "65", Issuers: []string{"aabb", "ccdd"}, Firmware: "0007003e00000001"}
		answer(w, d)
	}
}

func (s *server) change(w http.ResponseWriter, r *http.Request) {
	d, ok := s.find(w, r)
	if !ok {
		return
	}
	switch r.PathValue("verb") {
	case "release":
		problem(w, http.StatusForbidden, reason.SamePerson, "the same person asked for it")
		return
	case "retire":
		d.Lifecycle = "retired"
	case "quarantine":
		var q api.QuarantineRequest
		read(r, &q)
		d.Quarantine = &api.Quarantine{ID: "q", Device: d.ID, Since: verifytest.Noon, By: "ann", Detail: q.Detail}
	case "forget-key":
		var f api.ForgetKeyRequest
		read(r, &f)
		d.ForgetKey = &api.ForgetKey{Forgotten: f.Reason == "done"}
		if !d.ForgetKey.Forgotten {
			d.ForgetKey.Voices = []api.KeyVoice{{Person: "ann", Reason: f.Reason, At: verifytest.Noon, Until: verifytest.Noon}}
		}
	}
	answer(w, d)
}

func (s *server) why(w http.ResponseWriter, r *http.Request) {
	d, ok := s.find(w, r)
	if !ok {
		return
	}
	report := s.w.Report()
	y := api.Why{Device: d, Decision: api.Decision{
		Reasons: []reason.Reason{reason.DeviceQuarantined}, Detail: []string{"it booted something else \x1b[2J"}, Remedies: []string{"install the recovery release"},
	}}
	for _, p := range report.Appraisals {
		if p.Device == d.ID {
			var v attestation.Verdict
			if err := json.Unmarshal(p.Verdict, &v); err != nil {
				panic(err)
			}
			y.Verdict, y.AppraisedAt = &v, &p.At
		}
	}
	for _, e := range slices.Backward(report.Events) {
		if e.Subject == d.ID {
			y.Events = append(y.Events, e)
		}
	}
	y.Segment = segmentOf(d)
	y.Events = append(y.Events, verifytest.Event(3, verifytest.Noon, "segment.ordered", "server", d.ID, `{"segment":"restricted"}`))
	answer(w, y)
}

func (s *server) releaseViews() []api.Release {
	var out []api.Release
	for _, r := range s.w.Releases {
		out = append(out, api.Release{
			Name: r.Release.Product + "/" + r.Release.Version, State: api.ReleasePublished, Release: r.Release, Publishers: []string{"ci"},
			CreatedBy: r.CreatedBy, CreatedAt: r.PublishedAt, PublishedAt: &r.PublishedAt,
			Withdrawn: r.Release.Version == "1.0.0", // as the World's second policy says
		})
	}
	return out
}

func (s *server) releases(w http.ResponseWriter, _ *http.Request) {
	answer(w, api.Page[api.Release]{Items: s.releaseViews()})
}

func (s *server) release(w http.ResponseWriter, r *http.Request) {
	for _, view := range s.releaseViews() {
		if view.Name != r.PathValue("product")+"/"+r.PathValue("version") {
			continue
		}
		if r.PathValue("verb") == "hold" {
			var q api.HoldRequest
			read(r, &q)
			view.Hold, view.HoldReason = true, q.Detail
		}
		if r.PathValue("verb") == "prune" && !s.prune(w, r, &view) {
			return
		}
		answer(w, view)
		return
	}
	problem(w, http.StatusNotFound, reason.ReleaseUnknown, "there is no such release")
}

// prune gives 1.0.0 up and keeps the others.
func (s *server) prune(w http.ResponseWriter, r *http.Request, view *api.Release) bool {
	var q api.PruneRequest
	read(r, &q)
	if view.Release.Version != "1.0.0" {
		problem(w, http.StatusConflict, reason.ReleaseInUse, view.Name+" is kept: newest, proven (1 devices)")
		return false
	}
	if !q.DryRun {
		at := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
		view.PrunedAt = &at
	}
	return true
}

func (s *server) retentionPlan(w http.ResponseWriter, _ *http.Request) {
	at := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	answer(w, api.RetentionPlan{
		Releases: []api.RetentionRelease{
			{Name: "thermostat/0.9.0", Counter: 1, PrunedAt: &at}, {Name: "thermostat/1.0.0", Counter: 2, Needs: []api.RetentionNeed{}},
			{Name: "thermostat/1.1.0", Counter: 3, Needs: []api.RetentionNeed{{Why: "newest"}, {Why: "may_be_offered", Devices: 2}}},
		},
		Blobs:   []api.RetentionBlob{{SHA256: digest.Of([]byte("unused")), Bytes: 77, Modified: at}, {SHA256: digest.Of([]byte("locked")), Bytes: 5, Modified: at, LockedUntil: &at}},
		Uploads: []api.RetentionBlob{{SHA256: digest.Of([]byte("half")), Modified: at}}, Removable: 1, Bytes: 77, Grace: "24h0m0s",
	})
}

func (s *server) collect(w http.ResponseWriter, _ *http.Request) {
	answer(w, api.RetentionResult{Pruned: []string{}, Blobs: 1, Bytes: 77, Uploads: 1, Retained: 1})
}

// showLog makes the log that the server shows: at most one tile of it.
func (s *server) showLog(leaves [][]byte, witnesses ...note.Signer) {
	var bundle, tile []byte
	for _, leaf := range leaves {
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(leaf))), leaf...)
		h := tlog.LeafHash(leaf)
		tile = append(tile, h[:]...)
	}
	s.log = map[string][]byte{
		"checkpoint": s.w.Log.Checkpoint(leaves, witnesses...), tlog.EntriesPath(0, uint8(len(leaves))): bundle, tlog.TilePath(0, 0, uint8(len(leaves))): tile,
	}
}

func (s *server) logFile(w http.ResponseWriter, r *http.Request) {
	b, ok := s.log[r.PathValue("file")]
	if !ok {
		problem(w, http.StatusNotFound, reason.NotFound, "no such file")
		return
	}
	w.Write(b)
}

func (s *server) report(w http.ResponseWriter, _ *http.Request) { w.Write(s.w.Sign(s.w.Report())) }

// appraisal answers with an appraisal of the day or its log. Number 77 is a lie, and 78 is changed.
func (s *server) appraisal(w http.ResponseWriter, r *http.Request) {
	report, name := s.w.Report(), r.PathValue("id")
	for _, p := range report.Appraisals {
		id := verifytest.AppraisalID(p).String()
		if name != id && name != strconv.FormatInt(p.Number, 10) && name != "77" && name != "78" {
			continue
		}
		if strings.HasSuffix(r.URL.Path, "/log") {
			w.Write(report.Logs[p.Input.Evidence.LogDigest.String()])
			return
		}
		if name == "78" {
			p.Number, p.Verdict = 78, bytes.Replace(p.Verdict, []byte("affirmed"), []byte("Affirmed"), 1)
		}
		answer(w, p)
		return
	}
	problem(w, http.StatusNotFound, reason.NotFound, "no such appraisal")
}

func (s *server) appraisals(w http.ResponseWriter, r *http.Request) {
	page := api.Page[api.AppraisalSummary]{Items: []api.AppraisalSummary{}}
	for _, p := range slices.Backward(s.w.Report().Appraisals) {
		var v attestation.Verdict
		if err := json.Unmarshal(p.Verdict, &v); err != nil {
			panic(err)
		}
		if p.Device == r.PathValue("id") {
			page.Items = append(page.Items, api.AppraisalSummary{
				Number: p.Number, ID: verifytest.AppraisalID(p), Device: p.Device, At: p.At, Outcome: string(v.Outcome), Release: v.Release,
				Reasons: v.Reasons(), Verifier: p.Verifier, PolicySHA256: p.PolicySHA256, Evidence: v.Evidence,
			})
		}
	}
	answer(w, page)
}
