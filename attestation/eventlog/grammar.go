package eventlog

import (
	"fmt"
	"slices"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Violation says that a log breaks one rule.
type Violation struct {
	Rule   string // name of the rule; Rules lists them
	PCR    int    // the register that the claim is about
	Event  int    // index of the event; -1 when no single event can be named
	Detail string // one sentence in plain words
}

// Violations lists where the log contradicts itself or the specification: what was measured is not what the log says, an
// event stands where none of its type may stand, a part that can be there once is there twice, or data has no form. The
// TPM does not hash types, order between registers or most data, so a lie there replays to the quoted values; this is
// where it shows. No genuine log that is known to the project has one. Sorted by event.
func (l Log) Violations() []Violation { return l.check(rules()) }

// Departures lists where the log is not one that PC Client firmware writes: what such firmware always measures is
// missing, or an event has a type that the profile does not list. They prove no attack: a machine of another kind has
// them too. But hiding an event under an unknown type, or leaving a separator out, shows here and nowhere else. Sorted
// by event; those without one come last.
func (l Log) Departures() []Violation { return l.check(profileRules()) }

// Rule is the name of a rule and what it demands.
type Rule struct{ Name, Demands string }

// Rules lists the rules behind Parse (for EV_NO_ACTION), Violations and Departures.
func Rules() (parse, violations, departures []Rule) {
	for _, r := range noteRules() {
		parse = append(parse, Rule{r.name, "refused: " + r.what})
	}
	for _, r := range rules() {
		violations = append(violations, Rule{r.name, r.demands})
	}
	for _, r := range profileRules() {
		departures = append(departures, Rule{r.name, r.demands})
	}
	return parse, violations, departures
}

// rule is one row of the grammar. event looks at one extended event and at what the log held before it, and returns a
// sentence when the rule is broken; end looks at the whole log.
type rule struct {
	name    string
	demands string
	event   func(s *scan, e *measured) string
	end     func(s *scan) []Violation
}

// measured is an extended event with what several rules need to know of it.
type measured struct {
	Event
	hash        digest.SHA256 // of the data
	variable    Variable
	hasVariable bool // variable was read
}

// scan is what the events so far have shown. Rules read it; only note writes it.
type scan struct {
	events     [MaxPCR + 1]int // extended, per register
	separators [MaxPCR + 1]int
	keys       [len(keyVariables)]int // how often each was measured as configuration into PCR 7
	scrtm      bool                   // a version or H-CRTM event in PCR 0
	exiting    bool                   // the loader has called ExitBootServices
	exited     bool                   // and the firmware has said that it was successful
}

// check walks over the log once: the work per event is bounded by a constant and the length of its data.
func (l Log) check(rules []rule) []Violation {
	var out []Violation
	var s scan
	m := new(measured)
	for _, e := range l.Events {
		if !e.Extends() || e.PCR < 0 || e.PCR > MaxPCR {
			continue
		}
		*m = measured{Event: e, hash: digest.Of(e.Data)}
		m.variable, m.hasVariable = e.Variable()
		for _, r := range rules {
			if r.event == nil {
				continue
			}
			if detail := r.event(&s, m); detail != "" {
				out = append(out, Violation{r.name, e.PCR, e.Index, fmt.Sprintf("event %d (%s) in PCR %d: %s", e.Index, e.TypeName(), e.PCR, detail)})
			}
		}
		s.note(m)
	}
	for _, r := range rules {
		if r.end != nil {
			for _, v := range r.end(&s) {
				v.Rule, v.Event = r.name, -1
				out = append(out, v)
			}
		}
	}
	return out
}

// note remembers e.
func (s *scan) note(e *measured) {
	s.events[e.PCR]++
	switch {
	case e.Type == TypeSeparator:
		s.separators[e.PCR]++
	case e.PCR == 0 && (e.Type == TypeSCRTMVersion || e.Type == TypeEFIHCRTM):
		s.scrtm = true
	case e.PCR == exitPCR && e.Type == TypeEFIAction && string(e.Data) == exitCalled:
		s.exiting = true
	case e.PCR == exitPCR && e.Type == TypeEFIAction && string(e.Data) == exitDone:
		s.exited = true
	}
	if k, ok := keyVariable(e); ok && e.PCR == secureBootPCR {
		s.keys[k]++
	}
}

// Registers that the grammar speaks about.
const (
	lastFirmwarePCR = 7
	secureBootPCR   = 7
	exitPCR         = 5
	lastStaticPCR   = 15
)

// What firmware measures when the loader hands the machine to the operating system (section 3.3.4.5, table of actions).
const (
	exitCalled = "Exit Boot Services Invocation"
	exitFailed = "Exit Boot Services Returned with Failure"
	exitDone   = "Exit Boot Services Returned with Success"
)

type keyRow struct {
	name string
	guid GUID
}

// keyVariables decide about Secure Boot; firmware measures each once, as configuration, into PCR 7.
var keyVariables = [...]keyRow{
	{"SecureBoot", efiGlobal}, {"PK", efiGlobal}, {"KEK", efiGlobal}, {"db", efiSecurity}, {"dbx", efiSecurity},
}

// keyVariable finds the row of keyVariables that e measures.
func keyVariable(e *measured) (int, bool) {
	if e.Type != TypeEFIVariableConfig || !e.hasVariable {
		return 0, false
	}
	k := slices.Index(keyVariables[:], keyRow{e.variable.Name, e.variable.GUID})
	return k, k >= 0
}
