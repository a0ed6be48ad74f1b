// Command cordond is the cordon server.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/cordon-ota/cordon/server/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
