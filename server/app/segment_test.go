package app_test

import (
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/app"
	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/fleet"
	"github.com/cordon-ota/cordon/server/segment/webhook"
	"github.com/cordon-ota/cordon/server/store"
)

// fabric is a receiver that answers with what it was last told. Its rules for forgeries are tested with the point.
type fabric struct {
	mu    sync.Mutex
	rules map[string]webhook.Answer
}

func (f *fabric) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var m webhook.Message
	if err != nil || json.Unmarshal(body, &m) != nil || r.Header.Get(webhook.HeaderSignature) == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a := f.rules[m.Data.Device]
	if m.Type == webhook.TypeOrder && m.Data.Epoch > a.Epoch {
		a = webhook.Answer{Device: m.Data.Device, Segment: m.Data.Segment, Epoch: m.Data.Epoch}
		f.rules[a.Device] = a
	}
	b, _ := json.Marshal(a)
	_, _ = w.Write(b)
}

func (f *fabric) where(device string) fleet.Segment {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules[device].Segment
}

func pemFile(t *testing.T, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The sweeper's decision reaches the network, on its own and after a restart, and the metrics say so.
func TestDecisionsReachTheNetwork(t *testing.T) {
	t.Parallel()
	f := &fabric{rules: map[string]webhook.Answer{}}
	receiver := httptest.NewTLSServer(f)
	defer receiver.Close()
	c := configured(t, filepath.Join(t.TempDir(), "data"))
	c.Segment.Webhook = []config.Webhook{{Name: "fabric", URL: receiver.URL, CAFile: pemFile(t, receiver.Certificate().Raw), Finds: "device"}}
	if err := start(t, c).stop(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), c.Database, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sum := digest.Of([]byte("d"))
	err = s.Commit(t.Context(), store.Change{Writes: []store.Write{store.PutDevice{Device: fleet.Device{
		ID: "d", Product: "lamp", Lifecycle: fleet.Active, Standing: fleet.Affirmed, Segment: fleet.Production, Epoch: 1,
		EKSPKI: sum, TLSKey: sum, EnrolledAt: time.Now(), ProvenAt: time.Now(), LeaseUntil: time.Now().Add(-48 * time.Hour),
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := start(t, c)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	seen := ""
	for !strings.Contains(seen, `cordon_segment_verified_seconds_count{point="fabric"}`) || f.where("d") != fleet.Restricted {
		select {
		case <-tick.C:
			_, seen = get(t, "http://"+r.Addr(app.Metrics)+"/metrics")
		case <-t.Context().Done():
			t.Fatal(r.log.String())
		}
	}
}

func TestRefusesPointsThatCannotWork(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	for want, change := range map[string]func(*config.Segment){
		"cannot read ca_file": func(s *config.Segment) {
			s.Webhook = []config.Webhook{{Name: "a", URL: "https://x.example", CAFile: none, Finds: "device"}}
		},
		"not an https URL": func(s *config.Segment) {
			s.Webhook = []config.Webhook{{Name: "a", URL: "http://x.example", Finds: "device"}}
		},
		"recovery": func(s *config.Segment) { s.NFTables = []config.NFTables{{Name: "a", Recovery: []string{"door"}}} },
		`segment.radius "a"`: func(s *config.Segment) {
			s.RADIUS = []config.RADIUS{{Name: "a", Server: "127.0.0.1:3799", SecretFile: none}}
		},
		"nas_address": func(s *config.Segment) { s.RADIUS = []config.RADIUS{{Name: "a", NASAddress: "switch"}} },
		"accounting_clients": func(s *config.Segment) {
			s.RADIUS = []config.RADIUS{{Name: "a", AccountingClients: []string{"10.0.0.1"}}}
		},
		`segment.nftables "gate"`: func(s *config.Segment) {
			s.NFTables = []config.NFTables{{Name: "gate", Recovery: []string{"10.0.0.1:1"}, Family: "ip9"}}
		},
	} {
		c := configured(t, filepath.Join(t.TempDir(), "data"))
		change(&c.Segment)
		a, err := app.New(t.Context(), c, app.Options{Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			a.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// A server that was made and never ran, or could not be made, gives the socket for accounting back.
func TestCloseGivesTheAccountingSocketBack(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	for name, webhooks := range map[string][]config.Webhook{"made": nil, "not made": {{Name: "a", URL: "http://x.example", Finds: "device"}}} {
		c := configured(t, filepath.Join(t.TempDir(), "data"))
		c.Segment.RADIUS = []config.RADIUS{{
			Name: "switch", Server: "127.0.0.1:3799", SecretFile: secret, RestrictedVLAN: "20", ProductionVLAN: "10",
			AccountingListen: address, AccountingSecretFile: secret, AccountingClients: []string{"127.0.0.1/32"},
		}}
		c.Segment.Webhook = webhooks
		a, err := app.New(t.Context(), c, app.Options{Log: slog.New(slog.DiscardHandler)})
		if (err == nil) != (webhooks == nil) {
			t.Fatalf("%s: %v", name, err)
		}
		if err == nil {
			a.Close()
		}
		again, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatalf("%s: the socket is still taken: %v", name, err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
