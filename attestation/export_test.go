package attestation

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
