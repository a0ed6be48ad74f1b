package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/client/api"
)

// releasePrune gives the images of one release up.
func (a *app) releasePrune() *cobra.Command {
	c := &cobra.Command{Use: "prune PRODUCT/VERSION", Short: "Give the images of a release up, unless a device may need them", Args: cobra.ExactArgs(1)}
	detail := c.Flags().String("detail", "", "why, for the audit log")
	dry := c.Flags().Bool("dry-run", false, "check and change nothing")
	required(c, "detail")
	c.RunE = a.release("prune the release", func(ctx context.Context, client *api.Client, product, version string) (api.Release, error) {
		r, err := client.PruneRelease(ctx, product, version, api.PruneRequest{Detail: *detail, DryRun: *dry})
		if err == nil && *dry {
			note("nothing needs it; without --dry-run its images go when the grace is over")
		}
		return r, err
	})
	return c
}

// releaseCollect shows what lies in the artifact store for nothing, and removes it only when told to.
func (a *app) releaseCollect() *cobra.Command {
	c := &cobra.Command{Use: "gc", Short: "Show which artifacts nothing needs; with --apply, remove them", Args: cobra.NoArgs}
	apply := c.Flags().Bool("apply", false, "remove them")
	dry := c.Flags().Bool("dry-run", true, "show only")
	c.MarkFlagsMutuallyExclusive("apply", "dry-run")
	c.RunE = a.run("collect garbage", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		if *apply || !*dry {
			done, err := client.Collect(ctx)
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) error { return showCollected(w, done) })
		}
		plan, err := client.RetentionPlan(ctx)
		if err != nil {
			return err
		}
		return a.print(plan, func(w io.Writer) error { return showPlan(w, plan) })
	})
	return c
}

func showCollected(w io.Writer, r api.RetentionResult) error {
	facts(w, "blobs removed", fmt.Sprint(r.Blobs), "bytes", fmt.Sprint(r.Bytes), "unfinished uploads removed", fmt.Sprint(r.Uploads),
		"kept by a lock", fmt.Sprint(r.Retained), "releases pruned", strings.Join(r.Pruned, " "))
	if r.More {
		note("the store holds more: run it again, or leave it to the server")
	}
	return nil
}

func showPlan(w io.Writer, p api.RetentionPlan) error {
	var rows [][]string
	for _, r := range p.Releases {
		state := "kept"
		switch {
		case r.PrunedAt != nil:
			state = "pruned " + when(r.PrunedAt)
		case len(r.Needs) == 0:
			state = "may be pruned"
		}
		rows = append(rows, []string{r.Name, fmt.Sprint(r.Counter), state, needsText(r.Needs)})
	}
	if err := table(w, []string{"RELEASE", "COUNTER", "STATE", "NEEDED BECAUSE"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nnothing refers to %d blobs of %d bytes; %d uploads were left unfinished\n", p.Removable, p.Bytes, len(p.Uploads))
	for _, b := range p.Blobs {
		locked := ""
		if b.LockedUntil != nil {
			locked = ", locked until " + moment(*b.LockedUntil)
		}
		fmt.Fprintf(w, "  blob %s: %d bytes, from %s%s\n", b.SHA256, b.Bytes, moment(b.Modified), locked)
	}
	for _, u := range p.Uploads {
		fmt.Fprintf(w, "  unfinished upload %s, from %s\n", u.SHA256, moment(u.Modified))
	}
	if p.More {
		note("the store holds more than was looked at")
	}
	note("this was a dry run; --apply removes blobs and uploads, and 'release prune' gives a release up")
	return nil
}

func needsText(needs []api.RetentionNeed) string {
	var out []string
	for _, n := range needs {
		text := plain(strings.ReplaceAll(n.Why, "_", " "))
		if n.Devices > 0 {
			text = fmt.Sprintf("%s (%d devices)", text, n.Devices)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}
