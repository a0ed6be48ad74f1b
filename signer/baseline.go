package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/signer/keyless"
	"github.com/cordon-ota/cordon/signer/keys"
)

func (a *app) baselineCommand() *cobra.Command {
	return group("baseline", "Say and sign what the firmware of a platform measures", a.baselineNew(), a.baselineShow(), a.baselineSign())
}

// newBaseline are the flags of baseline new.
type newBaseline struct {
	statement artifacts.PlatformBaseline
	set       artifacts.BaselineSet
	pcrs      []string
	text      string
	eventlog  string
	keep      string
	drop      []string
	out       string
}

func (a *app) baselineNew() *cobra.Command {
	c := &cobra.Command{
		Use: "new", Short: "Write the unsigned statement of values that the platform's vendor supplied", Args: cobra.NoArgs,
		Example: "  cordon-sign baseline new --product gateway --profile board-a --set bios-1.2 --pcr 0=HEX --pcr 2=HEX --pcr 3=HEX --pcr 7=HEX --out baseline.json",
	}
	n := &newBaseline{set: artifacts.BaselineSet{Source: artifacts.BaselineVendor}}
	f := c.Flags()
	f.StringVar(&n.statement.Product, "product", "", "product")
	f.StringVar(&n.statement.Profile, "profile", "", "platform profile, as the inventory names it")
	f.Uint64Var(&n.statement.Generation, "generation", 1, "grows with every baseline of the profile; 'cordonctl baseline list' shows the newest")
	f.StringVar(&n.set.Name, "set", "", "`NAME` of this state of the firmware, such as bios-1.2")
	f.StringVar(&n.set.Origin, "origin", "", "where the values are from, for people")
	f.StringArrayVar(&n.pcrs, "pcr", nil, "`INDEX=HEX`: value of a PCR; once for each of 0, 2, 3 and 7")
	f.StringVar(&n.text, "pcrs", "", "`FILE` with PCR values, as tpm2_pcrread writes them")
	f.StringVar(&n.eventlog, "from-eventlog", "", "event log `FILE` of a machine in this state")
	f.StringVar(&n.keep, "keep", "", "statement or bundle `FILE` of the baseline in force, whose states stay beside the new one")
	f.StringSliceVar(&n.drop, "drop", nil, "`NAMES` of states that do not stay")
	f.StringVar(&n.out, "out", "", "`FILE` to write")
	required(c, "product", "profile", "set", "out")
	c.MarkFlagsOneRequired("pcr", "pcrs", "from-eventlog")
	c.MarkFlagsMutuallyExclusive("pcr", "pcrs", "from-eventlog")
	c.RunE = a.run("make the baseline", func(context.Context) error { return n.run() })
	return c
}

func (n *newBaseline) run() error {
	values, err := n.values()
	if err != nil {
		return err
	}
	n.set.PCRs = reference.PlatformOf(values)
	n.statement.Sets = []artifacts.BaselineSet{n.set}
	if n.keep != "" {
		old, err := readStatement(n.keep)
		if err != nil {
			return err
		}
		if old.Predicate.Generation >= n.statement.Generation {
			return fmt.Errorf("%w: --generation is %d, and that of the baseline in %q is %d", errUsage, n.statement.Generation, n.keep, old.Predicate.Generation)
		}
		for _, set := range old.Predicate.Sets {
			if !slices.Contains(n.drop, set.Name) {
				n.statement.Sets = append(n.statement.Sets, set)
			}
		}
	}
	s, err := artifacts.NewBaselineStatement(n.statement)
	if err != nil {
		return err
	}
	b, err := s.Encode()
	if err != nil {
		return err
	}
	if err := writeNew(n.out, b); err != nil {
		return err
	}
	showBaseline(os.Stdout, s)
	fmt.Fprintf(os.Stderr, "next: cordon-sign baseline sign %s --key SIGNER.pem --out BUNDLE\n", plain(n.out))
	return nil
}

// values reads the registers from the one source that was given.
func (n *newBaseline) values() (map[int]digest.SHA256, error) {
	switch {
	case n.text != "":
		return loadPCRs(n.text, "")
	case n.eventlog != "":
		b, err := readFile(n.eventlog, eventlog.MaxBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read event log: %w", err)
		}
		log, err := eventlog.Parse(b)
		if err != nil {
			return nil, err
		}
		return log.Replay(), nil
	}
	out := map[int]digest.SHA256{}
	for _, text := range n.pcrs {
		index, hex, ok := strings.Cut(text, "=")
		pcr, err := strconv.Atoi(index)
		if !ok || err != nil || pcr < 0 || pcr > eventlog.MaxPCR {
			return nil, fmt.Errorf("%w: --pcr %q is not INDEX=HEX", errUsage, text)
		}
		if _, twice := out[pcr]; twice {
			return nil, fmt.Errorf("%w: --pcr %d is there twice", errUsage, pcr)
		}
		if out[pcr], err = digest.Parse(hex); err != nil {
			return nil, fmt.Errorf("--pcr %d: %w", pcr, err)
		}
	}
	return out, nil
}

// readStatement reads an unsigned statement, or the statement in a bundle.
func readStatement(path string) (artifacts.BaselineStatement, error) {
	b, err := readFile(path, artifacts.MaxBundleBytes)
	if err != nil {
		return artifacts.BaselineStatement{}, fmt.Errorf("cannot read baseline: %w", err)
	}
	s, err := artifacts.DecodeBaselineStatement(b)
	if err == nil {
		return s, nil
	}
	if signed, claimErr := provenance.ClaimedBaseline(b); claimErr == nil {
		return signed, nil
	}
	return artifacts.BaselineStatement{}, err
}

// showBaseline says in plain words what is signed.
func showBaseline(w io.Writer, s artifacts.BaselineStatement) {
	b := s.Predicate
	fmt.Fprintf(w, "baseline of product %s for platform profile %s, generation %d\n", plain(b.Product), plain(b.Profile), b.Generation)
	fmt.Fprintf(w, "document sha256 %s\n", s.Subject[0].Digest.SHA256)
	fmt.Fprintf(w, "a device passes in one of %d states of its firmware:\n", len(b.Sets))
	for _, set := range b.Sets {
		how := "supplied by the vendor"
		if set.Source == artifacts.BaselineLearned {
			how = fmt.Sprintf("learned from %d devices that agree", len(set.Devices))
		}
		if set.Origin != "" {
			how += ": " + set.Origin
		}
		fmt.Fprintf(w, "  state %s, %s\n", plain(set.Name), plain(how))
		for _, p := range set.PCRs {
			fmt.Fprintf(w, "    PCR %d must be %s (%s)\n", p.Index, p.Value, platformWords(p.Index))
		}
		for _, d := range set.Devices {
			fmt.Fprintf(w, "    learned from device %s, Evidence %s, event log %s\n", plain(d.Device), d.Evidence, d.Log)
		}
	}
}

// platformWords says what a platform's register holds.
func platformWords(pcr int) string {
	switch pcr {
	case 0:
		return "the firmware"
	case 2:
		return "drivers of the firmware and option ROMs"
	case 3:
		return "their settings"
	case 7:
		return "Secure Boot: state, keys and lists"
	}
	return "not one that a baseline needs"
}

func (a *app) baselineShow() *cobra.Command {
	c := &cobra.Command{Use: "show FILE", Short: "Say in plain words what a baseline statement or bundle says; nothing is verified", Args: cobra.ExactArgs(1)}
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.run("show the baseline", func(context.Context) error {
			s, err := readStatement(args[0])
			if err != nil {
				return err
			}
			showBaseline(os.Stdout, s)
			return nil
		})(c, args)
	}
	return c
}

// signBaseline are the flags of baseline sign.
type signBaseline struct {
	server  serverFlags
	key     string
	keyless keylessFlags
	out     string
}

func (a *app) baselineSign() *cobra.Command {
	c := &cobra.Command{
		Use: "sign FILE", Short: "Show what a baseline statement says, and sign it as a baseline signer of the policy", Args: cobra.ExactArgs(1),
		Example: "  cordon-sign baseline sign baseline.json --key platform.pem --out baseline.sigstore.json",
	}
	var s signBaseline
	s.server.flags(c)
	f := c.Flags()
	f.StringVar(&s.key, "key", "", "private key `FILE` of the baseline signer, of type publisher; without one the identity token signs, and --server is needed")
	s.keyless.add(f)
	f.StringVar(&s.out, "out", "", "bundle `FILE` to write")
	required(c, "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.run("sign the baseline", func(ctx context.Context) error { return s.run(ctx, args[0]) })(c, args)
	}
	return c
}

func (s *signBaseline) run(ctx context.Context, path string) error {
	if err := s.keyless.check(s.key); err != nil {
		return err
	}
	payload, err := readFile(path, artifacts.MaxStatementBytes)
	if err != nil {
		return fmt.Errorf("cannot read baseline: %w", err)
	}
	statement, err := artifacts.DecodeBaselineStatement(payload)
	if err != nil {
		return err
	}
	showBaseline(os.Stdout, statement)
	bundle, err := s.sign(ctx, payload, statement.Predicate.Product)
	if err != nil {
		return err
	}
	if err := writeNew(s.out, append(bundle, '\n')); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "signed; next: cordonctl baseline upload %s\n", plain(s.out))
	return nil
}

func (s *signBaseline) sign(ctx context.Context, payload []byte, product string) ([]byte, error) {
	if s.key != "" {
		key, err := keys.Load(s.key, keys.Publisher)
		if err != nil {
			return nil, err
		}
		return keys.SignBundle(ctx, payload, artifacts.PayloadType, key)
	}
	if err := s.keyless.load(); err != nil {
		return nil, err
	}
	if s.server.url == "" {
		return nil, fmt.Errorf("%w: without --key give --server, whose offline policy says who may sign", errUsage)
	}
	client, err := s.server.client()
	if err != nil {
		return nil, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	line := &progress{out: os.Stderr, terminal: isTerminal(os.Stderr)}
	defer line.end()
	s.keyless.steps = line.step
	expect, err := keyless.FetchBaseline(ctx, client, status.ImageRoot, product, time.Now())
	if err == nil && s.keyless.own != nil {
		expect, err = expect.WithOwn(s.keyless.own)
	}
	if err != nil {
		return nil, err
	}
	signer := keyless.New(keyless.Config{Instance: s.keyless.instance, Expect: expect, Token: s.keyless.source.Token, Step: line.step})
	return signer.Sign(ctx, payload, artifacts.PayloadType)
}

// writeNew writes a file that is not there yet: what somebody has signed or is about to sign is never replaced.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write %q: %w", path, err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot write %q: %w", path, err), os.Remove(path))
	}
	return nil
}
