package main_test

import (
	"strings"
	"testing"

	"github.com/cordon-ota/cordon/client/api"
	main "github.com/cordon-ota/cordon/client/ctl"
	"github.com/cordon-ota/cordon/client/ctl/verify/verifytest"
)

func TestWhyShowsWhatABootMeasuredOtherwise(t *testing.T) {
	t.Parallel()
	some := []api.BootChange{
		{PCR: 12, Before: "kernel command line: quiet", After: "kernel command line: quiet \x1b[2Jsingle"},
		{PCR: 13, After: "a credential"},
	}
	for name, test := range map[string]struct {
		changes *api.BootChanges
		want    string
	}{
		"no other boot": {nil, ""},
		"nothing":       {&api.BootChanges{Since: verifytest.Noon}, "nothing, say the event logs of both; what is expected of it may have changed since\n"},
		"one twice": {&api.BootChanges{Since: verifytest.Noon, Changes: []api.BootChange{some[1], some[1], some[0]}}, "PCR 13, 2 times\n   before: no such measurement\n   now:    a credential\n" +
			"PCR 12\n   before: kernel command line: quiet\n   now:    kernel command line: quiet ?[2Jsingle\n"},
		"some": {&api.BootChanges{Since: verifytest.Noon, Changes: some}, "PCR 12\n   before: kernel command line: quiet\n   now:    kernel command line: quiet ?[2Jsingle\n" +
			"PCR 13\n   before: no such measurement\n   now:    a credential\n"},
	} {
		var out strings.Builder
		if err := main.ShowWhy(&out, api.Why{Changes: test.changes}); err != nil {
			t.Fatal(err)
		}
		_, after, shown := strings.Cut(out.String(), "WHAT IT MEASURED OTHERWISE THAN IN THE BOOT THAT WAS AFFIRMED AT 2026-11-01T12:00:00Z\n")
		if got, _, _ := strings.Cut(after, "\nWHAT IT MAY HAVE NOW"); shown != (test.changes != nil) || got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
