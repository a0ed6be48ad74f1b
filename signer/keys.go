package main

import (
	"context"
	"crypto"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/signer/keys"
)

func (a *app) keysCommand() *cobra.Command {
	return group("keys", "Make and show key files", a.keysNew(), a.keysShow())
}

func (a *app) keysNew() *cobra.Command {
	c := &cobra.Command{Use: "new", Short: "Make a key: FILE and, for everybody, its public half NAME.pub.pem", Args: cobra.NoArgs}
	kind := c.Flags().String("type", "", "holder (signs root and targets) or publisher (signs releases)")
	out := c.Flags().String("out", "", "`FILE` for the private key, as in alice.pem")
	required(c, "type", "out")
	c.RunE = a.run("make a key", func(context.Context) error {
		pub, err := keys.New(keys.Type(*kind), *out)
		if err != nil {
			return err
		}
		fmt.Printf("%s\n%s\n", *out, keys.PublicPath(*out))
		return printFingerprint(pub, keys.Type(*kind))
	})
	return c
}

func (a *app) keysShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show the fingerprint and public half of a key file", Args: cobra.NoArgs}
	path := c.Flags().String("key", "", "key `FILE`, private or public")
	required(c, "key")
	c.RunE = a.run("show the key", func(context.Context) error {
		pub, kind, err := keys.Show(*path)
		if err != nil {
			return err
		}
		if err := printFingerprint(pub, kind); err != nil {
			return err
		}
		text, err := keys.EncodePublic(pub)
		fmt.Printf("%s", text)
		return err
	})
	return c
}

func printFingerprint(pub crypto.PublicKey, kind keys.Type) error {
	fingerprint, err := keys.Fingerprint(pub)
	if err != nil {
		return err
	}
	fmt.Printf("%s key %s\n", kind, fingerprint)
	return nil
}
