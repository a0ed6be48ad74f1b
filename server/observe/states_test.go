package observe_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/server/observe"
)

func TestBootStatesAreCounted(t *testing.T) {
	t.Parallel()
	m := observe.NewMetrics(func() float64 { return 0 })
	m.WatchStates(func() (hits, misses, entries float64) { return 5, 3, 2 })
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "cordon_boot_states") {
			continue
		}
		for _, metric := range f.GetMetric() {
			name := f.GetName()
			for _, l := range metric.GetLabel() {
				name += " " + l.GetName() + " " + l.GetValue()
			}
			got[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"cordon_boot_states_total known yes": 5, "cordon_boot_states_total known no": 3, "cordon_boot_states": 2,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
}
