package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/client/api"
)

// errDisagree is baseline learn without a result: the devices do not agree, or are too few.
var errDisagree = errors.New("nothing was learned")

// errUnsigned is an upload of the statement that a baseline signer has yet to sign.
var errUnsigned = errors.New("the statement is not signed yet")

func (a *app) baselineCommand() *cobra.Command {
	return group("baseline", "Platform baselines: learn, look, hand over", a.baselineLearn(), a.baselineList(), a.baselineShow(), a.baselineUpload())
}

func (a *app) baselineLearn() *cobra.Command {
	c := &cobra.Command{
		Use: "learn", Short: "Ask what the devices of a platform agree about, and write the unsigned baseline statement", Args: cobra.NoArgs,
		Example: "  cordonctl baseline learn --product gateway --profile board-a --out baseline.json",
	}
	var q api.LearnQuery
	f := c.Flags()
	f.StringVar(&q.Product, "product", "", "product")
	f.StringVar(&q.Profile, "profile", "", "platform profile, as the inventory names it")
	f.IntVar(&q.Devices, "devices", 3, "how many devices must agree")
	f.StringSliceVar(&q.Exclude, "exclude", nil, "`IDS` of devices that do not count")
	f.StringVar(&q.Name, "name", "", "`NAME` of the new state, such as bios-1.2; by its generation if not given")
	f.StringSliceVar(&q.Drop, "drop", nil, "`NAMES` of states in force that the new baseline leaves out")
	out := f.String("out", "", "`FILE` to write the statement to; without it only the findings are shown")
	required(c, "product", "profile")
	c.RunE = a.run("learn the baseline", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		l, err := client.LearnBaseline(ctx, q)
		if err != nil {
			return err
		}
		if err := a.print(l, func(w io.Writer) error { return showLearning(w, l) }); err != nil {
			return err
		}
		return keepLearned(l, *out)
	})
	return c
}

// keepLearned writes the statement. It is decoded first: what is to be signed must be one, and what was asked for.
func keepLearned(l api.Learning, out string) error {
	if len(l.Refusals) > 0 || len(l.Statement) == 0 {
		return fmt.Errorf("%w: %s", errDisagree, strings.Join(l.Refusals, "; "))
	}
	s, err := artifacts.DecodeBaselineStatement(l.Statement)
	if err != nil {
		return err
	}
	if s.Predicate.Product != l.Product || s.Predicate.Profile != l.Profile {
		return fmt.Errorf("%w: the server made a statement of another platform", artifacts.ErrBaseline)
	}
	if out == "" {
		note("%d devices agree; with --out FILE the statement is written for a baseline signer", len(l.Learned.Agreeing))
		return nil
	}
	if err := writeNew(out, l.Statement, 0o644, false); err != nil {
		return fmt.Errorf("cannot write the statement: %w", err)
	}
	note("wrote the unsigned statement of generation %d; next, a baseline signer: cordon-sign baseline sign %s --key SIGNER.pem --out BUNDLE", s.Predicate.Generation, out)
	return nil
}

func showLearning(w io.Writer, l api.Learning) error {
	var rows [][]string
	for _, d := range l.Devices {
		rows = append(rows, []string{d.Device, moment(d.At), d.Release, d.Standing, d.LeftOut})
	}
	if err := table(w, []string{"DEVICE", "OBSERVED", "BOOTED", "STANDING", "LEFT OUT"}, rows); err != nil {
		return err
	}
	if len(l.Devices) == 0 {
		note("no device of product %s and profile %s has proven a boot that is in order but for its firmware; 'cordonctl device list' shows products, 'device show ID' the profile", l.Product, l.Profile)
	}
	if l.More {
		note("there are more devices than were looked at")
	}
	for _, p := range l.Learned.PCRs {
		for _, g := range p.Groups {
			fmt.Fprintf(w, "PCR %d: %d of %d devices have %s\n", p.Index, len(g.Devices), counted(l), g.Value)
		}
	}
	for _, d := range l.Learned.Others {
		fmt.Fprintf(w, "device %s differs from the %d that agree:\n", plain(d.Device), len(l.Learned.Agreeing))
		for _, text := range d.Detail {
			fmt.Fprintf(w, "  %s\n", plain(text))
		}
	}
	return nil
}

func counted(l api.Learning) int { return len(l.Learned.Agreeing) + len(l.Learned.Others) }

func (a *app) baselineList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List platform baselines, also superseded ones", Args: cobra.NoArgs}
	product := c.Flags().String("product", "", "only of this `PRODUCT`")
	profile := c.Flags().String("profile", "", "only of this platform `PROFILE`")
	c.RunE = a.run("list baselines", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		page, err := client.Baselines(ctx, *product, *profile)
		if err != nil {
			return err
		}
		return a.print(page.Items, func(w io.Writer) error {
			var rows [][]string
			for _, b := range page.Items {
				var names []string
				for _, set := range b.Sets {
					names = append(names, set.Name)
				}
				rows = append(rows, []string{b.Product, b.Profile, generationText(b), strings.ReplaceAll(b.State, "_", " "), strings.Join(names, " "), signersText(b), when(b.At)})
			}
			return table(w, []string{"PRODUCT", "PROFILE", "GENERATION", "STATE", "FIRMWARE STATES", "SIGNERS", "FROM"}, rows)
		})
	})
	return c
}

// signersText names the signers. Of a superseded baseline they are known as far as the audit log has their names.
func signersText(b api.Baseline) string {
	if len(b.Signers) == 0 && b.State == api.BaselineSuperseded {
		return b.State
	}
	return strings.Join(b.Signers, " ")
}

func generationText(b api.Baseline) string {
	if b.Generation == 0 {
		return "offline role"
	}
	return fmt.Sprint(b.Generation)
}

func (a *app) baselineShow() *cobra.Command {
	c := &cobra.Command{Use: "show PRODUCT/PROFILE", Short: "Show a platform baseline: its states, where they are from, and who signed", Args: cobra.ExactArgs(1)}
	generation := c.Flags().Uint64("generation", 0, "`NUMBER`; the newest if not given")
	c.RunE = a.run("show the baseline", func(ctx context.Context, args []string) error {
		product, profile, err := cutName(args[0], "PRODUCT/PROFILE")
		if err != nil {
			return err
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		b, err := client.Baseline(ctx, product, profile, *generation)
		if err != nil {
			return err
		}
		return a.print(b, func(w io.Writer) error { return showBaseline(w, b) })
	})
	return c
}

func showBaseline(w io.Writer, b api.Baseline) error {
	facts(w, "baseline", b.Product+"/"+b.Profile, "generation", generationText(b), "state", strings.ReplaceAll(b.State, "_", " "), "because", b.Detail,
		"sha256", b.SHA256.String(), "signers", signersText(b), "handed in by", b.By, "at", when(b.At))
	for _, set := range b.Sets {
		name := set.Name
		if name == "" {
			name = "(the only one)"
		}
		fmt.Fprintf(w, "  state %s\n", plain(strings.Join(slices.DeleteFunc([]string{name, set.Source, set.Origin}, func(s string) bool { return s == "" }), " ")))
		for _, p := range set.PCRs {
			fmt.Fprintf(w, "    PCR %d must be %s\n", p.Index, p.Value)
		}
		for _, d := range set.Devices {
			fmt.Fprintf(w, "    learned from device %s, Evidence %s, event log %s\n", plain(d.Device), d.Evidence, d.Log)
		}
	}
	return nil
}

func (a *app) baselineUpload() *cobra.Command {
	c := &cobra.Command{Use: "upload BUNDLE...", Short: "Hand over a baseline that baseline signers signed; the same again changes nothing", Args: cobra.MinimumNArgs(1)}
	c.RunE = a.run("hand the baseline over", func(ctx context.Context, args []string) error {
		var req api.BaselineRequest
		for _, path := range args {
			b, err := readFile(path, artifacts.MaxBundleBytes)
			if err != nil {
				return err
			}
			if _, err := artifacts.DecodeBaselineStatement(b); err == nil {
				return fmt.Errorf("%w: %q", errUnsigned, path)
			}
			bundles, err := provenance.Split(b)
			if err != nil {
				return fmt.Errorf("%w: %q: %w", provenance.ErrNoStatement, path, err)
			}
			req.Bundles = append(req.Bundles, bundles...)
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		b, err := client.AddBaseline(ctx, req)
		if err != nil {
			return err
		}
		if !b.Changed {
			note("this baseline is there already; nothing changed")
		}
		return a.print(b, func(w io.Writer) error { return showBaseline(w, b) })
	})
	return c
}
