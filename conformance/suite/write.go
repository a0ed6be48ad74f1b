package suite

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// WriteJSON writes the report as one JSON document.
func (r Report) WriteJSON(w io.Writer) error {
	if err := json.MarshalWrite(w, r, json.Deterministic(true), jsontext.WithIndent(" ")); err != nil {
		return fmt.Errorf("cannot write report: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// WriteTable writes the report for people.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tNAME\tROAD\tEXPECTED\tGOT\tJUDGEMENT")
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", row.Case, row.Name, row.Road, said(row.Outcome, row.Reasons), said(row.Got, row.Said), row.Judgement)
	}
	fmt.Fprintln(t, "\nNOT ASKABLE\tNAME\tWHY")
	for _, n := range r.NotAskable {
		fmt.Fprintf(t, "%s\t%s\t%s\n", n.Case, n.Name, n.Why)
	}
	fmt.Fprintln(t, "\nDEVICE TO RETIRE\tUSED FOR")
	for _, d := range r.Devices {
		fmt.Fprintf(t, "%s\t%s\n", d.ID, d.Used)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("cannot write report: %w", err)
	}
	n := r.Count
	_, err := fmt.Fprintf(w, "\n%d cases: %d right, %d with other reasons, %d undecided, %d wrongly refused, %d wrongly accepted; %d cannot be asked over the device API\n",
		len(r.Rows), n[vectors.Right], n[vectors.OtherReasons], n[vectors.Undecided], n[vectors.WronglyRefused], n[vectors.WronglyAccepted], len(r.NotAskable))
	return err
}

// said is an outcome with its reasons; what the server says is shown as text that cannot steer a terminal.
func said(outcome string, reasons []reason.Reason) string {
	var out []string
	for _, why := range reasons {
		text := string(why)
		if _, known := reason.Lookup(why); !known {
			text = fmt.Sprintf("%.64q", text)
		}
		out = append(out, text)
	}
	return strings.TrimSpace(outcome + " " + strings.Join(out, " "))
}
