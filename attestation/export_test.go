package attestation

import (
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
)

// RuleIDs names every rule that can be dropped, in the order of the table.
func RuleIDs() []string {
	var ids []string
	for _, r := range rules {
		if r.id != "" {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// AppraiseWithout is Appraise without one rule.
func AppraiseWithout(id string, in Input) (Verdict, error) {
	var rest []rule
	for _, r := range rules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return appraise(in, rest)
}

// RuleRow is what a page says about one rule.
type RuleRow struct{ ID, Stage, About string }

// RuleRows lists the rules that can be dropped, in the order of the table.
func RuleRows() []RuleRow {
	stages := map[stage]string{stageInput: "input", stageAuthentic: "authentic", stageBoot: "state", stageState: "state"}
	var rows []RuleRow
	for _, r := range rules {
		if r.id != "" {
			rows = append(rows, RuleRow{r.id, stages[r.stage], r.about})
		}
	}
	return rows
}

// Heard appraises in and tells which rule gave which reasons; a rule that ended it with an error gave "".
func Heard(in Input) map[string][]reason.Reason {
	heard := map[string][]reason.Reason{}
	var watched []rule
	for _, r := range rules {
		check := r.check
		r.check = func(a *appraisal) bool {
			before, undecided := len(a.findings), a.undecided
			passed := check(a)
			for _, f := range a.findings[before:] {
				heard[r.id] = append(heard[r.id], f.Reason)
			}
			if a.undecided != undecided {
				heard[r.id] = append(heard[r.id], "")
			}
			return passed
		}
		watched = append(watched, r)
	}
	_, _ = appraise(in, watched)
	return heard
}

// Fill gives c an entry that device made; different n give different ones.
func Fill(c *Cache, device string, n int) {
	c.add(entry{key: digest.Of(fmt.Append(nil, n)), device: device})
}
