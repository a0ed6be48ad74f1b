package app

import (
	"github.com/cordon-ota/cordon/server/appraise"
	"github.com/cordon-ota/cordon/server/standing"
)

// wireReappraisal joins the sweeper that appraises stored Evidence again. It needs the metrics and the enforcer.
func (a *App) wireReappraisal(polls *appraise.Service, rules standing.Rules) {
	metrics := a.metrics
	done := func(s appraise.Swept) {
		metrics.Reappraised.SetToCurrentTime()
		for result, n := range map[string]int{"passed": s.Passed, "stale": s.Stale, "unproven": s.Unproven, "quarantined": s.Quarantined} {
			metrics.Reappraisals.WithLabelValues(result).Add(float64(n))
		}
	}
	var holder string
	if a.lock != nil { // the data directory, and the database in it, is this process's alone
		holder = "only server"
	}
	a.reappraisal = appraise.NewSweeper(polls, a.store, rules, holder, a.enforcer.Wake, done)
}
