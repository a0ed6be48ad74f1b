package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
	"github.com/cordon-ota/cordon/client/wire"
)

func (a *app) reportCommand() *cobra.Command {
	c := &cobra.Command{Use: "report", Short: "Get a signed report of a period, to be checked offline", Args: cobra.NoArgs}
	from := c.Flags().String("from", "", "begin of the period, RFC 3339 or 2006-01-02 (UTC)")
	to := c.Flags().String("to", "", "end of the period; the default is now")
	product := c.Flags().String("product", "", "only this `PRODUCT`")
	out := c.Flags().String("out", "", "new `FILE` for the report, byte for byte")
	html := c.Flags().String("html", "", "new `FILE` for people; the report is verified first")
	trust := c.Flags().String("trust", "", "trust bundle `FILE`; --html needs it")
	required(c, "from", "out")
	c.RunE = a.run("make the report", func(ctx context.Context, _ []string) error {
		query, err := period(*from, *to, *product)
		if err != nil {
			return err
		}
		if *html != "" && *trust == "" {
			return fmt.Errorf("%w: --html shows a verified report only", errNoTrust)
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		doc, err := client.Report(ctx, query)
		if err != nil {
			return err
		}
		if err := writeNew(*out, doc, 0o644, false); err != nil {
			return fmt.Errorf("cannot write report: %w", err)
		}
		if *html != "" {
			if err := renderFile(*html, *trust, doc); err != nil {
				return err
			}
		}
		made := map[string]string{"file": *out, "sha256": digest.Of(doc).String(), "html": *html}
		return a.print(made, func(w io.Writer) error {
			facts(w, "report", *out, "sha256", made["sha256"], "html", *html)
			return nil
		})
	})
	return c
}

func period(from, to, product string) (api.ReportQuery, error) {
	q := api.ReportQuery{Product: product, To: time.Now()}
	var err error
	if q.From, err = parseTime(from); err != nil {
		return q, fmt.Errorf("%w: --from: %w", errUsage, err)
	}
	if to != "" {
		if q.To, err = parseTime(to); err != nil {
			return q, fmt.Errorf("%w: --to: %w", errUsage, err)
		}
	}
	if !q.From.Before(q.To) {
		return q, fmt.Errorf("%w: the period ends before it begins", errUsage)
	}
	return q, nil
}

func parseTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither RFC 3339 nor a day such as 2026-11-22", s)
	}
	return t, nil
}

// renderFile verifies doc and writes the page that people read.
func renderFile(path, trustPath string, doc []byte) error {
	trust, err := readTrust(trustPath)
	if err != nil {
		return err
	}
	result := verify.Report(doc, trust, verify.Options{})
	if err := conclude(result); errors.Is(err, errFailed) {
		return err
	}
	page, err := renderHTML(result, digest.Of(doc))
	if err != nil {
		return err
	}
	if err := writeNew(path, page, 0o644, false); err != nil {
		return fmt.Errorf("cannot write page: %w", err)
	}
	return nil
}

func readTrust(path string) (wire.Trust, error) {
	if path == "" {
		return wire.Trust{}, errNoTrust
	}
	b, err := readFile(path, wire.MaxTrustBytes)
	if err != nil {
		return wire.Trust{}, fmt.Errorf("cannot read trust bundle: %w", err)
	}
	return wire.DecodeTrust(b)
}

func (a *app) verifyCommand() *cobra.Command {
	c := &cobra.Command{Use: "verify REPORT", Short: "Check a report offline: appraise all its Evidence again", Args: cobra.ExactArgs(1)}
	trustPath := c.Flags().String("trust", "", "trust bundle `FILE`, from elsewhere than the report")
	ekRoots := c.Flags().String("ek-roots", "", "PEM `FILE` with the TPM manufacturers' CA certificates that you believe")
	kept := c.Flags().StringArray("checkpoint", nil, "`FILE` with a checkpoint of the log that you kept or that a witness gave you; may be repeated")
	html := c.Flags().String("html", "", "new `FILE` with the verified report for people")
	c.RunE = a.run("verify the report", func(_ context.Context, args []string) error {
		trust, err := readTrust(*trustPath)
		if err != nil {
			return err
		}
		options, err := verifyOptions(*ekRoots)
		if err != nil {
			return err
		}
		if options.Checkpoints, err = keptCheckpoints(*kept); err != nil {
			return err
		}
		doc, err := readFile(args[0], api.MaxReportBytes)
		if err != nil {
			return fmt.Errorf("cannot read report: %w", err)
		}
		result := verify.Report(doc, trust, options)
		if err := a.print(result, func(w io.Writer) error { return showResult(w, result) }); err != nil {
			return err
		}
		if *html != "" && result.Outcome != verify.Failed {
			page, err := renderHTML(result, digest.Of(doc))
			if err != nil {
				return err
			}
			if err := writeNew(*html, page, 0o644, false); err != nil {
				return fmt.Errorf("cannot write page: %w", err)
			}
		}
		return conclude(result)
	})
	return c
}

func verifyOptions(ekRoots string) (verify.Options, error) {
	if ekRoots == "" {
		return verify.Options{}, nil
	}
	b, err := readFile(ekRoots, maxSmallFile)
	if err != nil {
		return verify.Options{}, fmt.Errorf("cannot read TPM manufacturers: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return verify.Options{}, fmt.Errorf("%w: %q holds no certificate", errUsage, ekRoots)
	}
	return verify.Options{EKRoots: pool}, nil
}

func keptCheckpoints(paths []string) ([]verify.Checkpoint, error) {
	var out []verify.Checkpoint
	for _, path := range paths {
		raw, err := readFile(path, tlog.MaxCheckpointBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read checkpoint: %w", err)
		}
		out = append(out, verify.Checkpoint{Name: path, Raw: raw})
	}
	return out, nil
}

// conclude turns an outcome into the program's.
func conclude(r verify.Result) error {
	switch r.Outcome {
	case verify.Verified:
		return nil
	case verify.Undecided:
		return errUndecided
	}
	for _, s := range r.Steps {
		if s.Done && !s.OK {
			return fmt.Errorf("%w at step %s", errFailed, s.Name)
		}
	}
	return errFailed
}

func showResult(w io.Writer, r verify.Result) error {
	if r.Report != nil {
		fmt.Fprintf(w, "report of %s, %s to %s, made %s\n", plain(r.Report.Server), moment(r.Report.From), moment(r.Report.To), moment(r.Report.CreatedAt))
	}
	for _, s := range r.Steps {
		mark := "ok  "
		switch {
		case !s.Done:
			mark = "-   "
		case !s.OK:
			mark = "FAIL"
		}
		fmt.Fprintf(w, "%s %-10s %6d  %s\n", mark, s.Name, s.Checked, s.About)
		for _, f := range s.Findings {
			fmt.Fprintf(w, "       %s\n", plain(f))
		}
		if s.More > 0 {
			fmt.Fprintf(w, "       and %d more\n", s.More)
		}
	}
	if r.Report == nil {
		fmt.Fprintf(w, "outcome: %s\n", r.Outcome)
		return nil
	}
	c := r.Coverage
	fmt.Fprintf(w, "coverage: %d devices in scope; %d proven in the period, %d stale, %d never, %d excluded\n", c.InScope, c.Proven, c.Stale, c.Never, len(c.Excluded))
	list(w, "withdrawn by the offline role:", r.Withdrawn)
	list(w, "had to be believed:", r.Trusted)
	list(w, "could not be checked:", r.Undecided)
	fmt.Fprintf(w, "outcome: %s\n", r.Outcome)
	return nil
}

func list(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, title)
	for _, line := range lines {
		fmt.Fprintf(w, "  - %s\n", plain(line))
	}
}

func (a *app) eventlogCommand() *cobra.Command {
	c := &cobra.Command{Use: "eventlog FILE", Short: "Explain a TCG event log in plain words, and replay it", Args: cobra.ExactArgs(1),
		Long: `Explain a TCG event log in plain words, and replay it. On Linux the log of this boot is
/sys/kernel/security/tpm0/binary_bios_measurements. The program exits 1 when it cannot read the log, such as one with SHA-1
digests only. What the rules for logs find is listed, and does not change the exit code.`}
	c.RunE = a.run("read the event log", func(_ context.Context, args []string) error {
		b, err := readFile(args[0], 4*eventlog.MaxBytes) // Parse says what is too large
		if err != nil {
			return err
		}
		log, err := eventlog.Parse(b)
		if err != nil {
			return err
		}
		view := eventlog.NewView(log)
		return a.print(view, func(w io.Writer) error { return showLog(w, view) })
	})
	return c
}

func showLog(w io.Writer, v eventlog.View) error {
	var rows [][]string
	for _, e := range v.Events {
		rows = append(rows, []string{strconv.Itoa(e.Index), strconv.Itoa(e.PCR), e.Type, e.Digests.SHA256.String()[:16], e.Explanation})
	}
	if err := table(w, []string{"EVENT", "PCR", "TYPE", "SHA-256", "WHAT IT SAYS"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for pcr := range eventlog.MaxPCR + 1 {
		if value, ok := v.PCRs.SHA256[pcr]; ok {
			rows = append(rows, []string{strconv.Itoa(pcr), value.String()})
		}
	}
	note("a log is a claim: it counts only if a quote shows the same PCRs")
	if err := table(w, []string{"PCR", "REPLAYED VALUE (SHA-256)"}, rows); err != nil {
		return err
	}
	list(w, "the log contradicts itself or the specification; a device that proves it goes into quarantine, eventlog_mismatch:", logFindings(v.Violations))
	list(w, "unlike the log of PC firmware; a device that shows it is held, eventlog_unexplained:", logFindings(v.Departures))
	return nil
}

func logFindings(findings []eventlog.ViewFinding) []string {
	var lines []string
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%s (%s)", f.Detail, f.Rule))
	}
	return lines
}
