package app

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/server/audit/tilelog"
)

// proofWait bounds how long a report waits for the log to cover its events.
const proofWait = 5 * time.Second

// openLog makes the tile log of the audit rows. It reads nothing yet: a disk that fails it must not keep the server from
// starting.
func (a *App) openLog() error {
	key, err := tilelog.NewKey(a.logOrigin(), a.keys.log)
	if err != nil {
		return err
	}
	roots, err := readRoots("audit.witness_ca_file", a.cfg.Audit.WitnessCAFile)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	a.logKey = key
	a.log = tilelog.New(tilelog.Config{
		Store: a.store, Dir: a.cfg.Audit.Dir, Key: key, Every: a.cfg.Audit.Every.Std(), Wait: proofWait, Now: a.opt.Now, Log: a.opt.Log,
		Policy: func() []byte { return a.repository.Catalog().OfflineFiles[tlog.PolicyPath] }, Client: &http.Client{Transport: transport},
	})
	return nil
}

// logOrigin names the log. After a restore it is another log: the old one may have gone on with rows that are lost, and
// under its name the key would sign a second history. Holders name the new one in the offline policy.
func (a *App) logOrigin() string {
	if a.epoch.Epoch == 0 {
		return a.cfg.Audit.Origin
	}
	return fmt.Sprintf("%s/%d", a.cfg.Audit.Origin, a.epoch.Epoch)
}

// logLine says in one sentence how far the log is, for /readyz: a log that stands still takes nothing from devices.
func (a *App) logLine() string {
	s := a.log.Status()
	switch {
	case s.Stopped != "":
		return "the audit log has stopped: " + s.Stopped
	case s.Quorum > 0:
		return fmt.Sprintf("audit log: %d events, %d signed, %d witnessed", s.Rows, s.Signed, s.Witnessed)
	}
	return fmt.Sprintf("audit log: %d events, %d signed, no witness", s.Rows, s.Signed)
}

func (a *App) watchLog() {
	a.metrics.WatchLog(func() (lag float64, stopped bool) {
		s := a.log.Status()
		return float64(s.Lag()), s.Stopped != ""
	})
}
