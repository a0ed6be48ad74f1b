package api

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/wire"
)

const base = "/api/v1/"

// routeOf joins escaped segments below /api/v1/.
func routeOf(segments ...string) string {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return base + strings.Join(segments, "/")
}

func (c *Client) get(ctx context.Context, path string, query url.Values, answer any) error {
	return c.do(ctx, call{method: http.MethodGet, path: path, query: query, answer: answer, idempotent: true})
}

// repeat is a POST that has the same result when it is sent twice.
func (c *Client) repeat(ctx context.Context, path string, body, answer any) error {
	return c.do(ctx, call{method: http.MethodPost, path: path, body: body, answer: answer, idempotent: true})
}

// queryOf leaves out what is empty.
func queryOf(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

// All walks a list page by page: All(ctx, client.People).
func All[T any](ctx context.Context, list func(ctx context.Context, after string) (Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		after := ""
		for {
			page, err := list(ctx, after)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Next == "" || page.Next == after {
				return
			}
			after = page.Next
		}
	}
}

// Status is open to everyone.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, base+"status", nil, &s)
	return s, err
}

// Ceremony hands over signed offline metadata. The same metadata again changes nothing.
func (c *Client) Ceremony(ctx context.Context, r Ceremony) (CeremonyResult, error) {
	var out CeremonyResult
	err := c.do(ctx, call{method: http.MethodPost, path: base + "ceremony", body: r, answer: &out, idempotent: true, timeout: 2 * time.Minute})
	return out, err
}

// RepoFile reads a file of the Image repository, such as "1.root.json". It needs no token.
func (c *Client) RepoFile(ctx context.Context, name string) ([]byte, error) {
	segments := strings.Split(name, "/")
	for i, s := range segments {
		if s == "" || s == "." || s == ".." {
			return nil, fmt.Errorf("%q is no file of the repository", name)
		}
		segments[i] = url.PathEscape(s)
	}
	var b []byte
	err := c.do(ctx, call{method: http.MethodGet, path: wire.PathImage + strings.Join(segments, "/"), answer: &b, limit: wire.MaxMetadataBytes, idempotent: true})
	return b, err
}

// ImageRoot reads a version of the Image root. It needs no token.
func (c *Client) ImageRoot(ctx context.Context, version int64) ([]byte, error) {
	return c.RepoFile(ctx, strconv.FormatInt(version, 10)+".root.json")
}

// DirectorRoot reads a version of the Director root. It needs no token.
func (c *Client) DirectorRoot(ctx context.Context, version int64) ([]byte, error) {
	var b []byte
	name := strconv.FormatInt(version, 10) + ".root.json"
	err := c.do(ctx, call{method: http.MethodGet, path: wire.PathDirector + name, answer: &b, limit: wire.MaxRootBytes, idempotent: true})
	return b, err
}

// CreatePerson makes an account; its token is in the answer and nowhere else.
func (c *Client) CreatePerson(ctx context.Context, r PersonRequest) (PersonCreated, error) {
	var out PersonCreated
	err := c.do(ctx, call{method: http.MethodPost, path: base + "people", body: r, answer: &out})
	return out, err
}

// People lists the accounts.
func (c *Client) People(ctx context.Context, after string) (Page[Person], error) {
	var out Page[Person]
	err := c.get(ctx, base+"people", queryOf("after", after), &out)
	return out, err
}

// RenewToken makes a new token for a person; the old ones end. Days is its life, 0 for the server's default.
func (c *Client) RenewToken(ctx context.Context, name string, days int) (PersonCreated, error) {
	var out PersonCreated
	err := c.do(ctx, call{method: http.MethodPost, path: routeOf("people", name, "token"), body: TokenRequest{Days: days}, answer: &out})
	return out, err
}

// RemovePerson disables an account and its tokens.
func (c *Client) RemovePerson(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: routeOf("people", name), idempotent: true})
}

// PutInventory claims a device for a product.
func (c *Client) PutInventory(ctx context.Context, e InventoryEntry) error {
	return c.do(ctx, call{method: http.MethodPut, path: routeOf("inventory", e.Device), body: e, idempotent: true})
}

// InventoryOf returns the entry of one device.
func (c *Client) InventoryOf(ctx context.Context, device string) (InventoryEntry, error) {
	var out InventoryEntry
	err := c.get(ctx, routeOf("inventory", device), nil, &out)
	return out, err
}

// Inventory lists the entries.
func (c *Client) Inventory(ctx context.Context, after string) (Page[InventoryEntry], error) {
	var out Page[InventoryEntry]
	err := c.get(ctx, base+"inventory", queryOf("after", after), &out)
	return out, err
}

// RemoveInventory takes an entry away.
func (c *Client) RemoveInventory(ctx context.Context, device string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: routeOf("inventory", device), idempotent: true})
}

// CreateEnrollToken makes a one-time enrollment token.
func (c *Client) CreateEnrollToken(ctx context.Context, r EnrollTokenRequest) (EnrollTokenCreated, error) {
	var out EnrollTokenCreated
	err := c.do(ctx, call{method: http.MethodPost, path: base + "enroll-tokens", body: r, answer: &out})
	return out, err
}

// DeviceQuery narrows a list of devices; empty fields do not.
type DeviceQuery struct {
	Product  string
	Standing string
	After    string
}

// Devices lists devices.
func (c *Client) Devices(ctx context.Context, q DeviceQuery) (Page[Device], error) {
	var out Page[Device]
	err := c.get(ctx, base+"devices", queryOf("product", q.Product, "standing", q.Standing, "after", q.After), &out)
	return out, err
}

// Device returns one device.
func (c *Client) Device(ctx context.Context, id string) (Device, error) {
	var out Device
	err := c.get(ctx, routeOf("devices", id), nil, &out)
	return out, err
}

// ApproveDevice claims a pending device.
func (c *Client) ApproveDevice(ctx context.Context, e InventoryEntry) (Device, error) {
	return c.changeDevice(ctx, e.Device, "approve", e)
}

// RetireDevice ends a device for good.
func (c *Client) RetireDevice(ctx context.Context, id string) (Device, error) {
	return c.changeDevice(ctx, id, "retire", nil)
}

// QuarantineDevice restricts a device; one person is enough.
func (c *Client) QuarantineDevice(ctx context.Context, id string, r QuarantineRequest) (Device, error) {
	return c.changeDevice(ctx, id, "quarantine", r)
}

// ForgetKey is one person's wish that the attestation key of a device is forgotten; the second person's does it.
func (c *Client) ForgetKey(ctx context.Context, id string, r ForgetKeyRequest) (Device, error) {
	return c.changeDevice(ctx, id, "forget-key", r)
}

// ReleaseDevice is one person's approval to let a device out of quarantine; the second person's ends it.
func (c *Client) ReleaseDevice(ctx context.Context, id string) (Device, error) {
	return c.changeDevice(ctx, id, "release", nil)
}

func (c *Client) changeDevice(ctx context.Context, id, verb string, body any) (Device, error) {
	var out Device
	err := c.do(ctx, call{method: http.MethodPost, path: routeOf("devices", id, verb), body: body, answer: &out})
	return out, err
}

// Why tells the whole story of a device's last decision.
func (c *Client) Why(ctx context.Context, id string) (Why, error) {
	var out Why
	err := c.get(ctx, routeOf("devices", id, "why"), nil, &out)
	return out, err
}

// Quarantines lists the quarantines, the open ones first.
func (c *Client) Quarantines(ctx context.Context, after string) (Page[Quarantine], error) {
	var out Page[Quarantine]
	err := c.get(ctx, base+"quarantines", queryOf("after", after), &out)
	return out, err
}

// Publish hands a release over. The same release again changes nothing (Release.Changed is false).
func (c *Client) Publish(ctx context.Context, r PublishRequest) (Release, error) {
	var out Release
	err := c.do(ctx, call{method: http.MethodPost, path: base + "releases", body: r, answer: &out, idempotent: true, timeout: 2 * time.Minute})
	return out, err
}

// Releases lists releases of one product, or of all.
func (c *Client) Releases(ctx context.Context, product, after string) (Page[Release], error) {
	var out Page[Release]
	err := c.get(ctx, base+"releases", queryOf("product", product, "after", after), &out)
	return out, err
}

// Release returns one release.
func (c *Client) Release(ctx context.Context, product, version string) (Release, error) {
	var out Release
	err := c.get(ctx, routeOf("releases", product, version), nil, &out)
	return out, err
}

// ApproveRelease is one person's approval of a staged release.
func (c *Client) ApproveRelease(ctx context.Context, product, version string) (Release, error) {
	var out Release
	err := c.do(ctx, call{method: http.MethodPost, path: routeOf("releases", product, version, "approve"), answer: &out})
	return out, err
}

// HoldRelease stops offers and open streams of a release at once; one person is enough.
func (c *Client) HoldRelease(ctx context.Context, product, version string, r HoldRequest) (Release, error) {
	var out Release
	err := c.repeat(ctx, routeOf("releases", product, version, "hold"), r, &out)
	return out, err
}

// ResumeRelease ends a hold.
func (c *Client) ResumeRelease(ctx context.Context, product, version string) (Release, error) {
	var out Release
	err := c.repeat(ctx, routeOf("releases", product, version, "resume"), nil, &out)
	return out, err
}

// PruneRelease gives the images of a release up, unless something needs it.
func (c *Client) PruneRelease(ctx context.Context, product, version string, r PruneRequest) (Release, error) {
	var out Release
	err := c.repeat(ctx, routeOf("releases", product, version, "prune"), r, &out)
	return out, err
}

// RetentionPlan shows what collecting garbage would remove now.
func (c *Client) RetentionPlan(ctx context.Context) (RetentionPlan, error) {
	var out RetentionPlan
	err := c.do(ctx, call{method: http.MethodGet, path: base + "retention", answer: &out, idempotent: true, timeout: 2 * time.Minute})
	return out, err
}

// Collect removes what RetentionPlan shows. It is not repeated: while another replica collects, for minutes at most after
// one died, there is nothing to wait for.
func (c *Client) Collect(ctx context.Context) (RetentionResult, error) {
	var out RetentionResult
	err := c.do(ctx, call{method: http.MethodPost, path: base + "retention", answer: &out, timeout: transferTimeout})
	return out, err
}

// ReportQuery is a period, and a product or all.
type ReportQuery struct {
	From, To time.Time
	Product  string
}

// Report returns the exact bytes of a SignedReport, as they are to be kept.
func (c *Client) Report(ctx context.Context, q ReportQuery) ([]byte, error) {
	var b []byte
	v := queryOf("from", q.From.UTC().Format(time.RFC3339), "to", q.To.UTC().Format(time.RFC3339), "product", q.Product)
	err := c.do(ctx, call{method: http.MethodGet, path: base + "report", query: v, answer: &b, limit: MaxReportBytes, timeout: transferTimeout, idempotent: true})
	return b, err
}

// LogCheckpoint returns the published checkpoint of the audit log, a signed note.
func (c *Client) LogCheckpoint(ctx context.Context) ([]byte, error) {
	return c.LogFile(ctx, "checkpoint")
}

// LogFile returns a file of the audit log by its path in C2SP tlog-tiles: "tile/0/000", "tile/entries/x001/067.p/8".
func (c *Client) LogFile(ctx context.Context, path string) ([]byte, error) {
	var b []byte
	err := c.do(ctx, call{method: http.MethodGet, path: routeOf(append([]string{"log"}, strings.Split(path, "/")...)...), answer: &b, limit: tlog.MaxBundleBytes, idempotent: true})
	return b, err
}

// Events lists audit events after a number, oldest first; limit 0 leaves the length of the page to the server.
func (c *Client) Events(ctx context.Context, after int64, limit int) (Page[Event], error) {
	v := url.Values{"after": {strconv.FormatInt(after, 10)}}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	var out Page[Event]
	err := c.get(ctx, base+"events", v, &out)
	return out, err
}
