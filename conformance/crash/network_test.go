package crash_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/conformance/demo"
)

// firewall is an enforcement point that keeps what it was told over every crash of the server. An older order changes
// nothing.
type firewall struct {
	mu     sync.Mutex
	rules  map[string]rule // by device
	undone int             // orders that an older one would have undone
}

type rule struct {
	Device  string `json:"device"`
	Segment string `json:"segment"`
	Epoch   int64  `json:"epoch"`
}

func (f *firewall) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Type string `json:"type"`
		Data rule   `json:"data"`
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || json.Unmarshal(b, &message) != nil {
		http.Error(w, "no order", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.rules[message.Data.Device]
	if message.Type == "segment.order" {
		if message.Data.Epoch < now.Epoch {
			f.undone++
		} else {
			now = message.Data
			f.rules[now.Device] = now
		}
	}
	b, err = json.Marshal(rule{Device: message.Data.Device, Segment: now.Segment, Epoch: now.Epoch})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(b)
}

func (f *firewall) of(device string) rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules[device]
}

// networkCrashes kills the server between what an enforcement point did and what the rows say about it.
func networkCrashes(t *testing.T, book *ledger) {
	f := &firewall{rules: map[string]rule{}}
	point := httptest.NewTLSServer(f)
	t.Cleanup(point.Close)
	ca := filepath.Join(t.TempDir(), "firewall.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: point.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, book, demo.StageConfig{
		Config: fmt.Sprintf("[segment]\nretry_max = \"1s\"\n[[segment.webhook]]\nname = \"firewall\"\nurl = %q\nca_file = %q\n", point.URL, ca),
	})
	for i, name := range []string{"server.point.seen", "server.point.settled"} {
		d := w.s.Updated(fmt.Sprintf("n%d", i))
		w.verified(d, f, "production")
		isolate := func() {
			w.s.Run("cordonctl", w.s.By("bob", "device", "quarantine", d.ID(), "--detail", "test")...)
		}
		if !w.serverDies(name, isolate) {
			continue
		}
		w.verified(d, f, "restricted")
		w.check()
		w.happened(1, "quarantine.opened", d.ID())
		book.add(row{point: name, process: "server", cycle: "a network point is told to isolate a device", after: "verified, in the newest segment"})
	}
	if f.undone > 0 {
		t.Errorf("the server sent %d orders that were older than the one in force", f.undone)
	}
	w.s.Report()
}

// verified waits until server and network agree.
func (w *world) verified(d *demo.Device, f *firewall, segment string) {
	w.t.Helper()
	w.s.WaitFor("the order to be verified", func() error {
		now, err := w.as("bob").Segment(w.t.Context(), d.ID())
		if err != nil {
			return err
		}
		for _, p := range now.Points {
			if p.Point == "firewall" && p.State == api.SegmentVerified && p.Segment == segment {
				if got := f.of(d.ID()); got.Segment != segment || got.Epoch != p.Epoch {
					return fmt.Errorf("the firewall has %+v, the server says %+v", got, p)
				}
				return nil
			}
		}
		return fmt.Errorf("%+v", now)
	})
}
