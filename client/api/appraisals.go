package api

import (
	"context"
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// AppraisalSummary is a stored appraisal without what led to it.
type AppraisalSummary struct {
	Number         int64           `json:"number"`
	ID             digest.SHA256   `json:"id"`
	Device         string          `json:"device"`
	At             time.Time       `json:"at"`
	Outcome        string          `json:"outcome"`
	Release        string          `json:"release,omitempty"`
	Reasons        []reason.Reason `json:"reasons,omitempty"`
	Verifier       string          `json:"verifier"`
	PolicySHA256   digest.SHA256   `json:"policy_sha256"`
	BaselineSHA256 digest.SHA256   `json:"baseline_sha256,omitzero"`
	Evidence       digest.SHA256   `json:"evidence"`
	Repeats        digest.SHA256   `json:"repeats,omitzero"` // see Appraisal
}

// Appraisal returns one stored appraisal, by its id or by its number.
func (c *Client) Appraisal(ctx context.Context, id string) (Appraisal, error) {
	var out Appraisal
	err := c.get(ctx, routeOf("appraisals", id), nil, &out)
	return out, err
}

// AppraisalLog returns the event log of a stored appraisal. One that is not stored is a *Error with reason not_found.
func (c *Client) AppraisalLog(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	err := c.do(ctx, call{method: http.MethodGet, path: routeOf("appraisals", id, "log"), answer: &b, limit: attestation.MaxLogBytes, idempotent: true})
	return b, err
}

// Appraisals lists a device's stored appraisals, the newest first.
func (c *Client) Appraisals(ctx context.Context, device, after string) (Page[AppraisalSummary], error) {
	var out Page[AppraisalSummary]
	err := c.get(ctx, routeOf("devices", device, "appraisals"), queryOf("after", after), &out)
	return out, err
}
