package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
)

// States of a platform baseline.
const (
	BaselineInForce    = "in_force"    // devices of the profile are held against it
	BaselineSuperseded = "superseded"  // a newer generation is there, or the offline targets role signs the profile's baseline itself
	BaselineNotTrusted = "not_trusted" // its signatures are not those that the current offline policy asks for: it counts as missing
)

// Baseline is a platform baseline that the server knows.
type Baseline struct {
	Product    string                  `json:"product"`
	Profile    string                  `json:"profile"`
	Generation uint64                  `json:"generation,omitempty"` // 0: the offline targets role signed it
	SHA256     digest.SHA256           `json:"sha256"`               // of the document that quotes are compared with; verdicts name it
	State      string                  `json:"state"`
	Detail     string                  `json:"detail,omitempty"`  // why it is not trusted
	Signers    []string                `json:"signers,omitempty"` // whose signatures verified; of a superseded one: when it was taken in
	Sets       []artifacts.BaselineSet `json:"sets"`
	By         string                  `json:"by,omitempty"` // who handed it in
	At         *time.Time              `json:"at,omitempty"`
	Bundles    [][]byte                `json:"bundles,omitempty"` // only of a single baseline
	Changed    bool                    `json:"changed,omitempty"` // of an upload: it is new
}

// BaselineRequest is POST /api/v1/baselines: the bundles over one baseline statement, one of each signer.
type BaselineRequest struct {
	Bundles [][]byte `json:"bundles"`
}

// Learning is what a server found out about a platform from its devices.
type Learning struct {
	Product string            `json:"product"`
	Profile string            `json:"profile"`
	Need    int               `json:"need"` // how many devices must agree
	Devices []LearningDevice  `json:"devices"`
	Learned reference.Learned `json:"learned"`
	// Refusals say why there is no Statement, in plain words.
	Refusals []string `json:"refusals,omitempty"`
	// Statement is the unsigned baseline statement, exactly as it is to be signed.
	Statement []byte `json:"statement,omitempty"`
	More      bool   `json:"more,omitempty"` // there are more devices than were looked at
}

// LearningDevice is one device of a platform, as it counts for learning.
type LearningDevice struct {
	Device   string    `json:"device"`
	At       time.Time `json:"at"`      // of its observation
	Release  string    `json:"release"` // that it booted then
	Standing string    `json:"standing"`
	LeftOut  string    `json:"left_out,omitempty"` // why it does not count
}

// DryRun is one page of what devices will measure with a release.
type DryRun struct {
	Release     string         `json:"release"`
	Devices     []DryRunDevice `json:"devices"`
	Predictable int            `json:"predictable"` // of this page
	Next        string         `json:"next,omitempty"`
}

// DryRunDevice is what one device will measure with a release.
type DryRunDevice struct {
	Device      string                   `json:"device"`
	HardwareID  string                   `json:"hardware_id"`
	Profile     string                   `json:"profile"`
	Runs        string                   `json:"runs,omitempty"`      // the release that it has proven
	Component   string                   `json:"component,omitempty"` // the measured component for its hardware
	Predictable bool                     `json:"predictable"`
	Problems    []reference.Problem      `json:"problems,omitempty"`
	PCRs        []reference.PredictedPCR `json:"pcrs,omitempty"`
}

// Baselines lists platform baselines of a product and a profile, or of all; also those that are superseded.
func (c *Client) Baselines(ctx context.Context, product, profile string) (Page[Baseline], error) {
	var out Page[Baseline]
	err := c.get(ctx, base+"baselines", queryOf("product", product, "profile", profile), &out)
	return out, err
}

// Baseline returns the baseline of a profile that is newest, or that has the generation, with its bundles.
func (c *Client) Baseline(ctx context.Context, product, profile string, generation uint64) (Baseline, error) {
	var out Baseline
	text := ""
	if generation > 0 {
		text = strconv.FormatUint(generation, 10)
	}
	err := c.get(ctx, routeOf("baselines", product, profile), queryOf("generation", text), &out)
	return out, err
}

// AddBaseline hands a signed baseline over. The same again changes nothing (Baseline.Changed is false).
func (c *Client) AddBaseline(ctx context.Context, r BaselineRequest) (Baseline, error) {
	var out Baseline
	err := c.repeat(ctx, base+"baselines", r, &out)
	return out, err
}

// LearnQuery says what is to be learned.
type LearnQuery struct {
	Product, Profile string
	Devices          int      // how many must agree
	Exclude          []string // devices that do not count
	Name             string   // of the new set; empty: the server names it
	Drop             []string // sets of the baseline in force that the new one leaves out
}

// LearnBaseline asks what the devices of a platform agree about. Nothing changes.
func (c *Client) LearnBaseline(ctx context.Context, q LearnQuery) (Learning, error) {
	var out Learning
	v := queryOf("devices", strconv.Itoa(q.Devices), "exclude", strings.Join(q.Exclude, ","), "name", q.Name, "drop", strings.Join(q.Drop, ","))
	err := c.do(ctx, call{method: http.MethodGet, path: routeOf("baselines", q.Product, q.Profile, "learn"), query: v, answer: &out, idempotent: true, timeout: 2 * time.Minute})
	return out, err
}

// DryRunRelease asks what devices will measure when they boot a release, one page at a time. Nothing changes.
func (c *Client) DryRunRelease(ctx context.Context, product, version, device, after string) (DryRun, error) {
	var out DryRun
	err := c.do(ctx, call{method: http.MethodGet, path: routeOf("releases", product, version, "dry-run"), query: queryOf("device", device, "after", after), answer: &out, idempotent: true, timeout: 2 * time.Minute})
	return out, err
}
