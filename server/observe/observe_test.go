package observe_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/server/observe"
)

func TestLoggerTakesLevelAndFormat(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{"json": `"msg":"hello"`, "text": "msg=hello"} {
		var b bytes.Buffer
		log, err := observe.NewLogger(&b, "warn", format)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("hidden")
		log.Warn("hello")
		if got := b.String(); !strings.Contains(got, want) || strings.Contains(got, "hidden") {
			t.Errorf("%s: got %s", format, got)
		}
	}
	if _, err := observe.NewLogger(&bytes.Buffer{}, "loud", "text"); err == nil {
		t.Error("an unknown level was taken")
	}
}

// A device id would make one time series per device, and tell the monitoring who is out there.
func TestNoMetricIsLabelledByDevice(t *testing.T) {
	t.Parallel()
	m := observe.NewMetrics(func() float64 { return 42 })
	m.Requests.WithLabelValues("devices", "/device/v1/poll", "2xx").Inc()
	m.Refusals.WithLabelValues("internal").Inc()
	m.Seconds.WithLabelValues("devices", "/device/v1/poll").Observe(1)
	m.Removed.WithLabelValues("blob").Inc()
	m.SegmentOrders.WithLabelValues("gateway", "requested").Set(1)
	m.SegmentSeconds.WithLabelValues("gateway").Observe(1)
	m.SegmentDrift.WithLabelValues("gateway").Inc()
	m.SegmentBreaker.WithLabelValues("lamp").Set(0)
	m.Reappraisals.WithLabelValues("stale").Inc()
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "cordon_") {
			continue
		}
		ours++
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				if !slices.Contains([]string{"listener", "route", "status", "reason", "kind", "point", "state", "product", "result"}, l.GetName()) {
					t.Errorf("%s has the label %s", f.GetName(), l.GetName())
				}
			}
		}
		if f.GetName() == "cordon_timestamp_age_seconds" && f.GetMetric()[0].GetGauge().GetValue() != 42 {
			t.Error("the age of the timestamp is not that of the repository")
		}
	}
	if ours != 14 {
		t.Errorf("got %d metrics of ours, want 14", ours)
	}
}
