package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
)

func (a *app) releaseCommand() *cobra.Command {
	hold := &cobra.Command{Use: "hold PRODUCT/VERSION", Short: "Stop offers and open streams at once; one person is enough", Args: cobra.ExactArgs(1)}
	detail := hold.Flags().String("detail", "", "why, for the audit log")
	required(hold, "detail")
	hold.RunE = a.release("hold the release", func(ctx context.Context, c *api.Client, product, version string) (api.Release, error) {
		return c.HoldRelease(ctx, product, version, api.HoldRequest{Detail: *detail})
	})
	verb := func(use, short, doing string, call releaseCall) *cobra.Command {
		return &cobra.Command{Use: use + " PRODUCT/VERSION", Short: short, Args: cobra.ExactArgs(1), RunE: a.release(doing, call)}
	}
	return group("release", "Releases: look, approve, hold, resume, prune", a.releaseList(), a.releaseDryRun(), hold, a.releasePrune(), a.releaseCollect(),
		verb("show", "Show one release", "show the release", func(ctx context.Context, c *api.Client, product, version string) (api.Release, error) {
			return c.Release(ctx, product, version)
		}),
		verb("approve", "Approve a staged release", "approve the release", func(ctx context.Context, c *api.Client, product, version string) (api.Release, error) {
			return c.ApproveRelease(ctx, product, version)
		}),
		verb("resume", "Approve that a held release goes on; it takes two people", "resume the release", func(ctx context.Context, c *api.Client, product, version string) (api.Release, error) {
			r, err := c.ResumeRelease(ctx, product, version)
			if err == nil && r.Hold {
				note("approved; it stays on hold until a second person resumes it")
			}
			return r, err
		}))
}

type releaseCall func(ctx context.Context, c *api.Client, product, version string) (api.Release, error)

// cutName takes a name of the form "PRODUCT/something" apart.
func cutName(text, form string) (product, rest string, err error) {
	product, rest, ok := strings.Cut(text, "/")
	if !ok || product == "" || rest == "" || strings.Contains(rest, "/") {
		return "", "", fmt.Errorf("%w: %q is not %s", errUsage, text, form)
	}
	return product, rest, nil
}

func (a *app) release(doing string, call releaseCall) func(*cobra.Command, []string) error {
	return a.run(doing, func(ctx context.Context, args []string) error {
		product, version, err := cutName(args[0], "PRODUCT/VERSION")
		if err != nil {
			return err
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		r, err := call(ctx, client, product, version)
		if err != nil {
			return err
		}
		return a.print(r, func(w io.Writer) error { return showRelease(w, r) })
	})
}

func showRelease(w io.Writer, r api.Release) error {
	hold := ""
	if r.Hold {
		hold = "yes: " + r.HoldReason
	}
	facts(w, "release", r.Name, "state", r.State, "withdrawn", withdrawnText(r), "pruned", when(r.PrunedAt), "on hold", hold, "counter", fmt.Sprint(r.Release.Counter), "recovery", yes(r.Release.Recovery),
		"publishers", strings.Join(r.Publishers, " "), "handed in by", r.CreatedBy, "at", moment(r.CreatedAt), "published", when(r.PublishedAt),
		"approvals", fmt.Sprintf("%d of %d", len(r.Approvals), r.Needed))
	for _, p := range r.Approvals {
		fmt.Fprintf(w, "  approved by %s at %s\n", plain(p.Person), moment(p.At))
	}
	for _, c := range r.Release.Components {
		fmt.Fprintf(w, "  component %s for %s: %d bytes, sha256 %s\n", plain(c.Name), plain(strings.Join(c.HardwareIDs, " ")), c.Length, c.SHA256)
	}
	return nil
}

// withdrawnText says what a withdrawal means.
func withdrawnText(r api.Release) string {
	if r.Withdrawn {
		return "yes: the offline role withdrew it; no device may install or boot it"
	}
	return ""
}

// stateOf is the state of a release in one cell of a table.
func stateOf(state string, withdrawn, hold bool) string {
	if withdrawn {
		state += ", withdrawn"
	}
	if hold {
		state += ", on hold"
	}
	return state
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func (a *app) releaseList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List releases", Args: cobra.NoArgs}
	product := c.Flags().String("product", "", "only of this `PRODUCT`")
	c.RunE = a.run("list releases", func(ctx context.Context, _ []string) error {
		releases, err := a.releases(ctx, *product)
		if err != nil {
			return err
		}
		return a.print(releases, func(w io.Writer) error {
			var rows [][]string
			for _, r := range releases {
				state := stateOf(r.State, r.Withdrawn, r.Hold)
				if r.PrunedAt != nil {
					state += ", pruned"
				}
				rows = append(rows, []string{r.Name, fmt.Sprint(r.Release.Counter), state, yes(r.Release.Recovery), fmt.Sprintf("%d/%d", len(r.Approvals), r.Needed), strings.Join(r.Publishers, " "), when(r.PublishedAt)})
			}
			return table(w, []string{"RELEASE", "COUNTER", "STATE", "RECOVERY", "APPROVALS", "PUBLISHERS", "PUBLISHED"}, rows)
		})
	})
	return c
}

func (a *app) releases(ctx context.Context, product string) ([]api.Release, error) {
	client, err := a.server.client()
	if err != nil {
		return nil, err
	}
	return all(ctx, func(ctx context.Context, after string) (api.Page[api.Release], error) {
		return client.Releases(ctx, product, after)
	})
}

// rollout is how far a product's devices have come.
type rollout struct {
	Product  string           `json:"product"`
	Devices  int              `json:"devices"` // active ones
	Pending  int              `json:"pending"`
	Releases []rolloutRelease `json:"releases"`
	Unproven int              `json:"unproven"` // active, and never proved a release
}

type rolloutRelease struct {
	Release    string `json:"release"`
	State      string `json:"state"`
	Hold       bool   `json:"hold"`
	Withdrawn  bool   `json:"withdrawn"`
	Proven     int    `json:"proven"`     // devices whose last proof was this release
	Offered    int    `json:"offered"`    // devices that are on their way to it
	Overdue    int    `json:"overdue"`    // of those, past their deadline
	Restricted int    `json:"restricted"` // of the proven, in the restricted segment
}

func (a *app) rolloutCommand() *cobra.Command {
	c := &cobra.Command{Use: "status PRODUCT", Short: "How many devices have, or are offered, which release", Args: cobra.ExactArgs(1)}
	c.RunE = a.run("show the rollout", func(ctx context.Context, args []string) error {
		releases, err := a.releases(ctx, args[0])
		if err != nil {
			return err
		}
		devices, err := a.fleet(ctx, args[0], "")
		if err != nil {
			return err
		}
		if len(releases) == 0 && len(devices) == 0 {
			note("there is no release and no device of this product")
		}
		r := countRollout(args[0], releases, devices, time.Now())
		return a.print(r, r.show)
	})
	return group("rollout", "How far releases have come", c)
}

func countRollout(product string, releases []api.Release, devices []api.Device, now time.Time) rollout {
	out := rollout{Product: product, Releases: []rolloutRelease{}}
	row := func(name string) *rolloutRelease {
		i := slices.IndexFunc(out.Releases, func(r rolloutRelease) bool { return r.Release == name })
		if i < 0 {
			out.Releases = append(out.Releases, rolloutRelease{Release: name, State: "unknown"})
			i = len(out.Releases) - 1
		}
		return &out.Releases[i]
	}
	for _, r := range releases {
		out.Releases = append(out.Releases, rolloutRelease{Release: r.Name, State: r.State, Hold: r.Hold, Withdrawn: r.Withdrawn})
	}
	for _, d := range devices {
		if d.Lifecycle == "pending" {
			out.Pending++
		}
		if d.Lifecycle != "active" {
			continue
		}
		out.Devices++
		if d.Proven == "" {
			out.Unproven++
		} else {
			r := row(d.Proven)
			r.Proven++
			if d.Segment != "production" {
				r.Restricted++
			}
		}
		if d.Offered != "" {
			r := row(d.Offered)
			r.Offered++
			if d.Deadline != nil && now.After(*d.Deadline) {
				r.Overdue++
			}
		}
	}
	return out
}

func (r rollout) show(w io.Writer) error {
	fmt.Fprintf(w, "%s: %d devices, %d of them never proved a release; %d wait to be claimed\n", plain(r.Product), r.Devices, r.Unproven, r.Pending)
	var rows [][]string
	for _, x := range r.Releases {
		state := stateOf(x.State, x.Withdrawn, x.Hold)
		rows = append(rows, []string{x.Release, state, fmt.Sprint(x.Proven), fmt.Sprint(x.Offered), fmt.Sprint(x.Overdue), fmt.Sprint(x.Restricted)})
	}
	return table(w, []string{"RELEASE", "STATE", "PROVEN", "OFFERED", "OVERDUE", "RESTRICTED"}, rows)
}

// story asks the server for the whole story of a device.
func (a *app) story(ctx context.Context, device string) (api.Why, error) {
	id, err := identity.ParseDeviceID(device)
	if err != nil {
		return api.Why{}, fmt.Errorf("%q: %w", device, err)
	}
	client, err := a.server.client()
	if err != nil {
		return api.Why{}, err
	}
	return client.Why(ctx, id.String())
}
