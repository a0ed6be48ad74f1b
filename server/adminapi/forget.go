package adminapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
)

// forgetKey adds one person's voice; the one that completes the set has the attestation key of the device forgotten and
// its lease ended, in one transaction. A rotation in between ends the voices: they are about the key that was registered.
func (s *Server) forgetKey(c echo.Context, caller authn.Caller) error {
	var req api.ForgetKeyRequest
	if err := decode(c, &req); err != nil {
		return err
	}
	if err := saysWhy("reason", req.Reason); err != nil {
		return err
	}
	ctx := c.Request().Context()
	return s.tighten(c, caller, func(d fleet.Device, q *fleet.Quarantine) (fleet.Step, error) {
		denials, err := s.Store.DenialsInForce(ctx)
		if err != nil {
			return fleet.Step{}, err
		}
		if n, denied := fleet.Denied(d, denials); denied {
			return fleet.Step{}, problem.New(http.StatusConflict, reason.EKRevoked, "the device's TPM is on the deny list and could not enroll again: %s", n.ID)
		}
		if d.ForgetKey, err = s.keyVoices(ctx, d.ForgetKey); err != nil {
			return fleet.Step{}, err
		}
		step, refused := fleet.ForgetKey(d, q, fleet.KeyVoice{Person: caller.Name, Why: req.Reason, At: s.Now()})
		switch refused {
		case "":
			return step, nil
		case reason.SamePerson:
			return fleet.Step{}, problem.New(http.StatusConflict, refused, "%s has asked for this already; a second person is needed", caller.Name)
		case reason.DeviceRetired:
			return fleet.Step{}, problem.New(http.StatusConflict, refused, "the device was retired and cannot enroll again")
		}
		return fleet.Step{}, problem.New(http.StatusConflict, refused, "no attestation key is registered for the device: it has to enroll again")
	})
}

// keyVoices drops the voices of people who are disabled by now, as voices does with approvals.
func (s *Server) keyVoices(ctx context.Context, voices []fleet.KeyVoice) ([]fleet.KeyVoice, error) {
	var out []fleet.KeyVoice
	for _, v := range voices {
		p, err := s.Store.Person(ctx, v.Person)
		if err != nil {
			return nil, fmt.Errorf("cannot read who asked: %w", err)
		}
		if !p.Disabled {
			out = append(out, v)
		}
	}
	return out, nil
}

// viewForgetKey is what became of wishes to forget the device's attestation key, nil when there are none.
func (s *Server) viewForgetKey(d fleet.Device) *api.ForgetKey {
	out := api.ForgetKey{Forgotten: d.KeyForgotten()}
	for _, v := range d.KeyVoices(s.Now()) {
		out.Voices = append(out.Voices, api.KeyVoice{Person: v.Person, Reason: v.Why, At: v.At.UTC(), Until: v.At.Add(fleet.KeyVoiceLasts).UTC()})
	}
	if !out.Forgotten && len(out.Voices) == 0 {
		return nil
	}
	return &out
}
