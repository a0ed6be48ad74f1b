package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/client/api"
)

func (a *app) deviceCommand() *cobra.Command {
	quarantine := &cobra.Command{Use: "quarantine ID", Short: "Restrict a device; one person is enough", Args: cobra.ExactArgs(1)}
	detail := quarantine.Flags().String("detail", "", "why, for the audit log")
	required(quarantine, "detail")
	quarantine.RunE = a.device("quarantine the device", func(ctx context.Context, c *api.Client, id string) (api.Device, error) {
		return c.QuarantineDevice(ctx, id, api.QuarantineRequest{Detail: *detail})
	})
	return group("device", "Devices: look, claim, retire, quarantine, release", a.deviceList(), a.deviceApprove(), quarantine, a.deviceForgetKey(),
		a.deviceVerb("show ID", "Show one device", "show the device", func(ctx context.Context, c *api.Client, id string) (api.Device, error) { return c.Device(ctx, id) }),
		a.deviceVerb("retire ID", "End a device for good", "retire the device", func(ctx context.Context, c *api.Client, id string) (api.Device, error) {
			return c.RetireDevice(ctx, id)
		}),
		a.deviceVerb("release ID", "Approve that a device leaves quarantine; the second person's approval ends it", "release the device", func(ctx context.Context, c *api.Client, id string) (api.Device, error) {
			return c.ReleaseDevice(ctx, id)
		}))
}

func (a *app) deviceForgetKey() *cobra.Command {
	c := &cobra.Command{Use: "forget-key ID", Short: "Ask that a device's attestation key is forgotten; the second person's word does it", Args: cobra.ExactArgs(1)}
	c.Long = `Ask that a device's attestation key is forgotten; the second person's word, within 72 hours, does it.

For a device that is refused with ak_not_bound because somebody rotated its key away. Its lease and its offer end at
once; with its next poll the agent enrolls by itself, with the same TPM, and proves its boot. Product, tier, counters and
quarantine stay. Clean the machine first: whoever is root when it enrolls registers the next key.`
	why := c.Flags().String("reason", "", "why, for the audit log")
	required(c, "reason")
	c.RunE = a.device("forget the attestation key", func(ctx context.Context, client *api.Client, id string) (api.Device, error) {
		return client.ForgetKey(ctx, id, api.ForgetKeyRequest{Reason: *why})
	})
	return c
}

type deviceCall func(ctx context.Context, c *api.Client, id string) (api.Device, error)

func (a *app) deviceVerb(use, short, doing string, call deviceCall) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: a.device(doing, call)}
}

// device runs a call on one device and shows what it is then.
func (a *app) device(doing string, call deviceCall) func(*cobra.Command, []string) error {
	return a.run(doing, func(ctx context.Context, args []string) error {
		id, err := identity.ParseDeviceID(args[0])
		if err != nil {
			return fmt.Errorf("%q: %w", args[0], err)
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		d, err := call(ctx, client, id.String())
		if err != nil {
			return err
		}
		return a.print(d, func(w io.Writer) error { return showDevice(w, d) })
	})
}

func showDevice(w io.Writer, d api.Device) error {
	var e api.Endorsement
	key := ""
	if d.Endorsement != nil {
		e, key = *d.Endorsement, d.Endorsement.Key.String()
	}
	facts(w, "device", d.ID, "product", d.Product, "hardware", d.HardwareID, "profile", d.Profile, "manufacturer", d.Manufacturer,
		"EK sha256", key, "EK serial", e.Serial, "EK issuers", strings.Join(e.Issuers, " "), "TPM firmware", e.Firmware,
		"lifecycle", d.Lifecycle, "standing", standingOf(d), "segment", d.Segment, "tier", fmt.Sprint(d.Tier), "admitted by", d.AdmittedBy,
		"proven", d.Proven, "proven at", when(d.ProvenAt), "lease until", when(d.LeaseUntil), "offered", d.Offered,
		"deadline", when(d.Deadline), "last seen", when(d.SeenAt), "enrolled", moment(d.EnrolledAt))
	for _, r := range d.Reasons {
		fmt.Fprintf(w, "held back: %s\n", plain(explain(r)))
	}
	if d.ForgetKey != nil {
		showForgetKey(w, *d.ForgetKey)
	}
	if d.Quarantine != nil {
		showQuarantine(w, *d.Quarantine)
	}
	return nil
}

func showForgetKey(w io.Writer, f api.ForgetKey) {
	for _, v := range f.Voices {
		fmt.Fprintf(w, "%s wants the attestation key forgotten: %s\n", plain(v.Person), plain(v.Reason))
		fmt.Fprintf(w, "  until %s a second person can do it with 'cordonctl device forget-key'\n", moment(v.Until))
	}
	if f.Forgotten {
		fmt.Fprintln(w, "the attestation key is forgotten; the device enrolls again by itself, with the same TPM, and then proves its boot")
	}
}

// standingOf marks a device that stands on a policy or baseline of the past: it gets nothing new before its Evidence has
// been appraised again.
func standingOf(d api.Device) string {
	if d.ReappraisalDue {
		return d.Standing + ", to be re-appraised"
	}
	return d.Standing
}

func showQuarantine(w io.Writer, q api.Quarantine) {
	fmt.Fprintf(w, "in quarantine since %s, by %s: %s\n", moment(q.Since), plain(q.By), plain(q.Detail))
	for _, r := range q.Causes {
		fmt.Fprintf(w, "  cause: %s\n", plain(explain(r)))
	}
	switch {
	case q.EndedAt != nil:
		fmt.Fprintf(w, "  ended %s\n", when(q.EndedAt))
	case q.RecoveredAt != nil:
		fmt.Fprintf(w, "  proved a good state at %s; two people, not counting who quarantined it, let it go with 'cordonctl device release'\n", when(q.RecoveredAt))
	default:
		fmt.Fprintf(w, "  has not proven a good state since; it gets the recovery release only\n")
	}
	for _, p := range q.Approvals {
		fmt.Fprintf(w, "  approved by %s at %s\n", plain(p.Person), moment(p.At))
	}
}

func (a *app) deviceList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List devices", Args: cobra.NoArgs}
	product := c.Flags().String("product", "", "only of this `PRODUCT`")
	standing := c.Flags().String("standing", "", "only with this standing: unproven, affirmed, stale or refused")
	c.RunE = a.run("list devices", func(ctx context.Context, _ []string) error {
		if !slices.Contains([]string{"", "unproven", "affirmed", "stale", "refused"}, *standing) {
			return fmt.Errorf("%w: --standing %q is none of unproven, affirmed, stale, refused", errUsage, *standing)
		}
		devices, err := a.fleet(ctx, *product, *standing)
		if err != nil {
			return err
		}
		return a.print(devices, func(w io.Writer) error {
			var rows [][]string
			for _, d := range devices {
				rows = append(rows, []string{d.ID, d.Product, d.HardwareID, d.Lifecycle, standingOf(d), d.Segment, d.Proven, d.Offered, when(d.SeenAt), fmt.Sprint(d.Tier), d.AdmittedBy, words(d.Reasons)})
			}
			return table(w, []string{"DEVICE", "PRODUCT", "HARDWARE", "LIFECYCLE", "STANDING", "SEGMENT", "PROVEN", "OFFERED", "SEEN", "TIER", "ADMITTED", "REASONS"}, rows)
		})
	})
	return c
}

// fleet reads all devices that fit.
func (a *app) fleet(ctx context.Context, product, standing string) ([]api.Device, error) {
	client, err := a.server.client()
	if err != nil {
		return nil, err
	}
	return all(ctx, func(ctx context.Context, after string) (api.Page[api.Device], error) {
		return client.Devices(ctx, api.DeviceQuery{Product: product, Standing: standing, After: after})
	})
}

// claimFlags say what a device is.
type claimFlags struct{ product, hardware, profile string }

func (f *claimFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.product, "product", "", "its `PRODUCT`")
	c.Flags().StringVar(&f.hardware, "hardware-id", "", "its hardware `ID`, as releases name it")
	c.Flags().StringVar(&f.profile, "profile", "", "its platform `PROFILE`, which names the baseline")
	required(c, "product", "hardware-id", "profile")
}

func (f *claimFlags) entry(id string) api.InventoryEntry {
	return api.InventoryEntry{Device: id, Product: f.product, HardwareID: f.hardware, Profile: f.profile}
}

func (a *app) deviceApprove() *cobra.Command {
	c := &cobra.Command{Use: "approve ID", Short: "Claim a pending device", Args: cobra.ExactArgs(1)}
	var claim claimFlags
	claim.add(c)
	c.RunE = a.device("approve the device", func(ctx context.Context, client *api.Client, id string) (api.Device, error) {
		return client.ApproveDevice(ctx, claim.entry(id))
	})
	return c
}

func (a *app) inventoryCommand() *cobra.Command {
	return group("inventory", "Which device belongs to which product, before it enrolls", a.inventorySet(), a.inventoryList(), a.inventoryRemove())
}

func (a *app) inventorySet() *cobra.Command {
	c := &cobra.Command{Use: "set ID", Short: "Claim a device by its id", Args: cobra.ExactArgs(1)}
	var claim claimFlags
	claim.add(c)
	addresses := c.Flags().StringSlice("address", nil, "an `IP` address of the device, for network enforcement points; may be repeated")
	macs := c.Flags().StringSlice("mac", nil, "a link `ADDRESS` of the device, like 02:00:00:00:00:01; may be repeated")
	c.RunE = a.inventory("set the inventory entry", "in the inventory", func(ctx context.Context, client *api.Client, id string) error {
		entry := claim.entry(id)
		entry.Addresses, entry.MACs = *addresses, *macs
		return client.PutInventory(ctx, entry)
	})
	return c
}

func (a *app) inventoryRemove() *cobra.Command {
	c := &cobra.Command{Use: "remove ID", Short: "Take an entry away", Args: cobra.ExactArgs(1)}
	c.RunE = a.inventory("remove the inventory entry", "removed from the inventory", func(ctx context.Context, client *api.Client, id string) error {
		return client.RemoveInventory(ctx, id)
	})
	return c
}

func (a *app) inventory(doing, done string, call func(ctx context.Context, c *api.Client, id string) error) func(*cobra.Command, []string) error {
	return a.run(doing, func(ctx context.Context, args []string) error {
		id, err := identity.ParseDeviceID(args[0])
		if err != nil {
			return fmt.Errorf("%q: %w", args[0], err)
		}
		client, err := a.server.client()
		if err != nil {
			return err
		}
		if err := call(ctx, client, id.String()); err != nil {
			return err
		}
		return a.done(done, id.String())
	})
}

func (a *app) inventoryList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the entries", Args: cobra.NoArgs}
	c.RunE = a.run("list the inventory", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		entries, err := all(ctx, client.Inventory)
		if err != nil {
			return err
		}
		return a.print(entries, func(w io.Writer) error {
			var rows [][]string
			for _, e := range entries {
				rows = append(rows, []string{e.Device, e.Product, e.HardwareID, e.Profile, words(e.Addresses), words(e.MACs)})
			}
			return table(w, []string{"DEVICE", "PRODUCT", "HARDWARE", "PROFILE", "ADDRESSES", "MACS"}, rows)
		})
	})
	return c
}

func (a *app) enrollTokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "new", Short: "Make a one-time token that claims whichever genuine TPM presents it", Args: cobra.NoArgs}
	var claim claimFlags
	claim.add(c)
	minutes := c.Flags().Int("minutes", 60, "how long it can be used, 1 to 10080 `MINUTES`")
	out := tokenOut(c)
	c.RunE = a.run("make an enrollment token", func(ctx context.Context, _ []string) error {
		return a.withToken(*out, func(client *api.Client) (string, any, error) {
			created, err := client.CreateEnrollToken(ctx, api.EnrollTokenRequest{Product: claim.product, HardwareID: claim.hardware, Profile: claim.profile, Minutes: *minutes})
			return created.Token, map[string]string{"expires_at": moment(created.ExpiresAt)}, err
		})
	})
	return group("enroll-token", "One-time tokens with which devices enroll", c)
}
