package suite

import (
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// quoteAlone is the note of a row whose Evidence was affirmed and led to nothing.
const quoteAlone = "the Evidence was affirmed"

// Roads of a Row.
const (
	roadEnroll   = "enroll"
	roadPoll     = "poll"
	roadArtifact = "artifact"
)

// refusing is the row of an enrollment that must be refused; an empty reason leaves open which one it is.
func refusing(id, name, about string, why reason.Reason) Row {
	row := Row{Case: id, Name: name, About: about, Road: roadEnroll, Outcome: vectors.Refused}
	if why != "" {
		row.Reasons = []reason.Reason{why}
	}
	return row
}

// rowOf is the row of a case of evidencetest.
func rowOf(c evidencetest.Case) Row {
	return Row{Case: c.ID, Name: c.Name, About: c.About, Road: roadPoll, Outcome: string(c.Outcome()), Reasons: c.Reasons}
}

// answered completes a row whose request is either refused by a problem document or accepted.
func (row Row) answered(a answer) Row {
	row.Status = a.status
	switch {
	case a.status >= 200 && a.status < 300:
		row.Got = vectors.Affirmed
	case a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests:
		row.Got = vectors.Refused
		if p := a.problem(); p.Reason != "" {
			row.Said = []reason.Reason{p.Reason}
		}
	default:
		row.Got = vectors.Undecidable
	}
	return row.judged()
}

// polled completes a row with the answer to a poll: what counts is what the device has from it.
func (row Row) polled(a answer) Row {
	if a.status != http.StatusOK {
		if row = row.answered(a); a.status == http.StatusNoContent { // "nothing applies" says nothing about the Evidence
			row.Got = vectors.Undecidable
		}
		return row.judged()
	}
	var p wire.PollAnswer
	row.Status = a.status
	if err := json.Unmarshal(a.body, &p); err != nil {
		row.Got, row.Note = vectors.Undecidable, "the answer cannot be read"
		return row.judged()
	}
	for _, refusal := range p.Refusal {
		row.Said = append(row.Said, refusal.Reason)
	}
	switch {
	case p.Verdict == vectors.Affirmed || p.LeaseUntil > 0 || len(p.Certificate) > 0:
		row.Got = vectors.Affirmed
	case p.Verdict == vectors.Refused || p.EvidenceWanted != "" || len(p.Refusal) > 0:
		row.Got = vectors.Refused
	default:
		row.Got = vectors.Undecidable
	}
	if p.EvidenceWanted == wire.WantLog {
		row.Said = append(row.Said, reason.EventlogMissing) // the polite way to say it
	}
	if row.Outcome == vectors.Refused && row.Got == vectors.Affirmed {
		if row.Note = quoteAlone; p.LeaseUntil > 0 || len(p.Certificate) > 0 {
			row.Note = "with a lease or a certificate"
		}
	}
	return row.judged()
}

// judged compares outcome first and reasons second. A device hears more reasons than those of its Evidence, such as that
// it is quarantined: all of the case's have to be among them.
func (row Row) judged() Row {
	missing := slices.ContainsFunc(row.Reasons, func(r reason.Reason) bool { return !slices.Contains(row.Said, r) })
	switch {
	case row.Got == row.Outcome && row.Got == vectors.Refused && missing:
		row.Judgement = vectors.OtherReasons
	case row.Got == row.Outcome:
		row.Judgement = vectors.Right
	case row.Got == vectors.Affirmed:
		row.Judgement = vectors.WronglyAccepted
	case row.Got == vectors.Refused && row.Outcome == vectors.Affirmed:
		row.Judgement = vectors.WronglyRefused
	default:
		row.Judgement = vectors.Undecided
	}
	return row
}
