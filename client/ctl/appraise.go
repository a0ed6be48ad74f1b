package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/ctl/verify"
)

// appraised is one appraisal, done again.
type appraised struct {
	Number  int64          `json:"number,omitzero"` // 0 for a file
	Device  string         `json:"device"`
	At      time.Time      `json:"at,omitzero"`
	Same    bool           `json:"same"`
	Verdict jsontext.Value `json:"verdict"`           // as reached now
	Stored  jsontext.Value `json:"stored,omitempty"`  // absent when nothing was recorded
	Repeats digest.SHA256  `json:"repeats,omitzero"`  // the appraisal whose Evidence this one was
	By      *grounds       `json:"recorded,omitzero"` // what the recorded verdict was reached with
}

// grounds say what a recorded verdict was reached with.
type grounds struct {
	Verifier   string                   `json:"verifier"`
	Policy     digest.SHA256            `json:"policy_sha256"`
	Baseline   digest.SHA256            `json:"baseline_sha256,omitzero"`
	References map[string]digest.SHA256 `json:"reference_values,omitempty"`
}

// question is an appraisal with all that it takes to reach its verdict again.
type question struct {
	from     string // whose word the record is: "the report", "the server", "the file"
	record   api.Appraisal
	logs     map[string][]byte
	releases []api.ReleaseRecord // of a report: what a policy withdraws can be looked up there
}

func (a *app) appraiseCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "appraise ID|NUMBER | REPORT NUMBER | --input FILE", Short: "Appraise stored Evidence again and compare the verdicts",
		Long: `Appraise stored Evidence again with this program and compare the verdict with the recorded one, byte for byte.
The Evidence comes from the server (by the appraisal's id or number), from a report, or from a file with an Input and its
event log. The program exits 0 when the verdicts are the same, 1 when they differ, 3 when it could not decide.`,
	}
	input := c.Flags().String("input", "", "appraise the Input of this `FILE`: {\"input\":..., \"log\":..., \"verdict\":...} or a test vector")
	policy := c.Flags().String("policy", "", "ask what another policy would say: an offline policy or an attestation policy in `FILE`")
	c.Args = func(_ *cobra.Command, args []string) error {
		if want := len(args) == 1 || len(args) == 2; want == (*input != "") || len(args) > 2 {
			return errors.New("give the id or number of a stored appraisal, or a report and a number, or --input FILE alone")
		}
		return nil
	}
	c.RunE = a.run("appraise", func(ctx context.Context, args []string) error {
		q, err := a.question(ctx, *input, args)
		if err != nil {
			return err
		}
		if *policy != "" {
			return a.whatIf(q, *policy)
		}
		return a.appraise(q)
	})
	c.AddCommand(a.appraiseList())
	return c
}

func (a *app) question(ctx context.Context, input string, args []string) (question, error) {
	switch {
	case input != "":
		return readInput(input)
	case len(args) == 2:
		return fromReport(args[0], args[1])
	}
	return a.fromServer(ctx, args[0])
}

func fromReport(path, name string) (question, error) {
	number, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return question{}, fmt.Errorf("%w: %q is no number of an appraisal", errUsage, name)
	}
	doc, err := readFile(path, api.MaxReportBytes)
	if err != nil {
		return question{}, fmt.Errorf("cannot read report: %w", err)
	}
	_, report, err := verify.Decode(doc)
	if err != nil {
		return question{}, err
	}
	for _, p := range report.Appraisals {
		if p.Number == number {
			return question{from: "the report", record: p, logs: report.Logs, releases: report.Releases}, nil
		}
	}
	return question{}, fmt.Errorf("%w: the report has no appraisal %d; 'cordonctl appraise list %s' shows what it has", errUsage, number, path)
}

// fromServer fetches an appraisal. One that was asked for by its id must be the one of that id.
func (a *app) fromServer(ctx context.Context, name string) (question, error) {
	id, err := digest.Parse(name)
	if number, numberErr := strconv.ParseInt(name, 10, 64); err != nil && (numberErr != nil || number < 1) {
		return question{}, fmt.Errorf("%w: %q is neither the id nor the number of an appraisal; behind a report give the number, too", errUsage, name)
	}
	client, err := a.server.client()
	if err != nil {
		return question{}, err
	}
	p, err := client.Appraisal(ctx, name)
	if err != nil {
		return question{}, err
	}
	if !id.IsZero() && verify.AppraisalID(p) != id || id.IsZero() && strconv.FormatInt(p.Number, 10) != name {
		return question{}, fmt.Errorf("%w: the server answers with another appraisal than %s", errDiffers, name)
	}
	q := question{from: "the server", record: p, logs: map[string][]byte{}}
	log, err := client.AppraisalLog(ctx, name)
	var problem *api.Error
	if errors.As(err, &problem) && problem.Reason == reason.NotFound {
		return q, nil // it was appraised without its log; the verdict says so
	}
	if err != nil {
		return question{}, err
	}
	q.logs[digest.Of(log).String()] = log
	return q, nil
}

// bundle is an Input in a file, by itself or as the question of a test vector. Everything else in the file is told apart
// by the strict decoder.
type bundle struct {
	Input   *attestation.Input `json:"input,omitempty"`
	Log     []byte             `json:"log,omitzero"`
	Verdict jsontext.Value     `json:"verdict,omitempty"` // as recorded, if it was
}

type vector struct {
	Format   int    `json:"format"`
	Case     string `json:"case"`
	About    string `json:"about"`
	Stage    string `json:"stage"`
	Note     string `json:"note,omitempty"`
	MaxAlloc int    `json:"max_alloc"`
	Question struct {
		Name string `json:"name"`
		bundle
		Document []byte `json:"document,omitzero"`
	} `json:"question"`
	Answer  jsontext.Value `json:"answer"`
	Verdict jsontext.Value `json:"verdict,omitempty"`
}

// maxInput bounds a file with an Input: the Evidence, its log and the Reference Values of some releases.
const maxInput = 16 << 20

func readInput(path string) (question, error) {
	b, err := readFile(path, maxInput)
	if err != nil {
		return question{}, fmt.Errorf("cannot read input: %w", err)
	}
	found, err := decodeBundle(b)
	if err != nil {
		return question{}, err
	}
	q := question{from: "the file", logs: map[string][]byte{}}
	q.record.Device, q.record.Input, q.record.Verdict = found.Input.Binding.Device, *found.Input, found.Verdict
	if found.Log != nil {
		q.logs[found.Input.Evidence.LogDigest.String()] = found.Log // a log with another digest is a finding, and not ours to hide
	}
	return q, nil
}

func decodeBundle(b []byte) (bundle, error) {
	var found bundle
	err := json.Unmarshal(b, &found, json.RejectUnknownMembers(true))
	if err != nil {
		var v vector
		if json.Unmarshal(b, &v, json.RejectUnknownMembers(true)) != nil {
			return bundle{}, fmt.Errorf("%w: not an Input: %w", errInput, err)
		}
		found = v.Question.bundle
		if found.Verdict = v.Verdict; found.Verdict != nil {
			if err := found.Verdict.Compact(); err != nil {
				return bundle{}, fmt.Errorf("%w: %w", errInput, err)
			}
		}
	}
	if found.Input == nil {
		return bundle{}, fmt.Errorf("%w: it has no input", errInput)
	}
	return found, nil
}

func (a *app) appraise(q question) error {
	verdict, same, err := verify.Again(q.record, q.logs)
	if err != nil {
		return err
	}
	out := q.view(verdict, same)
	recorded := len(q.record.Verdict) > 0
	err = a.print(out, func(w io.Writer) error {
		fmt.Fprintf(w, "%s\n", plain(string(verdict)))
		switch {
		case !recorded:
			fmt.Fprintln(w, "no verdict is recorded beside it")
		case same:
			fmt.Fprintf(w, "the same, byte for byte, as %s says\n", q.from)
		default:
			fmt.Fprintf(w, "%s says something else:\n%s\n", q.from, plain(string(q.record.Verdict)))
		}
		return nil
	})
	if err != nil {
		return err
	}
	note("this took %s at its word about baselines and policies; 'cordonctl verify' checks those of a report too", q.from)
	if recorded && !same {
		return errDiffers
	}
	return nil
}

func (q question) view(verdict []byte, same bool) appraised {
	p := q.record
	out := appraised{Number: p.Number, Device: p.Device, At: p.At, Same: same, Verdict: verdict, Stored: p.Verdict, Repeats: p.Repeats}
	if p.Verifier != "" {
		out.By = &grounds{Verifier: p.Verifier, Policy: p.PolicySHA256, Baseline: p.BaselineSHA256, References: p.References}
	}
	return out
}

// whatIf appraises under another policy. What is recorded stays what it is.
func (a *app) whatIf(q question, path string) error {
	b, err := readFile(path, maxSmallFile)
	if err != nil {
		return fmt.Errorf("cannot read policy: %w", err)
	}
	if q.record.Input, err = q.under(b); err != nil {
		return err
	}
	verdict, same, err := verify.Again(q.record, q.logs)
	if err != nil {
		return err
	}
	err = a.print(q.view(verdict, same), func(w io.Writer) error {
		fmt.Fprintf(w, "under the policy of %s:\n%s\n", plain(path), plain(string(verdict)))
		if same {
			fmt.Fprintf(w, "the same, byte for byte, as %s says\n", q.from)
		} else if len(q.record.Verdict) > 0 {
			fmt.Fprintf(w, "recorded in %s:\n%s\n", q.from, plain(string(q.record.Verdict)))
		}
		return nil
	})
	if err == nil && !same && len(q.record.Verdict) > 0 {
		return errOtherPolicy
	}
	return err
}

// under is the Input as another policy would have it: an offline policy as holders sign it, or the attestation policy of an
// Input.
func (q question) under(b []byte) (attestation.Input, error) {
	in := q.record.Input
	offline, err := artifacts.DecodePolicy(b)
	if err != nil {
		in.Policy = attestation.Policy{}
		if json.Unmarshal(b, &in.Policy, json.RejectUnknownMembers(true)) != nil || len(in.Policy.RequiredPCRs) == 0 {
			return in, fmt.Errorf("%w: neither an offline policy nor an attestation policy: %w", errInput, err)
		}
		return in, nil
	}
	policy := attestation.Policy{RequiredPCRs: offline.RequiredPCRs, SecureBoot: offline.SecureBoot}
	if len(policy.RequiredPCRs) == 0 {
		policy.RequiredPCRs = attestation.DefaultRequiredPCRs[:]
	}
	if q.releases == nil {
		policy.RevokedBoot = slices.Clone(in.Policy.RevokedBoot)
		note("what the policy withdraws is named by images, which only a report can look up: the %d boot measurements that were withdrawn then count here", len(policy.RevokedBoot))
	}
	for _, r := range q.releases {
		for _, c := range r.Release.Components {
			values, err := reference.Decode(r.Reference[c.Name])
			if err != nil || !slices.Contains(offline.Withdrawn, c.SHA256) {
				continue // not measured, or not withdrawn
			}
			if d, ok := values.BootDigest(); ok {
				policy.RevokedBoot = append(policy.RevokedBoot, d)
			}
		}
	}
	slices.SortFunc(policy.RevokedBoot, func(x, y digest.SHA256) int { return bytes.Compare(x[:], y[:]) })
	in.Policy = policy
	in.Expected, in.Superseded = withoutGone(in.Expected, offline.Withdrawn), withoutGone(in.Superseded, offline.Withdrawn)
	if len(in.Expected) == 0 && len(q.record.Input.Expected) > 0 {
		return in, errNothingExpected
	}
	return in, nil
}

// withoutGone leaves out what the server would not expect any more under a policy that withdraws its image: where no
// measurement is the image's alone, RevokedBoot cannot name it.
func withoutGone(all []attestation.Expectation, withdrawn []digest.SHA256) []attestation.Expectation {
	return slices.DeleteFunc(slices.Clone(all), func(x attestation.Expectation) bool {
		_, named := x.Values.BootDigest()
		if named || !slices.Contains(withdrawn, x.Values.Image) {
			return false
		}
		note("%s is not expected: the policy withdraws its image %s, and no measurement is that image's alone", x.Release, x.Values.Image)
		return true
	})
}
