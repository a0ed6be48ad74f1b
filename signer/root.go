package main

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/ceremony"
	"github.com/cordon-ota/cordon/signer/keys"
)

func (a *app) rootCommand() *cobra.Command {
	return group("root", "The ceremony: build, show, sign and apply offline metadata",
		a.rootInit(), a.rootShow(), a.rootSign(), a.rootAssemble(), a.rootApply(), a.rootRotate())
}

func (a *app) rootInit() *cobra.Command {
	c := &cobra.Command{Use: "init", Short: "Begin a ceremony for a new server: both roots and empty targets", Args: cobra.NoArgs}
	server := c.Flags().String("server", "", "https URL of the admin listener")
	pin := c.Flags().String("ca-sha256", "", "SHA-256 of the server's CA certificate in `HEX`, as cordond prints it")
	holders := c.Flags().StringArray("holder", nil, "public key `FILE` of a holder; once per holder")
	threshold := c.Flags().Int("threshold", 2, "how many holders must sign")
	dir, expires := dirFlag(c), expiresFlag(c)
	required(c, "server", "ca-sha256", "holder")
	c.RunE = a.run("begin the ceremony", func(ctx context.Context) error {
		sum, err := digest.Parse(*pin)
		if err != nil {
			return fmt.Errorf("--ca-sha256: %w", err)
		}
		loaded, err := loadHolders(*holders)
		if err != nil {
			return err
		}
		if *threshold < 1 || *threshold > len(loaded) {
			return fmt.Errorf("%w: --threshold %d with %d holders", errUsage, *threshold, len(loaded))
		}
		status, err := fetchStatus(ctx, *server, sum)
		if err != nil {
			return err
		}
		if status.ImageRoot > 0 {
			return fmt.Errorf("%w: the server has image root %d already; use the directory of its first ceremony", ceremony.ErrExists, status.ImageRoot)
		}
		d, err := ceremony.Create(*dir, ceremony.Settings{Server: *server, CASHA256: sum, Keys: status.Keys})
		if err != nil {
			return err
		}
		if err := d.Init(loaded, *threshold, expires.from(time.Now())); err != nil {
			return err
		}
		return show(d)
	})
	return c
}

func loadHolders(paths []string) ([]ceremony.HolderKey, error) {
	var out []ceremony.HolderKey
	for _, path := range paths {
		h, err := ceremony.LoadHolder(path)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

func fetchStatus(ctx context.Context, server string, pin digest.SHA256) (api.Status, error) {
	client, err := api.New(api.Config{URL: server, CASHA256: pin})
	if err != nil {
		return api.Status{}, fmt.Errorf("%w: %w", errUsage, err)
	}
	return client.Status(ctx)
}

// show prints what is pending: data, so it goes to stdout.
func show(d *ceremony.Dir) error {
	text, err := d.Show()
	if err != nil {
		return err
	}
	fmt.Print(text)
	return nil
}

func (a *app) rootShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Say in plain words what is going to be signed", Args: cobra.NoArgs}
	dir := dirFlag(c)
	c.RunE = a.run("show the ceremony", func(context.Context) error {
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		return show(d)
	})
	return c
}

func (a *app) rootSign() *cobra.Command {
	c := &cobra.Command{Use: "sign", Short: "Show what is pending, and sign it as a holder", Args: cobra.NoArgs}
	dir := dirFlag(c)
	path := c.Flags().String("key", "", "private key `FILE` of a holder")
	required(c, "key")
	c.RunE = a.run("sign", func(context.Context) error {
		key, err := keys.Load(*path, keys.Holder)
		if err != nil {
			return err
		}
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		review, err := d.Review()
		if err != nil {
			return err
		}
		fmt.Print(review.Text)
		signed, err := review.Sign(key)
		if err != nil {
			return err
		}
		fmt.Println()
		for _, name := range signed {
			fmt.Printf("signed %s\n", name)
		}
		return nil
	})
	return c
}

func (a *app) rootAssemble() *cobra.Command {
	c := &cobra.Command{Use: "assemble", Short: "Check that enough holders have signed, and verify everything", Args: cobra.NoArgs}
	dir := dirFlag(c)
	c.RunE = a.run("assemble", func(context.Context) error {
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		out, err := d.Assemble(time.Now())
		if err != nil {
			return err
		}
		fmt.Printf("%d documents and %d files verify; 'cordon-sign root apply' uploads them\n", len(out.Docs), len(out.Files))
		return nil
	})
	return c
}

func (a *app) rootApply() *cobra.Command {
	c := &cobra.Command{Use: "apply", Short: "Upload the signed metadata", Args: cobra.NoArgs}
	dir := dirFlag(c)
	token := c.Flags().String("token-file", "", "`FILE` with the token of an administrator")
	pin := c.Flags().String("ca-sha256", "", "refuse to send the token unless the ceremony is for the server with this CA, in `HEX`")
	required(c, "token-file")
	c.RunE = a.run("apply", func(ctx context.Context) error {
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		if *pin != "" && *pin != d.Settings.CASHA256.String() {
			return fmt.Errorf("%w: the ceremony directory says %s", api.ErrCA, d.Settings.CASHA256)
		}
		return apply(ctx, d, *token)
	})
	return c
}

func apply(ctx context.Context, d *ceremony.Dir, tokenFile string) error {
	token, err := readToken(tokenFile)
	if err != nil {
		return err
	}
	out, err := d.Assemble(time.Now())
	if err != nil {
		return err
	}
	current, err := d.CurrentFiles()
	if err != nil {
		return err
	}
	client, err := api.New(api.Config{URL: d.Settings.Server, CASHA256: d.Settings.CASHA256, Token: token})
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	result, err := client.Ceremony(ctx, out.Request(current))
	if err != nil {
		return err
	}
	if err := d.Applied(out); err != nil {
		return err
	}
	if !result.Changed {
		fmt.Fprintln(os.Stderr, "the server had this already; nothing changed")
	}
	fmt.Printf("image root %d, director root %d, targets %d, products %s\n", result.ImageRoot, result.DirectorRoot, result.Targets, cmp.Or(plain(strings.Join(result.Products, " ")), "none"))
	return nil
}

func (a *app) rootRotate() *cobra.Command {
	c := &cobra.Command{Use: "rotate", Short: "Build the next roots: other holders, threshold or server keys, or a later expiry", Args: cobra.NoArgs}
	add := c.Flags().StringArray("add", nil, "public key `FILE` of a new holder")
	remove := c.Flags().StringArray("remove", nil, "public key `FILE` of a holder who leaves")
	threshold := c.Flags().Int("threshold", 0, "how many holders must sign; as before if not given")
	online := c.Flags().Bool("online", false, "take the server's keys of now")
	dir, expires := dirFlag(c), expiresFlag(c)
	c.RunE = a.run("rotate", func(ctx context.Context) error {
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		r := ceremony.Rotation{Threshold: *threshold, Expires: expires.from(time.Now())}
		if r.Add, err = loadHolders(*add); err != nil {
			return err
		}
		if r.Remove, err = loadPublic(*remove); err != nil {
			return err
		}
		if *online {
			status, err := fetchStatus(ctx, d.Settings.Server, d.Settings.CASHA256)
			if err != nil {
				return err
			}
			r.Online = status.Keys
		}
		if err := d.Rotate(r); err != nil {
			return err
		}
		return show(d)
	})
	return c
}

func loadPublic(paths []string) ([]crypto.PublicKey, error) {
	var out []crypto.PublicKey
	for _, path := range paths {
		pub, err := keys.LoadPublic(path, keys.Holder)
		if err != nil {
			return nil, err
		}
		out = append(out, pub)
	}
	return out, nil
}
