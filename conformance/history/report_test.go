package history_test

import (
	"encoding/base64"
	"os"

	"github.com/cordon-ota/cordon/client/ctl/verify"
)

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// reportSize is the size of the log that a report shows.
func (p *place) reportSize(name string) uint64 {
	p.t.Helper()
	b, err := os.ReadFile(p.Path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	_, r, err := verify.Decode(b)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.size(r.Log.Checkpoint)
}
