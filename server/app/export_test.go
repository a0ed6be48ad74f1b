package app

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/config"
)

// DeviceTLS is the configuration of the device listener.
func DeviceTLS(cert tls.Certificate, now func() time.Time) *tls.Config { return deviceTLS(cert, now) }

// TicketLife bounds session tickets.
const TicketLife = ticketLife

// SweepBatch is how many devices the sweeper reads at once.
const SweepBatch = sweepBatch

// SweepOnce is one round of the sweeper.
func (a *App) SweepOnce(ctx context.Context) error { return a.sweepOnce(ctx) }

// Router is a listener's router with other routes.
func (a *App) Router(register func(*echo.Echo)) http.Handler { return a.echo(Admin, register) }

// Challenges are those of polls and of enrollments.
func (a *App) Challenges() (polls, enrollments *appraise.Challenges) {
	return a.challenges, a.enrollments
}

// Server is the HTTP server of a listener.
func (a *App) Server(name string) *http.Server { return a.server(context.Background(), name) }

// EKRoots are the TPM manufacturers' certificates that a server with this configuration believes.
func EKRoots(cfg config.Config) (identity.Roots, error) {
	a := &App{cfg: cfg, opt: Options{Log: slog.New(slog.DiscardHandler)}}
	admission, err := a.admission()
	return admission.Policy.Roots, err
}
