package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/wire"
)

// errNoRelease: the server has no release that a device of the suite can pretend to have booted.
var errNoRelease = errors.New("no published release of the product boots a UKI directly on the devices' hardware")

func (c Config) valuesOrNone() reference.Values {
	if c.Values == nil {
		return reference.Values{}
	}
	return *c.Values
}

// document is what the suite reads of TUF metadata. It verifies nothing: a device that lies needs no proof of what it
// lies about.
type document struct {
	Signed struct {
		Meta map[string]struct {
			Version int64 `json:"version"`
		} `json:"meta"`
		Targets map[string]struct {
			Hashes map[string]digest.SHA256 `json:"hashes"`
			Custom jsontext.Value           `json:"custom"`
		} `json:"targets"`
	} `json:"signed"`
}

// component is a published component that the devices can pretend to have booted.
type component struct {
	path   string
	image  digest.SHA256
	custom artifacts.Custom
}

// fetch GETs one document of the Image repository.
func (c *connection) fetch(ctx context.Context, name string) ([]byte, error) {
	a, err := c.exchange(ctx, http.MethodGet, wire.PathImage+name, nil)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("%w: %s was answered with %d", ErrSetup, name, a.status)
	}
	return a.body, nil
}

func (c *connection) document(ctx context.Context, name string) (document, error) {
	b, err := c.fetch(ctx, name)
	if err != nil {
		return document{}, err
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return document{}, fmt.Errorf("%w: %s: %w", ErrSetup, name, err)
	}
	return d, nil
}

// release finds what the devices shall pretend to have booted: the newest release of the product that is no recovery, if
// there is one. timestamp is the server's.
func (r *run) release(ctx context.Context, d *device, timestamp []byte) (reference.Values, component, error) {
	var t document
	if err := json.Unmarshal(timestamp, &t); err != nil {
		return reference.Values{}, component{}, fmt.Errorf("%w: timestamp: %w", ErrSetup, err)
	}
	snapshot, err := d.conn.document(ctx, tufrepo.FileName(t.Signed.Meta["snapshot.json"].Version, "snapshot"))
	if err != nil {
		return reference.Values{}, component{}, err
	}
	product, err := d.conn.document(ctx, tufrepo.FileName(snapshot.Signed.Meta[r.cfg.Product+".json"].Version, r.cfg.Product))
	if err != nil {
		return reference.Values{}, component{}, err
	}
	for _, c := range components(product, d.hardware) {
		path := c.path + artifacts.ReferenceSuffix
		target, ok := product.Signed.Targets[path]
		if !ok {
			continue
		}
		b, err := d.conn.fetch(ctx, tufrepo.TargetFileName(path, target.Hashes["sha256"]))
		if err != nil {
			return reference.Values{}, component{}, err
		}
		if values, err := reference.Decode(b); err == nil && values.Boot == reference.BootDirectUKI {
			return values, c, nil
		}
	}
	return reference.Values{}, component{}, errNoRelease
}

// components are those for the hardware, the best first.
func components(product document, hardware string) []component {
	var out []component
	for path, t := range product.Signed.Targets {
		custom, err := artifacts.DecodeCustom(t.Custom)
		if err != nil || hardware != "" && !slices.Contains(custom.HardwareIDs, hardware) {
			continue
		}
		out = append(out, component{path: path, image: t.Hashes["sha256"], custom: custom})
	}
	slices.SortFunc(out, func(a, b component) int {
		if a.custom.Recovery != b.custom.Recovery {
			if a.custom.Recovery {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.custom.Counter, a.custom.Counter), strings.Compare(a.path, b.path))
	})
	return out
}
