package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
)

//go:embed report.html
var reportTemplate string

// page is what the template shows. It holds no script and loads nothing.
type page struct {
	Result   verify.Result
	Report   *api.Report
	SHA256   digest.SHA256
	Verdicts []verdictRow
	Percent  int // of the devices in scope
}

type verdictRow struct {
	api.Appraisal
	Parsed attestation.Verdict
}

// renderHTML makes the page of a verified report.
func renderHTML(r verify.Result, sum digest.SHA256) ([]byte, error) {
	p := page{Result: r, Report: r.Report, SHA256: sum}
	for _, a := range r.Report.Appraisals {
		row := verdictRow{Appraisal: a}
		if err := json.Unmarshal(a.Verdict, &row.Parsed); err != nil {
			return nil, fmt.Errorf("cannot read verdict %d: %w", a.Number, err)
		}
		p.Verdicts = append(p.Verdicts, row)
	}
	if n := r.Coverage.InScope; n > 0 {
		p.Percent = 100 * r.Coverage.Proven / n
	}
	t, err := template.New("report").Funcs(template.FuncMap{
		"time":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") },
		"when":    when,
		"explain": func(r reason.Reason) string { return explain(r) },
		"reasons": func(rs []reason.Reason) string { return words(rs) },
		"release": func(r artifacts.Release) string { return artifacts.ReleaseName(r.Product, r.Version) },
		"withdrawn": func(x artifacts.Release) bool {
			return slices.Contains(r.Withdrawn, artifacts.ReleaseName(x.Product, x.Version))
		},
		"people": func(list []api.Approval) string {
			var out []string
			for _, a := range list {
				out = append(out, fmt.Sprintf("%s (%s)", a.Person, moment(a.At)))
			}
			return strings.Join(out, ", ")
		},
	}).Parse(reportTemplate)
	if err != nil {
		return nil, fmt.Errorf("cannot read the page's template: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, fmt.Errorf("cannot render the page: %w", err)
	}
	return out.Bytes(), nil
}
