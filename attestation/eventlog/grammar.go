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
func (l Log) Violations() []Violation { return l.check(violationRules) }

// Departures lists where the log is not one that PC Client firmware writes: what such firmware always measures is
// missing, or an event has a type that the profile does not list. They prove no attack: a machine of another kind has
// them too. But hiding an event under an unknown type, or leaving a separator out, shows here and nowhere else. Sorted
// by event; those without one come last.
func (l Log) Departures() []Violation { return l.check(profileRules[:]) }

// Reading is what one pass over a log shows.
type Reading struct {
	Replayed   Replayed    // as Log.Replay
	Violations []Violation // as Log.Violations
	Departures []Violation // as Log.Departures
}

// Read replays l and asks all of its rules in one pass, which hashes the data of an event once at most.
func (l Log) Read() Reading {
	r := Reading{Replayed: l.registers()}
	l.walk(&r.Replayed, list{violationRules, &r.Violations}, list{profileRules[:], &r.Departures})
	return r
}

// Rule is the name of a rule and what it demands.
type Rule struct{ Name, Demands string }

// Rules lists the rules behind Parse (for EV_NO_ACTION), Violations and Departures.
func Rules() (parse, violations, departures []Rule) {
	for _, r := range noteRules {
		parse = append(parse, Rule{r.name, "refused: " + r.what})
	}
	for _, r := range violationRules {
		violations = append(violations, Rule{r.name, r.demands})
	}
	for _, r := range profileRules {
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
	*Event
	variable    Variable
	hasVariable bool          // variable was read
	sum         digest.SHA256 // of the data, when hashed
	hashed      bool
}

// hash is the SHA-256 of the data, computed when the first rule asks.
func (e *measured) hash() digest.SHA256 {
	if !e.hashed {
		e.sum, e.hashed = digest.Of(e.Data), true
	}
	return e.sum
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

// list is some rules, and where to what breaks them goes.
type list struct {
	rules []rule
	out   *[]Violation
}

// check asks some rules of l.
func (l Log) check(rules []rule) (out []Violation) {
	l.walk(nil, list{rules, &out})
	return out
}

// walk goes over the log once, replays it into registers, if there are some, and asks lists of rules: the work per event
// is bounded by a constant and the length of its data.
func (l Log) walk(registers *Replayed, lists ...list) {
	s, m := new(scan), new(measured)
	for i := range l.Events {
		e := &l.Events[i]
		if !e.counts() {
			continue
		}
		if registers != nil {
			registers.extend(e)
		}
		*m = measured{Event: e}
		m.variable, m.hasVariable = e.Variable()
		for _, rules := range lists {
			rules.event(s, m)
		}
		s.note(m)
	}
	for _, rules := range lists {
		rules.end(s)
	}
}

func (l list) event(s *scan, e *measured) {
	for i := range l.rules {
		r := &l.rules[i]
		if r.event == nil {
			continue
		}
		if detail := r.event(s, e); detail != "" {
			*l.out = append(*l.out, Violation{r.name, e.PCR, e.Index, fmt.Sprintf("event %d (%s) in PCR %d: %s", e.Index, e.TypeName(), e.PCR, detail)})
		}
	}
}

func (l list) end(s *scan) {
	for _, r := range l.rules {
		if r.end == nil {
			continue
		}
		for _, v := range r.end(s) {
			v.Rule, v.Event = r.name, -1
			*l.out = append(*l.out, v)
		}
	}
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
