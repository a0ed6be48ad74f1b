package client

import (
	"fmt"
	"path/filepath"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/client/wire"
)

// Status is what the state directory says about a device. It is for people: nothing in it is verified.
type Status struct {
	Device     string           `json:"device"`
	Enrolled   bool             `json:"enrolled"`
	Lifecycle  string           `json:"lifecycle,omitempty"`
	HardwareID string           `json:"hardware_id,omitempty"`
	Verdict    string           `json:"verdict,omitempty"`
	LeaseUntil int64            `json:"lease_until,omitempty"` // Unix seconds
	LastPoll   int64            `json:"last_poll,omitempty"`
	Versions   Versions         `json:"versions,omitzero"`
	Installed  []wire.Installed `json:"installed,omitempty"`
	Boot       *wire.BootReport `json:"boot,omitempty"`
	Refusals   []Refusal        `json:"refusals,omitempty"`
	Update     string           `json:"update,omitempty"` // product/version that is under way
	Step       string           `json:"step,omitempty"`
	LockedOut  bool             `json:"locked_out,omitempty"` // the TPM is in dictionary-attack lockout
	Events     int              `json:"events"`               // not yet reported
}

// ReadStatus reads the state directory of a device, also while a client works with it.
func ReadStatus(dir string) (Status, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Status{}, fmt.Errorf("cannot read state directory: %w", err)
	}
	s := store{dir: abs}
	var st state
	s.readJSON(fileState, &st)
	out := Status{
		Device: st.Device, Enrolled: st.Enrolled, Lifecycle: st.Lifecycle, HardwareID: st.HardwareID, Verdict: st.Verdict,
		LeaseUntil: st.LeaseUntil, LastPoll: st.LastPoll, Versions: st.Versions, Installed: st.Installed, Boot: st.Boot,
		Refusals: st.Refusals, LockedOut: st.LockedOut, Events: len(st.Events),
	}
	if j, ok := (&Client{store: s}).loadJournal(); ok {
		out.Update, out.Step = artifacts.ReleaseName(j.Product, j.Version), j.Step
	}
	return out, nil
}
