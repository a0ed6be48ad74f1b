package identity

// AKRuleIDs names every rule of CheckAK.
func AKRuleIDs() []string {
	var ids []string
	for _, r := range akRules {
		ids = append(ids, r.id)
	}
	return ids
}

// CheckAKWithout is CheckAK without one rule.
func CheckAKWithout(id string, ak Public) []Problem {
	var rest []akRule
	for _, r := range akRules {
		if r.id != id {
			rest = append(rest, r)
		}
	}
	return checkAK(ak, rest)
}
