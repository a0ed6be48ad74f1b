// Package observe makes the logger and the metrics of cordond, and names the labels.
//
// Labels come from closed sets; a device id is never a label.
package observe

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewLogger makes the logger. level is "debug", "info", "warn" or "error"; format is "text" or "json".
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, fmt.Errorf("log level %q is not debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}

// Metrics are all metrics of the server, in a registry of their own.
type Metrics struct {
	Registry *prometheus.Registry
	Requests *prometheus.CounterVec   // listener, route, status class
	Seconds  *prometheus.HistogramVec // listener, route
	Refusals *prometheus.CounterVec   // reason
	Swept    prometheus.Gauge         // Unix time of the sweeper's last complete round

	Reappraised  prometheus.Gauge       // Unix time of the last complete round of re-appraisal
	Reappraisals *prometheus.CounterVec // result: "passed", "stale", "unproven", "quarantined"

	Collected    prometheus.Gauge       // Unix time of the last complete round of garbage collection
	Removed      *prometheus.CounterVec // kind: "blob", "upload"
	RemovedBytes prometheus.Counter

	SegmentOrders  *prometheus.GaugeVec     // point, state: open orders at network points
	SegmentSeconds *prometheus.HistogramVec // point: from the request to the read-back
	SegmentDrift   *prometheus.CounterVec   // point
	SegmentBreaker *prometheus.GaugeVec     // product: 1 while tightening network orders wait for a person
}

// NewMetrics registers the metrics. age reports how old the current timestamp is, in seconds.
func NewMetrics(age func() float64) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		Requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cordon_requests_total", Help: "Requests by listener, route and status class.",
		}, []string{"listener", "route", "status"}),
		Seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cordon_request_seconds", Help: "Time to answer a request.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"listener", "route"}),
		Refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cordon_refusals_total", Help: "Requests that ended in a problem document, by reason.",
		}, []string{"reason"}),
		Swept: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cordon_sweeper_last_success_timestamp_seconds", Help: "When the sweeper last looked at every due device; alarm when it stands still.",
		}),
	}
	m.segment()
	m.retention()
	m.reappraisal()
	m.Registry.MustRegister(m.Requests, m.Seconds, m.Refusals, m.Swept, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cordon_timestamp_age_seconds", Help: "Age of the current TUF timestamp; alarm when it passes the beacon window.",
		}, age))
	return m
}

// WatchLog adds the metrics of the audit log.
func (m *Metrics) WatchLog(status func() (lag float64, stopped bool)) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "cordon_log_lag_events", Help: "Audit events that no published checkpoint of the log covers; alarm when it keeps growing.",
	}, func() float64 { lag, _ := status(); return lag }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "cordon_log_stopped", Help: "1 when rows, log and witnesses do not agree and a person has to look; alarm on it.",
	}, func() float64 {
		if _, stopped := status(); stopped {
			return 1
		}
		return 0
	}))
}

// WatchStates adds the metrics of the boot states that are remembered as affirmed.
func (m *Metrics) WatchStates(counts func() (hits, misses, entries float64)) {
	count := func(known string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "cordon_boot_states_total", Help: "Authentic quotes, without a log, by whether their boot state was known as affirmed or the stored log had to be read.",
			ConstLabels: prometheus.Labels{"known": known},
		}, value)
	}
	m.Registry.MustRegister(
		count("yes", func() float64 { hits, _, _ := counts(); return hits }),
		count("no", func() float64 { _, misses, _ := counts(); return misses }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cordon_boot_states", Help: "Boot states that are remembered as affirmed.",
		}, func() float64 { _, _, entries := counts(); return entries }),
	)
}

// segment makes the metrics of network enforcement. Points and products are names of the configuration and of the offline
// policy: closed sets.
func (m *Metrics) segment() {
	m.SegmentOrders = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "cordon_segment_orders", Help: "Open enforcement orders by network point and state; alarm when any state but requested and acknowledged stays above zero.",
	}, []string{"point", "state"})
	m.SegmentSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "cordon_segment_verified_seconds", Help: "Time from an enforcement order to its read-back from the network.", Buckets: prometheus.ExponentialBuckets(0.01, 3, 11),
	}, []string{"point"})
	m.SegmentDrift = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cordon_segment_drift_total", Help: "Times that a network point showed another state than the one verified before.",
	}, []string{"point"})
	m.SegmentBreaker = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "cordon_segment_breaker_tripped", Help: "1 while the tightening network orders of a product wait for a person; alarm on it.",
	}, []string{"product"})
	m.Registry.MustRegister(m.SegmentOrders, m.SegmentSeconds, m.SegmentDrift, m.SegmentBreaker)
}

// reappraisal makes the metrics of stored Evidence that is appraised again.
func (m *Metrics) reappraisal() {
	m.Reappraised = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cordon_reappraisal_last_success_timestamp_seconds", Help: "When stored Evidence of every device was last known to be appraised by the current policy; alarm when it stands still.",
	})
	m.Reappraisals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cordon_reappraisals_total", Help: "Stored Evidence that was appraised again in the background because policy or baseline changed, by what came of it.",
	}, []string{"result"})
	m.Registry.MustRegister(m.Reappraised, m.Reappraisals)
}

// retention makes the metrics of garbage collection.
func (m *Metrics) retention() {
	m.Collected = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cordon_retention_last_success_timestamp_seconds", Help: "When garbage collection last came to the end of a round.",
	})
	m.Removed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cordon_retention_removed_total", Help: "Blobs and unfinished uploads that garbage collection removed.",
	}, []string{"kind"})
	m.RemovedBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "cordon_retention_removed_bytes_total", Help: "Bytes of the blobs that garbage collection removed.",
	})
	m.Registry.MustRegister(m.Collected, m.Removed, m.RemovedBytes)
}
