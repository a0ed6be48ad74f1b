package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/signer/ceremony"
)

func (a *app) logCommand() *cobra.Command {
	return group("log", "Name the audit log and the witnesses that auditors believe, for the holders to sign",
		a.logSet(), a.logShow())
}

func (a *app) logSet() *cobra.Command {
	c := &cobra.Command{Use: "set", Short: "Set the log's key, its witnesses and how many of them must agree", Args: cobra.NoArgs}
	dir, expires := dirFlag(c), expiresFlag(c)
	var server serverFlags
	server.flags(c)
	key := c.Flags().String("log-key", "", "instead of --server: the log's verifier key `VKEY`")
	origin := c.Flags().String("origin", "", "with --log-key: name of the log, checked against the key")
	witnesses := c.Flags().StringArray("witness", nil, "`NAME=VKEY,URL` of a witness; once for each")
	quorum := c.Flags().Int("quorum", 0, "how many witnesses must have cosigned")
	required(c, "quorum")
	c.MarkFlagsOneRequired("server", "log-key")
	c.MarkFlagsMutuallyExclusive("server", "log-key")
	c.RunE = a.run("set the log policy", func(ctx context.Context) error {
		p := tlog.Policy{Version: tlog.PolicyVersion, LogKey: *key, Witnesses: []tlog.Witness{}, Quorum: *quorum}
		for _, text := range *witnesses {
			w, err := parseWitness(text)
			if err != nil {
				return err
			}
			p.Witnesses = append(p.Witnesses, w)
		}
		if err := server.logKey(ctx, &p); err != nil {
			return err
		}
		if *origin != "" && *origin != p.Origin {
			return fmt.Errorf("%w: --origin is %q, the log key is of %q", errUsage, *origin, p.Origin)
		}
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		return changed(d.SetLog(p, expires.from(time.Now())))
	})
	return c
}

// parseWitness reads NAME=VKEY,URL.
func parseWitness(text string) (tlog.Witness, error) {
	name, rest, named := strings.Cut(text, "=")
	// A verifier key ends in base64, which may end in "=" and never holds a comma.
	key, url, addressed := strings.Cut(rest, ",")
	if !named || !addressed {
		return tlog.Witness{}, fmt.Errorf("%w: --witness %.80q is not NAME=VKEY,URL", errUsage, text)
	}
	return tlog.Witness{Name: name, Key: key, URL: url}, nil
}

// logKey fills in the log's key, from the server unless a flag gave it, and its origin, which is the key's name.
func (s *serverFlags) logKey(ctx context.Context, p *tlog.Policy) error {
	if p.LogKey == "" {
		client, err := s.client()
		if err != nil {
			return err
		}
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if p.LogKey = status.LogKey; p.LogKey == "" {
			return errors.New("the server has no log")
		}
	}
	v, err := tlog.LogVerifier(p.LogKey)
	if err != nil {
		return fmt.Errorf("%w: %w", tlog.ErrPolicy, err)
	}
	p.Origin = v.Name()
	return nil
}

func (a *app) logShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Say in plain words which log and which witnesses are believed, pending changes included", Args: cobra.NoArgs}
	dir := dirFlag(c)
	c.RunE = a.run("show the log policy", func(context.Context) error {
		d, err := ceremony.Open(*dir)
		if err != nil {
			return err
		}
		p, err := d.Log()
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", strings.Join(ceremony.DescribeLog(p), "\n"))
		return nil
	})
	return c
}
