package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
)

func (a *app) appraiseList() *cobra.Command {
	c := &cobra.Command{Use: "list DEVICE|REPORT", Short: "List the stored appraisals of a device, the newest first, or those in a report", Args: cobra.ExactArgs(1)}
	limit := c.Flags().Int("limit", 50, "at most `N` appraisals")
	c.RunE = a.run("list the appraisals", func(ctx context.Context, args []string) error {
		id, err := identity.ParseDeviceID(args[0])
		if err == nil {
			return a.listOfDevice(ctx, id.String(), *limit)
		}
		if _, statErr := os.Stat(args[0]); errors.Is(statErr, fs.ErrNotExist) {
			return fmt.Errorf("%q is no file, and no device: %w", args[0], err)
		}
		return a.listOfReport(args[0], *limit)
	})
	return c
}

func (a *app) listOfDevice(ctx context.Context, device string, limit int) error {
	client, err := a.server.client()
	if err != nil {
		return err
	}
	list := []api.AppraisalSummary{}
	for p, err := range api.All(ctx, func(ctx context.Context, after string) (api.Page[api.AppraisalSummary], error) {
		return client.Appraisals(ctx, device, after)
	}) {
		if err != nil {
			return err
		}
		if len(list) == limit {
			break
		}
		list = append(list, p)
	}
	return a.print(list, func(w io.Writer) error { return showAppraisals(w, list) })
}

// listOfReport lists what a report says. It verifies nothing.
func (a *app) listOfReport(path string, limit int) error {
	doc, err := readFile(path, api.MaxReportBytes)
	if err != nil {
		return fmt.Errorf("cannot read report: %w", err)
	}
	_, report, err := verify.Decode(doc)
	if err != nil {
		return err
	}
	list := []api.AppraisalSummary{}
	for _, p := range report.Appraisals[:min(max(limit, 0), len(report.Appraisals))] {
		row, err := summary(p)
		if err != nil {
			return err
		}
		list = append(list, row)
	}
	if err := a.print(list, func(w io.Writer) error { return showAppraisals(w, list) }); err != nil {
		return err
	}
	note("%d of %d appraisals; this is what the report says, and 'cordonctl verify' checks it", len(list), len(report.Appraisals))
	return nil
}

// summary is an appraisal of a report as the server lists its own.
func summary(p api.Appraisal) (api.AppraisalSummary, error) {
	var verdict attestation.Verdict
	if err := json.Unmarshal(p.Verdict, &verdict); err != nil {
		return api.AppraisalSummary{}, fmt.Errorf("%w: the verdict of appraisal %d: %w", verify.ErrFormat, p.Number, err)
	}
	return api.AppraisalSummary{
		Number: p.Number, ID: verify.AppraisalID(p), Device: p.Device, At: p.At, Outcome: string(verdict.Outcome), Release: verdict.Release,
		Reasons: verdict.Reasons(), Verifier: p.Verifier, PolicySHA256: p.PolicySHA256, BaselineSHA256: p.BaselineSHA256,
		Evidence: verdict.Evidence, Repeats: p.Repeats,
	}, nil
}

func showAppraisals(w io.Writer, list []api.AppraisalSummary) error {
	var rows [][]string
	for _, p := range list {
		what := p.Release
		if len(p.Reasons) > 0 {
			what = words(p.Reasons)
		}
		kind := "new quote"
		if !p.Repeats.IsZero() {
			kind = "stored Evidence again"
		}
		rows = append(rows, []string{strconv.FormatInt(p.Number, 10), moment(p.At), p.Device, p.Outcome, what, kind, p.ID.String()})
	}
	return table(w, []string{"NUMBER", "AT", "DEVICE", "OUTCOME", "RELEASE OR REASONS", "OF", "ID"}, rows)
}
