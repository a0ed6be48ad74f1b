package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/client/api"
)

func (a *app) endorsementCommand() *cobra.Command {
	return group("endorsement", "The deny list of TPM endorsement keys", a.endorsementDeny(), a.endorsementList(), a.endorsementLift())
}

func (a *app) endorsementDeny() *cobra.Command {
	c := &cobra.Command{Use: "deny", Short: "Stop believing TPMs; one person is enough", Args: cobra.NoArgs,
		Long: "Stop believing TPMs, named in one of four ways: --key, --serial with --issuer, --issuer alone, or --manufacturer\n" +
			"with --firmware-from and --firmware-to. Devices with such a TPM cannot enroll, and those in the fleet get nothing\n" +
			"but the recovery release from their next poll on."}
	var r api.DenialRequest
	f := c.Flags()
	f.StringVar(&r.Key, "key", "", "`SHA256` of the endorsement key's SubjectPublicKeyInfo")
	f.StringVar(&r.Serial, "serial", "", "serial number of an EK certificate, in `HEX`")
	f.StringVar(&r.Issuer, "issuer", "", "key identifier of an issuer, in `HEX`")
	f.StringVar(&r.Manufacturer, "manufacturer", "", "TPM manufacturer, as `ID` like id:49465800")
	f.StringVar(&r.FirmwareFrom, "firmware-from", "", "the first denied firmware version, in `HEX`")
	f.StringVar(&r.FirmwareTo, "firmware-to", "", "the last denied firmware version, in `HEX`")
	f.StringVar(&r.Why, "why", "", "why, for operators and the audit log")
	required(c, "why")
	c.RunE = a.run("deny endorsement keys", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		n, err := client.DenyEndorsement(ctx, r)
		if err != nil {
			return err
		}
		return a.print(n, func(w io.Writer) error { return showDenial(w, n) })
	})
	return c
}

func (a *app) endorsementLift() *cobra.Command {
	c := &cobra.Command{Use: "lift ID", Short: "Approve that a denial ends; the second person's approval ends it", Args: cobra.ExactArgs(1)}
	c.RunE = a.run("lift the denial", func(ctx context.Context, args []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		n, err := client.LiftEndorsement(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(n, func(w io.Writer) error { return showDenial(w, n) })
	})
	return c
}

func (a *app) endorsementList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the denials, lifted ones included", Args: cobra.NoArgs}
	c.RunE = a.run("list the denials", func(ctx context.Context, _ []string) error {
		client, err := a.server.client()
		if err != nil {
			return err
		}
		denials, err := all(ctx, client.Denials)
		if err != nil {
			return err
		}
		return a.print(denials, func(w io.Writer) error {
			var rows [][]string
			for _, n := range denials {
				rows = append(rows, []string{n.ID, deniedTPMs(n), denialState(n), n.By, moment(n.At), n.Why})
			}
			return table(w, []string{"DENIAL", "TPMS", "STATE", "BY", "SINCE", "WHY"}, rows)
		})
	})
	return c
}

func showDenial(w io.Writer, n api.Denial) error {
	facts(w, "denial", n.ID, "tpms", deniedTPMs(n), "state", denialState(n), "by", n.By, "since", moment(n.At), "why", n.Why, "lifted", when(n.LiftedAt))
	for _, p := range n.Approvals {
		fmt.Fprintf(w, "  lifting approved by %s at %s\n", plain(p.Person), moment(p.At))
	}
	if n.LiftedAt == nil && len(n.Approvals) > 0 {
		fmt.Fprintln(w, "  two people, not counting who denied it, lift it with 'cordonctl endorsement lift'")
	}
	return nil
}

// deniedTPMs says which TPMs a denial names.
func deniedTPMs(n api.Denial) string {
	switch {
	case n.Key != "":
		return "key " + n.Key
	case n.Serial != "":
		return "serial " + n.Serial + " of issuer " + n.Issuer
	case n.Issuer != "":
		return "issuer " + n.Issuer
	}
	return fmt.Sprintf("manufacturer %s with firmware %s to %s", n.Manufacturer, n.FirmwareFrom, n.FirmwareTo)
}

func denialState(n api.Denial) string {
	switch {
	case n.LiftedAt != nil:
		return "lifted"
	case len(n.Approvals) > 0:
		return fmt.Sprintf("in force, %d for lifting", len(n.Approvals))
	}
	return "in force"
}
