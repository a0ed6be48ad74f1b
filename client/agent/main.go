// Command cordon-agent is the device agent: the client library with a command line.
//
// It exits 0 when nothing was refused, 1 when something was, 2 for wrong usage and 3 when nothing could be decided. It
// refuses to start without a trust bundle, which belongs in the device's measured image.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
