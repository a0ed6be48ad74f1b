package device_test

import (
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/conformance/device"
)

func TestRefusesChangesThatTheMachineCannotHave(t *testing.T) {
	t.Parallel()
	m := unbootable(t, 0) // without boot loader and without keys
	for _, name := range []string{"entry", "addon", "db-key", "foreign"} {
		if _, ok := device.Breaks()[name]; !ok {
			t.Errorf("%s is not among the known ones", name)
		}
		if _, err := m.Break(t.Context(), name); !errors.Is(err, device.ErrBreak) {
			t.Errorf("break %s: %v, want %v", name, err, device.ErrBreak)
		}
	}
}
