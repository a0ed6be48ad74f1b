package main_test

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

// oddDevice differs from the three that agree.
const oddDevice = "odd"

// learn shows three devices that agree and one that does not.
func (s *server) learn(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	at := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	pcrs := reference.PlatformOf(evidencetest.DirectUKI(evidencetest.Release("any")).PCRs())
	out := api.Learning{Product: r.PathValue("product"), Profile: r.PathValue("profile"), Need: 3, Devices: []api.LearningDevice{}}
	set := artifacts.BaselineSet{Name: "g1", Source: artifacts.BaselineLearned, PCRs: pcrs}
	for _, id := range []string{"aa", "bb", "cc"} {
		out.Devices = append(out.Devices, api.LearningDevice{Device: id, At: at, Release: "thermostat/1.0.0", Standing: "refused"})
		out.Learned.Agreeing = append(out.Learned.Agreeing, id)
		set.Devices = append(set.Devices, artifacts.BaselineDevice{Device: id, Evidence: digest.Of([]byte(id)), Log: digest.Of([]byte("log " + id))})
	}
	for _, p := range pcrs {
		out.Learned.PCRs = append(out.Learned.PCRs, reference.LearnedPCR{Index: p.Index, Groups: []reference.Group{{Value: p.Value, Devices: out.Learned.Agreeing}}})
	}
	if !slices.Contains(strings.Split(q.Get("exclude"), ","), oddDevice) {
		out.Devices = append(out.Devices, api.LearningDevice{Device: oddDevice, At: at, Release: "thermostat/1.0.0", Standing: "refused"})
		out.Learned.Others = []reference.Disagreeing{{Device: oddDevice, Detail: []string{"PCR 2: only it has event 7, a driver\x1b[2J"}}}
		out.Refusals = []string{"device odd differs from the 3 that agree"}
		answer(w, out)
		return
	}
	statement, err := artifacts.NewBaselineStatement(artifacts.PlatformBaseline{Product: out.Product, Profile: out.Profile, Generation: 1, Sets: []artifacts.BaselineSet{set}})
	if err != nil {
		panic(err)
	}
	if out.Statement, err = statement.Encode(); err != nil {
		panic(err)
	}
	if out.Profile == "swapped" { // a server that wants something else to be signed
		out.Profile = "board"
		other := statement.Predicate
		other.Profile = "other"
		lie, err := artifacts.NewBaselineStatement(other)
		if err != nil {
			panic(err)
		}
		if out.Statement, err = lie.Encode(); err != nil {
			panic(err)
		}
	}
	answer(w, out)
}

func (s *server) addBaseline(w http.ResponseWriter, r *http.Request) {
	var q api.BaselineRequest
	read(r, &q)
	claimed, err := provenance.ClaimedBaseline(q.Bundles[0])
	if err != nil || len(q.Bundles) != 1 {
		problem(w, http.StatusUnprocessableEntity, reason.BaselineRefused, "the bundle cannot be read")
		return
	}
	out := shownBaseline(claimed.Predicate)
	out.Changed = true
	answer(w, out)
}

func shownBaseline(b artifacts.PlatformBaseline) api.Baseline {
	at := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	return api.Baseline{Product: b.Product, Profile: b.Profile, Generation: b.Generation, State: api.BaselineInForce, Signers: []string{"platform"}, Sets: b.Sets, By: "ann", At: &at}
}

func (s *server) baselines(w http.ResponseWriter, _ *http.Request) {
	set := artifacts.BaselineSet{Name: "bios-2", Source: artifacts.BaselineVendor, PCRs: reference.PlatformOf(evidencetest.DirectUKI(evidencetest.Release("any")).PCRs())}
	b := shownBaseline(artifacts.PlatformBaseline{Product: verifytest.Product, Profile: "board", Generation: 2, Sets: []artifacts.BaselineSet{set}})
	old := b
	old.Generation, old.State, old.Signers = 1, api.BaselineSuperseded, []string{"first-signer"}
	unknown := old
	unknown.Profile, unknown.Signers = "older", nil
	answer(w, api.Page[api.Baseline]{Items: []api.Baseline{b, old, unknown, {Product: verifytest.Product, Profile: "own", State: api.BaselineInForce}}})
}

func (s *server) baseline(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("profile") != "board" {
		problem(w, http.StatusNotFound, reason.NotFound, "there is no such baseline")
		return
	}
	answer(w, shownBaseline(artifacts.PlatformBaseline{Product: verifytest.Product, Profile: "board", Generation: 2, Sets: []artifacts.BaselineSet{{Name: "bios-2", Source: artifacts.BaselineVendor}}}))
}

// dryRun shows two pages of one device each.
func (s *server) dryRun(w http.ResponseWriter, r *http.Request) {
	out := api.DryRun{Release: artifacts.ReleaseName(r.PathValue("product"), r.PathValue("version"))}
	if r.URL.Query().Get("after") == "" {
		out.Devices, out.Predictable, out.Next = []api.DryRunDevice{{Device: "aa", HardwareID: "rev-a", Runs: "thermostat/1.0.0", Predictable: true,
			PCRs: []reference.PredictedPCR{{Index: 4, Owned: true, Changes: true, Then: digest.Of([]byte("4"))}, {Index: 7}}}}, 1, "aa"
	} else {
		out.Devices = []api.DryRunDevice{{Device: "bb", HardwareID: "rev-b", Problems: []reference.Problem{{Kind: reference.OtherHardware, Detail: "no component for rev-b"}}}}
	}
	answer(w, out)
}
