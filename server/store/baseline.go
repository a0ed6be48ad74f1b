package store

import (
	"context"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// Baseline is a platform baseline that baseline signers signed. Nothing rewrites it.
type Baseline struct {
	Product    string
	Profile    string
	Generation uint64
	Digest     digest.SHA256 // of the document that quotes are compared with
	Bundles    [][]byte
	By         string // who handed it in
	At         time.Time
}

// AddBaseline adds a signed baseline; one of the same product, profile and generation is ErrConflict.
type AddBaseline struct{ Baseline Baseline }

func (AddBaseline) write() {}

// Observation is what a device proved about its platform while no baseline described it.
type Observation struct {
	Device    string
	Product   string
	Profile   string
	At        time.Time
	Release   string // the release that it booted
	Evidence  digest.SHA256
	LogDigest digest.SHA256
	PCRs      []attestation.PCR
}

// PutObservation writes the newest observation of a device.
type PutObservation struct{ Observation Observation }

func (PutObservation) write() {}

const baselineColumns = `product, profile, generation, digest, bundles, added_by, at`

func baselineRow(b *Baseline) []column {
	return []column{
		textCol(&b.Product), textCol(&b.Profile), uintCol(&b.Generation), digestCol(&b.Digest),
		jsonCol(&b.Bundles, len(b.Bundles) == 0), textCol(&b.By), timeCol(&b.At),
	}
}

const observationColumns = `device, product, profile, at, release, evidence, log_digest, pcrs`

func observationRow(o *Observation) []column {
	return []column{
		textCol(&o.Device), textCol(&o.Product), textCol(&o.Profile), timeCol(&o.At), textCol(&o.Release),
		digestCol(&o.Evidence), digestCol(&o.LogDigest), jsonCol(&o.PCRs, len(o.PCRs) == 0),
	}
}

const (
	selectBaseline    = `SELECT ` + baselineColumns + ` FROM baselines `
	selectObservation = `SELECT ` + observationColumns + ` FROM observations `
	putObservation    = `INSERT INTO observations (` + observationColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (device) DO UPDATE SET product = excluded.product, profile = excluded.profile, at = excluded.at,
		release = excluded.release, evidence = excluded.evidence, log_digest = excluded.log_digest, pcrs = excluded.pcrs`
)

var addBaseline = addText("baselines", baselineColumns)

func scanBaseline(b *Baseline) []any       { return dests(baselineRow(b)) }
func scanObservation(o *Observation) []any { return dests(observationRow(o)) }

// CurrentBaselines returns the newest generation of each profile of the product, by profile.
func (s *Store) CurrentBaselines(ctx context.Context, product string) ([]Baseline, error) {
	return readAll(ctx, s, "current baselines", scanBaseline, selectBaseline+`AS b WHERE product = $1
		AND generation = (SELECT max(generation) FROM baselines WHERE product = b.product AND profile = b.profile)
		ORDER BY profile`, product)
}

// Baselines returns signed baselines of a product and a profile, by product and profile, the newest generation first;
// empty means all.
func (s *Store) Baselines(ctx context.Context, product, profile string, limit int) ([]Baseline, error) {
	return readAll(ctx, s, "baselines", scanBaseline, selectBaseline+`WHERE ($1 = '' OR product = $1) AND ($2 = '' OR profile = $2)
		ORDER BY product, profile, generation DESC LIMIT $3`, product, profile, limitOf(limit))
}

// Observations returns what the devices of a platform proved, by device.
func (s *Store) Observations(ctx context.Context, product, profile string, limit int) ([]Observation, error) {
	return readAll(ctx, s, "observations", scanObservation, selectObservation+`WHERE product = $1 AND profile = $2
		ORDER BY device LIMIT $3`, product, profile, limitOf(limit))
}
