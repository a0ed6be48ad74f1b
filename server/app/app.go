// Package app joins the parts of cordond: the only place that constructs things. New reads and checks everything, Run
// serves until its context ends, Close undoes New.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/adminapi"
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
	"github.com/cordon-ota/cordon/server/authn"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/deviceapi"
	"github.com/cordon-ota/cordon/server/deviceca"
	"github.com/cordon-ota/cordon/server/director"
	"github.com/cordon-ota/cordon/server/enroll"
	"github.com/cordon-ota/cordon/server/epoch"
	"github.com/cordon-ota/cordon/server/observe"
	"github.com/cordon-ota/cordon/server/platform"
	"github.com/cordon-ota/cordon/server/report"
	"github.com/cordon-ota/cordon/server/repository"
	"github.com/cordon-ota/cordon/server/retention"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/store"
)

// Lives of online metadata. The timestamp outlives a weekend without a server; a new one is issued far more often.
const (
	timestampLife = 24 * time.Hour
	snapshotLife  = 7 * 24 * time.Hour
	productLife   = 90 * 24 * time.Hour
	directorLife  = 24 * time.Hour
)

// knownStates is how many boot states the server remembers as affirmed: at most some 25 MB of memory. Devices whose state
// is not among them cost a reading of their log with each quote.
const knownStates = 1 << 16

// Options are what New takes beside the configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	Now     func() time.Time // the server's clock; time.Now if nil
}

// App is a running server.
type App struct {
	cfg   config.Config
	opt   Options
	keys  *keyring
	epoch epoch.State
	// challenges of polls and of enrollments, by the secrets of this epoch
	challenges, enrollments *appraise.Challenges
	store                   *store.Store
	repository              *repository.Service
	retention               *retention.Service
	reappraisal             *appraise.Sweeper
	enforcer                *segment.Enforcer
	network                 network
	log                     *tilelog.Log
	logKey                  *tilelog.Key
	metrics                 *observe.Metrics
	device                  *deviceapi.Server
	admin                   *adminapi.Server

	sweepNow chan struct{} // room for one: the sweeper is wanted before its time
	denied   string        // the deny list that the fleet was last held against in full; the sweeper's

	lock      *os.File // held while the data directory is in use; nil with PostgreSQL
	listeners map[string]net.Listener
	closeOnce sync.Once
}

// Names of the listeners, for Addr.
const (
	Devices = "devices"
	Admin   = "admin"
	Metrics = "metrics"
)

// New opens data directory, database, artifact store and listeners. Nothing is served before Run.
func New(ctx context.Context, cfg config.Config, opt Options) (*App, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	a := &App{cfg: cfg, opt: opt, listeners: map[string]net.Listener{}, sweepNow: make(chan struct{}, 1)}
	if err := a.open(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func (a *App) open(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the data directory: %w", err)
	}
	dsn, err := a.cfg.DSN()
	if err != nil {
		return err
	}
	if err := a.lockData(dsn); err != nil {
		return err
	}
	if err := a.checkRestored(); err != nil {
		return err
	}
	if a.keys, err = openKeyring(filepath.Join(a.cfg.DataDir, "keys"), a.cfg.Names, a.cfg.TrustDomain, a.opt.Now()); err != nil {
		return err
	}
	if a.store, err = store.Open(ctx, dsn, a.opt.Log); err != nil {
		return err
	}
	if a.epoch, err = epoch.Load(ctx, a.store); err != nil {
		return err
	}
	blobs, err := a.openArtifacts(ctx)
	if err != nil {
		return err
	}
	admission, err := a.admission()
	if err != nil {
		return err
	}
	if err := a.listen(); err != nil {
		return err
	}
	return a.wire(ctx, blobs, admission)
}

func (a *App) listen() error {
	for name, address := range map[string]string{Devices: a.cfg.Listen.Devices, Admin: a.cfg.Listen.Admin, Metrics: a.cfg.Listen.Metrics} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("cannot listen for %s: %w", name, err)
		}
		a.listeners[name] = l
	}
	return nil
}

// Addr returns the address of a listener, with the real port.
func (a *App) Addr(name string) string { return a.listeners[name].Addr().String() }

// DeviceURL is what devices connect to.
func (a *App) DeviceURL() string {
	if a.cfg.Listen.DeviceURL != "" {
		return strings.TrimSuffix(a.cfg.Listen.DeviceURL, "/")
	}
	return a.url(Devices)
}

// AdminURL is what the command line tools connect to.
func (a *App) AdminURL() string { return a.url(Admin) }

func (a *App) url(name string) string {
	_, port, _ := net.SplitHostPort(a.Addr(name))
	return "https://" + net.JoinHostPort(a.cfg.Names[0], port)
}

// CASHA256 is the fingerprint that a ceremony pins.
func (a *App) CASHA256() digest.SHA256 { return digest.Of(a.keys.serverCA.cert.Raw) }

func (a *App) wire(ctx context.Context, blobs retention.Artifacts, admission enroll.Admission) error {
	t, now, log := a.cfg.Times, a.opt.Now, a.opt.Log
	rules := a.rules()
	build := "cordond/" + a.opt.Version
	a.repository = repository.New(a.store, blobs,
		repository.Keys{Snapshot: a.keys.snapshot, Timestamp: a.keys.timestamp, Product: a.keys.product, Director: a.keys.director},
		repository.Lives{Timestamp: timestampLife, Snapshot: snapshotLife, Product: productLife, Every: t.Timestamp.Std(), Above: a.epoch.Floor()}, now, log)
	if err := a.repository.Load(ctx); err != nil {
		return err
	}
	ca, err := deviceca.New(a.keys.deviceCA.cert, a.keys.deviceCA.key, a.cfg.TrustDomain)
	if err != nil {
		return err
	}
	a.challenges = appraise.NewChallenges(a.epoch.Secret(a.keys.challenge), t.Challenge.Std())
	a.enrollments = appraise.NewChallenges(a.epoch.Secret(a.keys.enrollment), t.Challenge.Std())
	door := segment.NewDoor()
	a.enforcer = segment.NewEnforcer(a.store, door, a.repository.Catalog, t.Enforce.Std(), now, log)
	files := repository.NewFiles(a.repository)
	known := attestation.NewCache(knownStates)
	polls := appraise.New(a.store, a.repository.Catalog, a.challenges,
		director.New(a.keys.director, directorLife).Above(a.epoch.Floor()), ca, appraise.Settings{
			Terms: rules.Terms, Poll: t.Poll.Std(), Jitter: config.Jitter, BeaconWindow: t.BeaconWindow.Std(),
			UpdateDeadline: t.UpdateDeadline.Std(), Points: rules.Points, Build: build, Cache: known,
			Floor: a.epoch.Floor(), RestoredAt: a.epoch.RestoredAt,
		}, now, log)
	a.device = &deviceapi.Server{
		Polls: polls, Store: a.store, Blobs: blobs, Files: files, Door: door, Enforcer: a.enforcer, Catalog: a.repository.Catalog, Now: now, Log: log,
		Enroll: enroll.New(a.store, admission, a.enrollments, a.epoch.Secret(a.keys.activation), rules, t.Challenge.Std(), now),
	}
	keys, err := a.keys.onlineKeys()
	if err != nil {
		return err
	}
	status := api.Status{
		Version: a.opt.Version, TrustDomain: a.cfg.TrustDomain, DeviceURL: a.DeviceURL(),
		ServerCA: a.keys.serverCA.pem(), ServerCASHA256: a.CASHA256(), Keys: keys,
		Epoch: a.epoch.Epoch,
	}
	if status.Downloads, err = a.wireRedirects(ctx, blobs); err != nil {
		return err
	}
	if err := a.openLog(); err != nil {
		return err
	}
	status.LogKey = a.logKey.Verifier()
	reports, err := report.New(report.Config{
		Log:   a.log,
		Store: a.store, Catalog: a.repository.Catalog, Blobs: blobs, Key: a.keys.report.key, Certificate: a.keys.report.cert.Raw,
		Server: a.DeviceURL(), TrustDomain: a.cfg.TrustDomain, Build: build, Now: now,
	})
	if err != nil {
		return err
	}
	a.admin = &adminapi.Server{
		Store: a.store, Blobs: blobs, Repository: a.repository, Files: files, Reports: reports, Enforcer: a.enforcer, Log: a.log,
		Authn: authn.New(a.store, now), Status: func() api.Status { return status }, Terms: rules.Terms, Points: rules.Points, Now: now,
		Sweep: a.wakeSweeper, Platform: platform.New(a.store, a.repository),
	}
	a.metrics = observe.NewMetrics(func() float64 { return a.repository.Age().Seconds() })
	a.metrics.WatchStates(func() (hits, misses float64, entries float64) {
		c := known.Counts()
		return float64(c.Hits), float64(c.Misses), float64(c.Entries)
	})
	a.watchLog()
	if err := a.wireNetwork(ctx); err != nil {
		return err
	}
	a.wireRetention(blobs)
	a.wireReappraisal(polls, rules)
	return a.bootstrap(ctx)
}

// bootstrap writes the one-time token at the first start, and says what to do next.
func (a *App) bootstrap(ctx context.Context) error {
	path := filepath.Join(a.cfg.DataDir, "admin.token")
	_, _, err := a.store.Setting(ctx, authn.SettingBootstrap)
	if errors.Is(err, store.ErrNotFound) {
		token := authn.NewToken()
		// The file comes first: a token that nobody can read would lock everybody out.
		if err := writeFile(path, []byte(token+"\n")); err != nil {
			return err
		}
		hash := authn.Hash(token)
		err = a.store.Commit(ctx, store.Change{
			Expect: []store.Expect{{Table: store.Settings, Key: authn.SettingBootstrap, Version: 0}},
			Writes: []store.Write{store.PutSetting{Name: authn.SettingBootstrap, Value: hash[:]}},
			Events: []store.Event{{At: a.opt.Now(), Type: audit.ServerStarted, Actor: "server", Subject: "server", Data: map[string]any{
				"version": a.opt.Version, "server_ca_sha256": a.CASHA256(),
			}}},
		})
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("cannot bootstrap: %w", err)
	}
	log := a.opt.Log.With("admin", a.AdminURL(), "devices", a.DeviceURL(), "ca_sha256", a.CASHA256().String())
	if !a.repository.Catalog().Initialised() {
		log.Info("the server is uninitialised: run 'cordon-sign root init --server URL --ca-sha256 HEX'", "one_time_token_file", path)
		return nil
	}
	log.Info("the server is ready to run")
	return nil
}

// Close undoes New. It may be called more than once.
func (a *App) Close() {
	a.closeOnce.Do(func() {
		for _, l := range a.listeners {
			_ = l.Close() // closed by Run already, as a rule
		}
		for _, done := range a.network.closes {
			_ = done() // idle connections, and sockets that Run has closed already, as a rule
		}
		if a.store != nil {
			if err := a.store.Close(); err != nil {
				a.opt.Log.Error("cannot close the database", "error", err)
			}
		}
		if a.lock != nil {
			_ = a.lock.Close() // and with it the lock
		}
	})
}

// handler returns the handler of a listener; see serve.go.
func (a *App) handler(name string) http.Handler {
	switch name {
	case Devices:
		return a.echo(name, a.device.Register)
	case Admin:
		return a.echo(name, a.adminRoutes)
	}
	return a.metricsHandler()
}
