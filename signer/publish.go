package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/signer/keys"
	"github.com/cordon-ota/cordon/signer/publish"
)

// publishFlags are the flags of publish that need work before they are options.
type publishFlags struct {
	server     serverFlags
	components []string
	sboms      []string
	bundles    []string
	key        string
	keyless    keylessFlags
	bundleOut  string
	timeout    time.Duration
	json       bool
	options    publish.Options

	counterGiven func() bool
}

func (a *app) publishCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "publish", Short: "Sign a release and hand it to the server; the same release again changes nothing", Args: cobra.NoArgs,
		Long: publishLong,
		Example: "  cordon-sign publish --server https://cordon.example:8444 --ca-sha256 HEX --token-file ci.token \\\n" +
			"    --product gateway --version 1.4.0 --component app=app.efi,hw=board-a+board-b,installer=ab --key publisher.pem\n" +
			"  cordon-sign publish --server https://cordon.example:8444 --ca-sha256 HEX --token-file ci.token \\\n" +
			"    --product gateway --version 1.4.0 --component app=app.efi,hw=board-a,installer=ab --signing-config signing_config.json",
	}
	var p publishFlags
	p.server.add(c)
	f := c.Flags()
	f.StringVar(&p.options.Product, "product", "", "product")
	f.StringVar(&p.options.Version, "version", "", "version; it never changes once published")
	f.Uint64Var(&p.options.Counter, "counter", 0, "release counter, at least 1; the product's highest + 1 if not given")
	f.Uint64Var(&p.options.Floor, "floor", 0, "counter below which a device with this release refuses others")
	f.Uint64Var(&p.options.Requires, "requires", 0, "counter that a device must have reached before")
	f.IntVar(&p.options.MinimumTier, "minimum-tier", 0, "how strongly a device must have proven its identity, 0 to 5")
	f.BoolVar(&p.options.Recovery, "recovery", false, "a quarantined device may fetch it; the policy must list its images")
	f.StringArrayVar(&p.components, "component", nil, "`name=FILE,hw=A+B,installer=KIND[,measured=yes|no][,boot_loader=FILE...][,boot_chain=FILE]`; once per component")
	f.StringArrayVar(&p.sboms, "sbom", nil, "`name=FILE`: SBOM of a component")
	f.StringArrayVar(&p.bundles, "bundle", nil, "bundle `FILE` of another publisher over the same statement")
	f.StringVar(&p.key, "key", "", "private key `FILE` of the publisher; without one the pipeline's identity token signs")
	p.keyless.add(f)
	f.DurationVar(&p.timeout, "timeout", 0, "give up after so long, as in 45m; 0 is never")
	f.StringVar(&p.bundleOut, "bundle-out", "", "keep the signed bundle in `FILE`")
	f.BoolVar(&p.options.DryRun, "dry-run", false, "sign, ask the server what it would say, upload nothing")
	f.BoolVar(&p.json, "json", false, "print the result as JSON")
	required(c, "product", "version", "component")
	p.counterGiven = func() bool { return f.Changed("counter") }
	c.RunE = a.run("publish", p.run)
	return c
}

func (p *publishFlags) run(ctx context.Context) error {
	if p.timeout <= 0 {
		return p.publish(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, errTimeout)
	defer cancel()
	err := p.publish(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		return fmt.Errorf("%w, %s: %w", errTimeout, p.timeout, err)
	}
	return err
}

func (p *publishFlags) publish(ctx context.Context) error {
	if err := p.load(); err != nil {
		return err
	}
	client, err := p.server.client()
	if err != nil {
		return err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if !status.Initialised {
		return publish.ErrSetup
	}
	line := &progress{out: os.Stderr, terminal: isTerminal(os.Stderr)}
	p.options.Progress = line.report
	if p.key == "" {
		if p.options.Signer, err = p.keyless.signer(ctx, client, status.ImageRoot, p.options.Product, line.step); err != nil {
			return err
		}
	}
	kept, err := newKeeper(p.bundleOut)
	if err != nil {
		return err
	}
	defer kept.close()
	result, err := publish.Run(ctx, client, p.options)
	line.end()
	// The bundle of a refused dry run is kept, too: another publisher may have to sign first.
	if err := errors.Join(err, kept.keep(result.Bundle)); err != nil {
		return err
	}
	return p.print(result)
}

// maxKept is more than a bundle has.
const maxKept = 64 << 10

// keeper writes --bundle-out. A disk that is full is found before anything is published, because a release that is
// published is not signed again; and no half of a bundle is ever left for a CI that goes on.
type keeper struct {
	path string
	file *os.File // under a temporary name; nil: path is no regular file, as /dev/stdout, and is written to directly
}

// newKeeper reserves the room that a bundle takes. An empty path keeps nothing.
func newKeeper(path string) (*keeper, error) {
	k := &keeper{path: path}
	if info, err := os.Stat(path); path == "" || err == nil && !info.Mode().IsRegular() {
		return k, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("cannot keep the bundle: %w", err)
	}
	k.file = f
	if _, err := f.Write(make([]byte, maxKept)); err != nil {
		k.close()
		return nil, fmt.Errorf("cannot keep the bundle: %w", err)
	}
	return k, nil
}

// keep writes the bundle; nil is none.
func (k *keeper) keep(bundle []byte) error {
	if k.path == "" || bundle == nil {
		return nil
	}
	var err error
	if k.file == nil {
		err = os.WriteFile(k.path, bundle, 0o644)
	} else if _, err = k.file.WriteAt(bundle, 0); err == nil {
		if err = errors.Join(k.file.Truncate(int64(len(bundle))), k.file.Chmod(0o644), k.file.Sync()); err == nil {
			err = os.Rename(k.file.Name(), k.path)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot keep the bundle: %w", err)
	}
	return nil
}

// close removes what was not kept.
func (k *keeper) close() {
	if k.file != nil {
		_ = k.file.Close() // keep has made it durable
		_ = os.Remove(k.file.Name())
	}
}

func (p *publishFlags) load() error {
	if err := p.keyless.check(p.key); err != nil {
		return err
	}
	if p.counterGiven() && p.options.Counter == 0 {
		return fmt.Errorf("%w: --counter is at least 1; leave it away for the product's highest + 1", errUsage)
	}
	for name, value := range map[string]string{"--product": p.options.Product, "--version": p.options.Version} {
		if err := artifacts.ValidName(value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, text := range p.components {
		s, err := publish.ParseSpec(text)
		if err != nil {
			return err
		}
		p.options.Components = append(p.options.Components, s)
	}
	p.options.SBOMs = map[string]string{}
	for _, text := range p.sboms {
		name, file, ok := strings.Cut(text, "=")
		if _, twice := p.options.SBOMs[name]; !ok || file == "" || twice {
			return fmt.Errorf("%w: --sbom %q is not name=FILE, or its name is there twice", errUsage, text)
		}
		p.options.SBOMs[name] = file
	}
	for _, path := range p.bundles {
		b, err := readFile(path, artifacts.MaxBundleBytes)
		if err != nil {
			return fmt.Errorf("cannot read bundle: %w", err)
		}
		p.options.Bundles = append(p.options.Bundles, b)
	}
	if p.key == "" {
		return p.keyless.load()
	}
	key, err := keys.Load(p.key, keys.Publisher)
	p.options.Key = key
	return err
}

func (p *publishFlags) print(r publish.Result) error {
	if p.json {
		b, err := json.Marshal(r, json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("cannot encode the result: %w", err)
		}
		fmt.Printf("%s\n", b)
		return nil
	}
	switch {
	case r.State != "" && !r.Changed:
		fmt.Printf("%s counter %d: is there already (%s); nothing changed\n", r.Name, r.Counter, plain(r.State))
	case r.DryRun && len(r.Missing) == 0:
		fmt.Printf("%s counter %d: the server would take it\n", r.Name, r.Counter)
	case r.DryRun:
		fmt.Printf("%s counter %d: the server would take it; it has yet to see %s\n", r.Name, r.Counter, strings.Join(r.Missing, ", "))
	default:
		fmt.Printf("%s counter %d: %s\n", r.Name, r.Counter, plain(r.State))
	}
	if !r.DryRun && r.Approvals > 0 && r.State != "published" {
		fmt.Fprintf(os.Stderr, "it waits for %d approvals: cordonctl release approve %s\n", r.Approvals, r.Name)
	}
	return nil
}
