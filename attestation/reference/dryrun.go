package reference

import (
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
)

// Obstacle is a kind of reason why nobody can tell what a device will measure. The set is closed.
type Obstacle string

// The obstacles.
const (
	NoLog           Obstacle = "no_log"           // no boot of the device is stored
	NoBaseline      Obstacle = "no_baseline"      // nobody has signed what its platform measures
	OtherPlatform   Obstacle = "other_platform"   // its firmware is not that of the platform
	OtherHardware   Obstacle = "other_hardware"   // the release has no measured component for its hardware id
	OtherBootPath   Obstacle = "other_boot_path"  // it starts its image in another way than the release is made for
	UnmanagedEvents Obstacle = "unmanaged_events" // something else measures into the PCRs that the image owns
	LogDiffers      Obstacle = "log_differs"      // the stored log does not lead to the values that it quoted
	NothingProven   Obstacle = "nothing_proven"   // it has proven no release that could be taken out of its log
)

// Problem is one Obstacle on one device, in plain words.
type Problem struct {
	Kind   Obstacle `json:"kind"`
	Detail string   `json:"detail"`
}

// LastBoot is the last boot that a device proved.
type LastBoot struct {
	Log      eventlog.Log
	Quoted   map[int]digest.SHA256
	Release  string    // the release that it was; for people
	Values   Values    // its Reference Values
	Baseline *Baseline // of the device's platform; nil when none is signed
}

// Prediction is what a device will measure when it boots another release. It holds when Problems is empty.
type Prediction struct {
	PCRs     []PredictedPCR `json:"pcrs"` // every register that was quoted or that the release owns, rising
	Problems []Problem      `json:"problems,omitempty"`
}

// PredictedPCR is one register before and after.
type PredictedPCR struct {
	Index   int           `json:"index"`
	Now     digest.SHA256 `json:"now"`     // as the device quoted it last; zeros when it did not
	Then    digest.SHA256 `json:"then"`    // with the release
	Owned   bool          `json:"owned"`   // the image fills it; the others keep their value
	Changes bool          `json:"changes"` // Then differs from Now
}

// DryRun takes the events of the release that a device runs out of the log of its last boot, and puts those of to in. What
// the image does not own stays as it was. Everything that speaks against the prediction is collected: a device with a
// Problem may well be able to update, but nobody can promise what it will measure.
func DryRun(boot LastBoot, to Values) Prediction {
	boot.Values, to = boot.Values.Seen(boot.Log), to.Seen(boot.Log) // the device keeps its Secure Boot state and its loader
	out := Prediction{PCRs: []PredictedPCR{}, Problems: boot.problems(to)}
	owned := map[int]PCR{}
	for _, p := range to.PCRs {
		owned[p.Index] = p
	}
	for index := range eventlog.MaxPCR + 1 {
		now, quoted := boot.Quoted[index]
		p, owns := owned[index]
		if !quoted && !owns {
			continue
		}
		then := now
		if owns {
			then = p.Value
			extra, problem := boot.extra(p)
			out.Problems = append(out.Problems, problem...)
			for _, e := range extra {
				then = eventlog.Extend(then, e.Digest)
			}
		}
		out.PCRs = append(out.PCRs, PredictedPCR{Index: index, Now: now, Then: then, Owned: owns, Changes: then != now})
	}
	return out
}

// problems are those that are not of one register that the image owns.
func (b LastBoot) problems(to Values) []Problem {
	var out []Problem
	if b.Values.Boot != to.Boot {
		out = append(out, Problem{OtherBootPath, fmt.Sprintf("it boots %s by the path %q, and the release is made for %q", b.Release, b.Values.Boot, to.Boot)})
	}
	if loader, other := b.otherLoader(to); other {
		out = append(out, Problem{OtherBootPath, fmt.Sprintf("the firmware started %s, which is no boot loader that the release names", loader)})
	}
	if b.Baseline == nil {
		out = append(out, Problem{NoBaseline, "nobody has signed what its platform measures"})
	} else {
		for _, d := range b.Baseline.Match(b.Log, b.Quoted) {
			out = append(out, Problem{OtherPlatform, d.Detail})
		}
	}
	replayed := b.Log.Replay()
	for index := range eventlog.MaxPCR + 1 {
		now, quoted := b.Quoted[index]
		value, measured := replayed[index]
		if !measured {
			value = eventlog.ResetValue(index)
		}
		if quoted && now != value {
			out = append(out, Problem{LogDiffers, fmt.Sprintf("the stored log does not lead to the value of PCR %d that it quoted", index)})
		}
	}
	return out
}

// otherLoader reports whether the device starts a boot loader that the release does not know, and which.
func (b LastBoot) otherLoader(to Values) (loader string, other bool) {
	if to.Boot != BootSystemdBoot {
		return "", false
	}
	started := eventsOf(b.Log, pcrPrograms)
	if len(started) <= loaderEvent {
		return "nothing", true
	}
	return fmt.Sprintf("sha256 %s (%s)", started[loaderEvent].Digest, started[loaderEvent].Explain()), !to.starts(Shape{}, started[loaderEvent].Digest)
}

// extra lists what the log has in a register of the image beside the events of the release that it booted. When they come
// after those, they can be put behind the new release's as well.
func (b LastBoot) extra(p PCR) (behind []eventlog.Event, problems []Problem) {
	events := eventsOf(b.Log, p.Index)
	var known []Event
	if i := slices.IndexFunc(b.Values.PCRs, func(v PCR) bool { return v.Index == p.Index }); i >= 0 {
		known = b.Values.PCRs[i].Events
	}
	for i, want := range known {
		if i >= len(events) || events[i].Digest != want.Digest {
			d := PCR{Index: p.Index, Events: known, Value: replay(known)}.explain(events, b.Quoted[p.Index])
			kind := UnmanagedEvents
			if p.Index == pcrPrograms {
				kind = OtherBootPath
			}
			return nil, []Problem{{kind, fmt.Sprintf("its log does not show %s: %s", b.Release, d.Detail)}}
		}
	}
	for i, e := range events[len(known):] {
		if i == maxSummary {
			problems = append(problems, Problem{UnmanagedEvents, fmt.Sprintf("PCR %d: and %d more", p.Index, len(events)-len(known)-i)})
			break
		}
		problems = append(problems, Problem{UnmanagedEvents, fmt.Sprintf("PCR %d: event %d, %s (sha256 %s), is none of %s",
			p.Index, e.Index, e.Explain(), e.Digest, b.Release)})
	}
	return events[len(known):], problems
}
