package quote_test

import (
	"errors"
	"testing"

	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/quote"
)

// Each rule about the form is dropped in turn; for one of the cases it must have been the only one that refuses.
func TestEveryFormRuleHasAKiller(t *testing.T) {
	t.Parallel()
	quotes := map[string][]byte{}
	for _, c := range evidencetest.CasesOf(evidencetest.StageAuthentic) {
		b := c.Input().Evidence.Quote
		if _, err := quote.ParseQuote(b); errors.Is(err, quote.ErrMalformed) {
			quotes[c.ID+" "+c.Name] = b
		}
	}
	for _, id := range quote.FormRuleIDs() {
		killed := 0
		for _, b := range quotes {
			if _, err := quote.ParseQuoteWithout(id, b); !errors.Is(err, quote.ErrMalformed) {
				killed++
			}
		}
		if killed == 0 {
			t.Errorf("no case needs the rule %q: without it the same quotes are refused", id)
		}
	}
}
