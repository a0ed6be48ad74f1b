package client_test

import (
	"context"
	"fmt"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
)

// A device that keeps itself proven and up to date.
func Example() {
	c, err := client.Open(client.Paths{
		Trust: "/usr/share/cordon/trust.json", // part of the measured image
		TPM:   "/dev/tpmrm0",
		State: "/var/lib/cordon",
		Slots: "ab:/boot/slots",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Println(c.Run(context.Background()))
}

// The same, step by step, for programs that decide themselves when to install.
func Example_steps() {
	ctx := context.Background()
	var c *client.Client
	var slots installer.Installer
	if _, err := c.Enroll(ctx); err != nil {
		fmt.Println(err)
		return
	}
	r, err := c.Check(ctx)
	switch {
	case err != nil:
		fmt.Println("nothing could be decided:", err)
	case r.Proven:
		_, err = c.Commit(ctx) // the release that was tried is permanent now
	case r.Update != nil:
		_, err = r.Update.Install(ctx, slots) // and restart
	default:
		fmt.Println("refused:", r.Refusals) // empty: nothing to do
	}
	_ = err
}
