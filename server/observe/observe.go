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
	m.Registry.MustRegister(m.Requests, m.Seconds, m.Refusals, m.Swept, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cordon_timestamp_age_seconds", Help: "Age of the current TUF timestamp; alarm when it passes the beacon window.",
		}, age))
	return m
}
