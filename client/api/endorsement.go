package api

import (
	"context"
	"net/http"
	"time"
)

// DenialRequest is POST /api/v1/endorsement-denials: TPMs that are not to be believed any more (one person is enough to
// tighten). It names them in exactly one way: by a key, a serial number with its issuer, an issuer, or a manufacturer
// with a range of firmware versions. Hex may have colons and capitals.
type DenialRequest struct {
	Key          string `json:"key,omitempty"`           // SHA-256 of the endorsement key's DER SubjectPublicKeyInfo
	Serial       string `json:"serial,omitempty"`        // of the EK certificate; needs Issuer
	Issuer       string `json:"issuer,omitempty"`        // key identifier of an issuer
	Manufacturer string `json:"manufacturer,omitempty"`  // like id:49465800; needs FirmwareFrom or FirmwareTo
	FirmwareFrom string `json:"firmware_from,omitempty"` // hex, as quotes carry it: the first denied version
	FirmwareTo   string `json:"firmware_to,omitempty"`   // hex: the last one
	Why          string `json:"why"`                     // for operators and auditors; devices never see it
}

// Denial is an element of GET /api/v1/endorsement-denials.
type Denial struct {
	ID           string     `json:"id"`
	Key          string     `json:"key,omitempty"`
	Serial       string     `json:"serial,omitempty"`
	Issuer       string     `json:"issuer,omitempty"`
	Manufacturer string     `json:"manufacturer,omitempty"`
	FirmwareFrom string     `json:"firmware_from,omitempty"`
	FirmwareTo   string     `json:"firmware_to,omitempty"`
	Why          string     `json:"why"`
	By           string     `json:"by"`
	At           time.Time  `json:"at"`
	Approvals    []Approval `json:"approvals,omitempty"` // to lift it
	LiftedAt     *time.Time `json:"lifted_at,omitempty"`
}

// Denials lists the deny list of endorsement keys, lifted ones included, the newest first.
func (c *Client) Denials(ctx context.Context, after string) (Page[Denial], error) {
	var out Page[Denial]
	err := c.get(ctx, base+"endorsement-denials", queryOf("after", after), &out)
	return out, err
}

// DenyEndorsement puts TPMs on the deny list. They get nothing from their next poll on.
func (c *Client) DenyEndorsement(ctx context.Context, r DenialRequest) (Denial, error) {
	var out Denial
	err := c.do(ctx, call{method: http.MethodPost, path: base + "endorsement-denials", body: r, answer: &out})
	return out, err
}

// LiftEndorsement approves that a denial ends; the second person's approval ends it.
func (c *Client) LiftEndorsement(ctx context.Context, id string) (Denial, error) {
	var out Denial
	err := c.do(ctx, call{method: http.MethodPost, path: routeOf("endorsement-denials", id, "lift"), answer: &out})
	return out, err
}
