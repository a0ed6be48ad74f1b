package client_test

import (
	"context"
	"fmt"

	"github.com/cordon-ota/cordon/client"
	"github.com/cordon-ota/cordon/client/installer"
	"github.com/cordon-ota/cordon/client/tpm"
	"github.com/cordon-ota/cordon/client/wire"
)

// A device that keeps itself proven and up to date. bundle is the trust bundle from its measured image.
func Example() {
	var bundle []byte
	ctx := context.Background()
	trust, err := wire.DecodeTrust(bundle)
	if err != nil {
		fmt.Println(err)
		return
	}
	device, err := tpm.Open("/dev/tpmrm0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer device.Close()
	slots, err := installer.Open("ab:/boot/slots")
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := client.New(client.Config{Trust: trust, TPM: device, StateDir: "/var/lib/cordon", Installers: []installer.Installer{slots}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Run(ctx))
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
