package app

import (
	"context"
	"fmt"

	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/standing"
)

// network is what tells the network where devices may be.
type network struct {
	drivers []*segment.Driver
	runs    map[string]func(context.Context) error // what a point runs beside its driver, by name
	closes  []func() error
}

// pointNames are the configured network enforcement points.
func (a *App) pointNames() []string { return a.cfg.Segment.PointNames() }

// rules are what every decision about a device is written down with.
func (a *App) rules() standing.Rules {
	t := a.cfg.Times
	return standing.Rules{
		Terms:  fleet.Terms{Lease: t.Lease.Std(), Grace: t.Grace.Std(), Epoch: a.epoch.Floor()},
		Points: a.pointNames(),
	}
}

// wireNetwork makes the points and their drivers. A point that does not answer is no reason not to start: its orders wait.
func (a *App) wireNetwork(ctx context.Context) error {
	a.network.runs = map[string]func(context.Context) error{}
	points, err := a.points(ctx)
	if err != nil {
		return err
	}
	s := a.cfg.Segment
	pace := segment.DefaultPace
	pace.Every, pace.Timeout, pace.Parallel = a.cfg.Times.Enforce.Std(), s.Timeout.Std(), s.Parallel
	pace.Rate, pace.Burst = s.Rate, max(1, int(s.Rate))
	pace.RetryMax, pace.Reconcile = s.RetryMax.Std(), s.Reconcile.Std()
	pace.RetryMin = min(pace.RetryMin, pace.RetryMax)
	for _, p := range points {
		driver := segment.NewDriver(segment.Drive{
			Point: p, Store: a.store, Pace: pace, Floor: a.epoch.Floor(), Now: a.opt.Now, Log: a.opt.Log, Metrics: a.metrics,
			Breaker: segment.Breaker{Devices: s.BreakerDevices, Percent: s.BreakerPercent, Window: s.BreakerWindow.Std()},
		})
		a.network.drivers = append(a.network.drivers, driver)
		a.network.runs["segment "+p.Name()] = driver.Run
	}
	a.enforcer.Join(a.network.drivers...)
	a.admin.Drivers = a.network.drivers
	if s.LearnAddresses {
		a.device.Places = segment.NewLearner(a.store, a.rules(), a.opt.Now, a.opt.Log, a.enforcer.Wake)
	}
	return nil
}

func (a *App) points(ctx context.Context) ([]segment.Point, error) {
	var out []segment.Point
	for _, c := range a.cfg.Segment.NFTables {
		p, err := a.nftables(ctx, c)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	for _, c := range a.cfg.Segment.RADIUS {
		p, err := a.radius(ctx, c)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	for _, c := range a.cfg.Segment.Webhook {
		p, err := a.webhook(c)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (a *App) nftables(ctx context.Context, c config.NFTables) (segment.Point, error) {
	p, err := a.newNFTables(c)
	if err != nil {
		return nil, err
	}
	if err := p.Install(ctx); err != nil {
		a.opt.Log.Warn("cannot install the nftables table yet: its orders wait", "point", c.Name, "error", err)
	}
	return p, nil
}

func (a *App) radius(ctx context.Context, c config.RADIUS) (segment.Point, error) {
	p, err := a.newRADIUS(c)
	if err != nil {
		return nil, err
	}
	if _, err := p.Listen(ctx); err != nil {
		return nil, fmt.Errorf("segment.radius %q: %w", c.Name, err)
	}
	a.network.closes = append(a.network.closes, p.Close)
	a.network.runs["radius "+c.Name] = p.Run
	return p, nil
}

func (a *App) webhook(c config.Webhook) (segment.Point, error) {
	p, err := a.newWebhook(c, a.keys.webhook)
	if err != nil {
		return nil, err
	}
	a.network.closes = append(a.network.closes, p.Close)
	return p, nil
}
