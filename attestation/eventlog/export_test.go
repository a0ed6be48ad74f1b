package eventlog

import "slices"

// ParseWithout is Parse with the rule of that name taken out.
func ParseWithout(b []byte, name string) (Log, error) {
	return parse(b, slices.DeleteFunc(slices.Clone(noteRules[:]), func(r noteRule) bool { return r.name == name }))
}

// ViolationsWithout is Violations with the rule of that name taken out.
func ViolationsWithout(l Log, name string) []Violation { return l.check(without(violationRules, name)) }

// DeparturesWithout is Departures with the rule of that name taken out.
func DeparturesWithout(l Log, name string) []Violation {
	return l.check(without(profileRules[:], name))
}

func without(rules []rule, name string) []rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r rule) bool { return r.name == name })
}
