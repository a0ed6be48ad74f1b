package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/signer/ceremony"
)

func (a *app) productCommand() *cobra.Command {
	return group("product", "Build changes of policies and baselines for the holders to sign",
		a.productSet(), a.productBaseline(), a.productWithdraw(), a.productRecovery(), a.productTrustedRoot(), a.productShow())
}

// changed tells what became of a change, and what comes next.
func changed(c ceremony.Change, err error) error {
	if err != nil {
		return err
	}
	if !c.Changed {
		fmt.Fprintln(os.Stderr, "this is so already; nothing changed")
		return nil
	}
	if c.Dropped > 0 {
		fmt.Fprintf(os.Stderr, "dropped %d signatures over the targets as they were before\n", c.Dropped)
	}
	fmt.Printf("targets %d is pending; next: cordon-sign root sign\n", c.Version)
	return nil
}

func (a *app) productSet() *cobra.Command {
	c := &cobra.Command{Use: "set", Short: "Set a product's policy from a TOML file", Args: cobra.NoArgs}
	dir, expires := dirFlag(c), expiresFlag(c)
	path := c.Flags().String("policy", "", "policy `FILE`, TOML")
	required(c, "policy")
	c.RunE = a.run("set the policy", func(context.Context) error {
		p, err := ceremony.LoadPolicy(*path)
		if err != nil {
			return err
		}
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		if err := changed(d.SetPolicy(p, expires.from(time.Now()))); err != nil {
			return err
		}
		return noteTrustedRoot(d, p)
	})
	return c
}

// noteTrustedRoot tells early what would otherwise be found out at the first release.
func noteTrustedRoot(d *ceremony.Dir, p artifacts.Policy) error {
	has, err := d.HasTrustedRoot()
	if err != nil || has || !slices.ContainsFunc(p.Publishers, func(pub artifacts.Publisher) bool { return pub.KeyPEM == "" }) {
		return err
	}
	fmt.Fprintln(os.Stderr, "publishers without a key need the Sigstore trusted root: cordon-sign product trusted-root --file trusted_root.json")
	return nil
}

func (a *app) productBaseline() *cobra.Command {
	c := &cobra.Command{Use: "baseline", Short: "Set what a platform's firmware measures", Args: cobra.NoArgs}
	dir, expires := dirFlag(c), expiresFlag(c)
	product := c.Flags().String("product", "", "product")
	profile := c.Flags().String("profile", "", "platform profile, as the inventory names it")
	text := c.Flags().String("pcrs", "", "`FILE` with PCR values, as tpm2_pcrread writes them")
	from := c.Flags().String("from-json", "", "`FILE` of 'cordonctl eventlog --json'")
	remove := c.Flags().Bool("remove", false, "take the platform's values away, so that those of the baseline signers count")
	required(c, "product", "profile")
	c.MarkFlagsOneRequired("pcrs", "from-json", "remove")
	c.MarkFlagsMutuallyExclusive("pcrs", "from-json", "remove")
	c.RunE = a.run("set the baseline", func(context.Context) error {
		if *remove {
			d, err := ceremony.Open(*dir)
			if err != nil {
				return err
			}
			return changed(d.RemoveBaseline(*product, *profile, expires.from(time.Now())))
		}
		values, err := loadPCRs(*text, *from)
		if err != nil {
			return err
		}
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		return changed(d.SetBaseline(*product, reference.LearnBaseline(*profile, values), expires.from(time.Now())))
	})
	return c
}

func loadPCRs(text, fromJSON string) (map[int]digest.SHA256, error) {
	path, parse := text, ceremony.ParsePCRs
	if fromJSON != "" {
		path, parse = fromJSON, ceremony.ParsePCRsJSON
	}
	b, err := readFile(path, ceremony.MaxPCRBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read PCR values: %w", err)
	}
	return parse(b)
}

func (a *app) productWithdraw() *cobra.Command {
	c := &cobra.Command{Use: "withdraw", Short: "Withdraw an image for good: nobody may install or boot it", Args: cobra.NoArgs}
	dir, expires := dirFlag(c), expiresFlag(c)
	product := c.Flags().String("product", "", "product")
	image := c.Flags().String("image", "", "`SHA256` of the image, or its file")
	required(c, "product", "image")
	c.RunE = a.run("withdraw the image", func(ctx context.Context) error {
		d, sum, err := openWithImage(ctx, *dir, *image)
		if err != nil {
			return err
		}
		return changed(d.Withdraw(*product, sum, expires.from(time.Now())))
	})
	return c
}

func (a *app) productRecovery() *cobra.Command {
	c := &cobra.Command{Use: "recovery", Short: "Let quarantined devices install an image", Args: cobra.NoArgs}
	dir, expires := dirFlag(c), expiresFlag(c)
	product := c.Flags().String("product", "", "product")
	image := c.Flags().String("image", "", "`SHA256` of the image, or its file")
	remove := c.Flags().Bool("remove", false, "take the image from the list instead")
	required(c, "product", "image")
	c.RunE = a.run("change the recovery images", func(ctx context.Context) error {
		d, sum, err := openWithImage(ctx, *dir, *image)
		if err != nil {
			return err
		}
		if *remove {
			return changed(d.EndRecovery(*product, sum, expires.from(time.Now())))
		}
		return changed(d.AllowRecovery(*product, sum, expires.from(time.Now())))
	})
	return c
}

func openWithImage(ctx context.Context, dir, image string) (*ceremony.Dir, digest.SHA256, error) {
	sum, err := imageDigest(ctx, image)
	if err != nil {
		return nil, sum, err
	}
	d, err := ceremony.Open(dir)
	return d, sum, err
}

// imageDigest takes 64 hex digits as a digest and everything else as a file.
func imageDigest(ctx context.Context, image string) (digest.SHA256, error) {
	if sum, err := digest.Parse(image); err == nil {
		return sum, nil
	}
	f, err := os.Open(image)
	if errors.Is(err, fs.ErrNotExist) {
		return digest.SHA256{}, fmt.Errorf("%q is neither 64 lower-case hex digits nor a file: %w", image, err)
	}
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("cannot read image: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() }) // ends a long read
	defer stop()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return digest.SHA256{}, fmt.Errorf("cannot read image: %w", errors.Join(ctx.Err(), err))
	}
	return digest.SHA256(h.Sum(nil)), nil
}

func (a *app) productTrustedRoot() *cobra.Command {
	c := &cobra.Command{Use: "trusted-root", Short: "Set the Sigstore trusted root that keyless publishers need", Args: cobra.NoArgs}
	dir, expires := dirFlag(c), expiresFlag(c)
	path := c.Flags().String("file", "", "trusted_root.json `FILE`")
	required(c, "file")
	c.RunE = a.run("set the trusted root", func(context.Context) error {
		b, err := readSmall(*path)
		if err != nil {
			return fmt.Errorf("cannot read trusted root: %w", err)
		}
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		return changed(d.SetTrustedRoot(b, expires.from(time.Now())))
	})
	return c
}

func (a *app) productShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Say in plain words what the policies are, pending changes included", Args: cobra.NoArgs}
	dir := dirFlag(c)
	product := c.Flags().String("product", "", "one product; all if not given")
	c.RunE = a.run("show the products", func(context.Context) error {
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		names := []string{*product}
		if *product == "" {
			if names, err = d.Products(); err != nil {
				return err
			}
		}
		for _, name := range names {
			p, err := d.Policy(name)
			if err != nil {
				return err
			}
			fmt.Printf("%s\n  %s\n", name, strings.Join(ceremony.DescribePolicy(p), "\n  "))
		}
		return nil
	})
	return c
}
