package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cordon-ota/cordon/artifacts/crash"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/standing"
	"github.com/cordon-ota/cordon/server/store"
)

const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 2 * time.Minute // a chunk of an upload
	// An answer has to be read in this time, or somebody could hold any number of them in memory without ever reading. The
	// artifact door sets its own limit for each piece, so a long download goes on.
	deviceWriteTimeout = 3 * time.Minute
	adminWriteTimeout  = 15 * time.Minute // reports are large, and publishing reads whole images
	idleTimeout        = 3 * time.Minute
	shutdownTimeout    = 10 * time.Second
	maxHeaderBytes     = 16 << 10
	followEvery        = time.Second
	sweepEvery         = 5 * time.Second
	sweepBatch         = 256
)

// Run serves until ctx ends, then lets open requests finish for a moment. It returns the first failure.
func (a *App) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 8)
	running := 0
	start := func(name string, run func(context.Context) error) {
		running++
		go func() {
			err := run(ctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			failed <- err
		}()
	}
	start("repository", func(ctx context.Context) error { return a.repository.Run(ctx, followEvery) })
	start("door", a.enforcer.Run)
	start("sweeper", a.sweep)
	start("restored", a.orderAgain)
	start("reappraisal", a.reappraisal.Run)
	for name, run := range a.network.runs {
		start(name, run)
	}
	start("retention", a.collect)
	start("log", a.log.Run)
	for _, name := range []string{Devices, Admin, Metrics} {
		start(name, func(ctx context.Context) error { return a.serve(ctx, name) })
	}
	var first error
	for ; running > 0; running-- {
		if err := <-failed; err != nil && first == nil {
			first = err
		}
		cancel() // one part down takes the others with it
	}
	return first
}

// server makes the HTTP server of a listener: whatever a peer sends or leaves unread is bounded in size and time.
func (a *App) server(ctx context.Context, name string) *http.Server {
	write := deviceWriteTimeout
	if name != Devices {
		write = adminWriteTimeout
	}
	return &http.Server{
		Handler: a.handler(name), ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: write,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(a.opt.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
}

func (a *App) serve(ctx context.Context, name string) error {
	server := a.server(ctx, name)
	listener := a.listeners[name]
	switch name {
	case Devices:
		listener = tls.NewListener(listener, deviceTLS(a.keys.tls, a.opt.Now))
	case Admin:
		listener = tls.NewListener(listener, adminTLS(a.keys.tls))
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		_ = server.Close() // what is still open is cut
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// echo makes a listener's router with request id, metrics, one log line per request and the problem handler.
func (a *App) echo(listener string, register func(*echo.Echo)) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = problem.Handler(a.opt.Log)
	e.Use(a.observe(listener))
	register(e)
	return e
}

func (a *App) observe(listener string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			started := time.Now()
			c.Response().Header().Set(problem.RequestIDHeader, newRequestID())
			err := a.survive(next, c)
			if err != nil {
				if _, known := problem.Document(err, ""); known != nil {
					a.metrics.Refusals.WithLabelValues(string(known.Reason)).Inc()
				}
				c.Error(err)
			}
			route, took := c.Path(), time.Since(started)
			status := c.Response().Status
			a.metrics.Requests.WithLabelValues(listener, route, strconv.Itoa(status/100)+"xx").Inc()
			a.metrics.Seconds.WithLabelValues(listener, route).Observe(took.Seconds())
			a.opt.Log.DebugContext(c.Request().Context(), "request", "listener", listener, "method", c.Request().Method, "route", route,
				"status", status, "took", took, "request_id", c.Response().Header().Get(problem.RequestIDHeader))
			return nil
		}
	}
}

// survive turns a crash of a handler into an error, so that it is logged and answered like any other.
func (a *App) survive(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		p := recover()
		if p == http.ErrAbortHandler {
			panic(p) // a handler that cuts its answer on purpose
		}
		if p != nil {
			err = fmt.Errorf("handler crashed: %v\n%s", p, debug.Stack())
		}
	}()
	return next(c)
}

func newRequestID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// adminRoutes adds the admin API and the two probes.
func (a *App) adminRoutes(e *echo.Echo) {
	a.admin.Register(e)
	e.GET("/healthz", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", func(c echo.Context) error {
		if err := a.store.Ping(c.Request().Context()); err != nil {
			return problem.Busy(err, followEvery)
		}
		if !a.repository.Catalog().Initialised() {
			return c.String(http.StatusServiceUnavailable, "uninitialised: run 'cordon-sign root init' and the ceremony\n")
		}
		if age := a.repository.Age(); age > a.cfg.Times.BeaconWindow.Std() {
			return c.String(http.StatusServiceUnavailable, fmt.Sprintf("the timestamp is %s old\n", age.Round(time.Second)))
		}
		return c.String(http.StatusOK, "ready\n"+a.logLine()+"\n")
	})
}

func (a *App) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.Registry, promhttp.HandlerOpts{Registry: a.metrics.Registry}))
	return mux
}

// sweep makes devices stale, moves overdue ones and removes what has expired, until the context ends.
func (a *App) sweep(ctx context.Context) error {
	tick := time.NewTicker(min(sweepEvery, a.cfg.Times.Lease.Std()/4))
	defer tick.Stop()
	for {
		if err := a.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			a.opt.Log.ErrorContext(ctx, "cannot sweep", "error", err)
		} else if err == nil {
			a.metrics.Swept.SetToCurrentTime()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-a.sweepNow:
		}
	}
}

// wakeSweeper has the sweeper look now.
func (a *App) wakeSweeper() {
	select {
	case a.sweepNow <- struct{}{}:
	default: // it is wanted already
	}
}

// sweepOnce looks at every device that is due, batch by batch.
func (a *App) sweepOnce(ctx context.Context) error {
	if err := a.sweepDenied(ctx); err != nil {
		return err
	}
	now := a.opt.Now()
	rules := a.rules()
	for {
		due, err := a.store.DevicesDue(ctx, now, sweepBatch)
		if err != nil {
			return err
		}
		moved := false
		for _, d := range due {
			changed, err := a.sweepDevice(ctx, d, rules, now)
			if err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			moved = moved || changed && err == nil
		}
		if !moved || len(due) < sweepBatch {
			return a.store.Sweep(ctx, now)
		}
	}
}

func (a *App) sweepDevice(ctx context.Context, d fleet.Device, rules standing.Rules, now time.Time) (changed bool, err error) {
	step, changed := fleet.Expire(d, now)
	open, err := store.QuarantineOf(ctx, a.store, d.ID)
	if err != nil {
		return false, err
	}
	if !changed && !rules.Moves(step.Device, open, now) {
		return false, nil
	}
	return true, a.sweepStep(ctx, d, open, step, rules, now)
}

// sweepStep commits what the sweeper decided about a device.
func (a *App) sweepStep(ctx context.Context, d fleet.Device, open *fleet.Quarantine, step fleet.Step, rules standing.Rules, now time.Time) error {
	var change store.Change
	standing.Take(&change, &d, &open, step, "sweeper", now)
	rules.Close(&change, &d, open, "sweeper", now)
	crash.Here(crash.SweepDecided)
	if err := a.store.Commit(ctx, change); err != nil {
		return err
	}
	crash.Here(crash.SweepCommitted)
	a.enforcer.Wake()
	return nil
}
