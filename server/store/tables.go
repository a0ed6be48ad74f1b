package store

import (
	"fmt"
	"strings"

	"github.com/cordon-ota/cordon/server/fleet"
)

// The columns of every row type, in the order of the function that follows them. A versioned table's version column is
// not among them: Commit alone counts it.

const deviceColumns = `id, product, hardware_id, profile, lifecycle, standing, tier, admitted_by, ek_certificate, ek_spki,
	manufacturer, ak_public, ak_name, ak_qualified_signer, tls_public, tls_key, counter_base, enrolled_at, accepted,
	last_evidence, log_digest, proven, proven_counter, high_counter, proven_at, challenged_at, lease_until, stale_since,
	offered, offered_counter, offered_at, deadline, counter, last_poll, last_answer, seen_at, segment, epoch, grounds, ek_public,
	ek_issuers, ak_forget`

func deviceRow(d *fleet.Device) []column {
	return []column{
		textCol(&d.ID), textCol(&d.Product), textCol(&d.HardwareID), textCol(&d.Profile), textCol(&d.Lifecycle),
		textCol(&d.Standing), intCol(&d.Tier), textCol(&d.AdmittedBy), bytesCol(&d.EKCertificate), digestCol(&d.EKSPKI),
		textCol(&d.Manufacturer), bytesCol(&d.AKPublic), bytesCol(&d.AKName), bytesCol(&d.AKQualifiedSigner),
		bytesCol(&d.TLSPublic), digestCol(&d.TLSKey), uintCol(&d.CounterBase), timeCol(&d.EnrolledAt),
		jsonCol(&d.Accepted, d.Accepted == nil), digestCol(&d.LastEvidence), digestCol(&d.LogDigest), textCol(&d.Proven),
		uintCol(&d.ProvenCounter), uintCol(&d.HighCounter), timeCol(&d.ProvenAt), timeCol(&d.ChallengedAt),
		timeCol(&d.LeaseUntil), timeCol(&d.StaleSince), textCol(&d.Offered), uintCol(&d.OfferedCounter),
		timeCol(&d.OfferedAt), timeCol(&d.Deadline), optionalUintCol(&d.Counter), digestCol(&d.LastPoll),
		bytesCol(&d.LastAnswer), timeCol(&d.SeenAt), textCol(&d.Segment), intCol(&d.Epoch), digestCol(&d.Grounds), bytesCol(&d.EKPublic),
		jsonCol(&d.EKIssuers, len(d.EKIssuers) == 0), jsonCol(&d.ForgetKey, len(d.ForgetKey) == 0),
	}
}

const quarantineColumns = `id, device, since, causes, detail, started_by, evidence, recovered_at, ended_at`

func quarantineRow(q *fleet.Quarantine) []column {
	return []column{
		textCol(&q.ID), textCol(&q.Device), timeCol(&q.Since), jsonCol(&q.Causes, len(q.Causes) == 0), textCol(&q.Detail),
		textCol(&q.By), digestCol(&q.Evidence), timeCol(&q.RecoveredAt), timeCol(&q.EndedAt),
	}
}

const releaseColumns = `name, product, counter, recovery, state, hold, hold_detail, statement, bundles, publishers,
	reference_values, sboms, created_by, created_at, published_at, timestamp_version, pruned_at`

func releaseRow(r *Release) []column {
	return []column{
		textCol(&r.Name), textCol(&r.Product), uintCol(&r.Counter), boolCol(&r.Recovery), textCol(&r.State),
		boolCol(&r.Hold), textCol(&r.HoldDetail), bytesCol(&r.Statement), jsonCol(&r.Bundles, len(r.Bundles) == 0),
		jsonCol(&r.Publishers, len(r.Publishers) == 0), jsonCol(&r.Reference, len(r.Reference) == 0),
		jsonCol(&r.SBOMs, len(r.SBOMs) == 0), textCol(&r.CreatedBy), timeCol(&r.CreatedAt), timeCol(&r.PublishedAt),
		intCol(&r.Timestamp), timeCol(&r.PrunedAt),
	}
}

const blobColumns = `sha256, touched_at, condemned_at`

func blobRow(b *Blob) []column {
	return []column{digestCol(&b.SHA256), timeCol(&b.TouchedAt), timeCol(&b.CondemnedAt)}
}

const repoColumns = `name, image_root, director_root, targets, products, snapshot, timestamp_number, timestamp_doc,
	issued_at, pending`

func repoRow(r *Repo) []column {
	return []column{
		textCol(&r.Name), intCol(&r.ImageRoot), intCol(&r.DirectorRoot), intCol(&r.Targets),
		jsonCol(&r.Products, len(r.Products) == 0), intCol(&r.Snapshot), intCol(&r.Timestamp), bytesCol(&r.TimestampDoc),
		timeCol(&r.IssuedAt), jsonCol(&r.Pending, len(r.Pending) == 0),
	}
}

const denialColumns = `id, denial, denied_by, at, lifted_at`

func denialRow(n *fleet.Denial) []column {
	return []column{textCol(&n.ID), jsonCol(&n.Denial, false), textCol(&n.By), timeCol(&n.At), timeCol(&n.LiftedAt)}
}

const directorColumns = `device, number, content, expires_at, timestamp_doc, snapshot_doc, targets_doc`

func directorRow(d *Director) []column {
	return []column{
		textCol(&d.Device), intCol(&d.Number), digestCol(&d.Content), timeCol(&d.Expires), bytesCol(&d.Timestamp),
		bytesCol(&d.Snapshot), bytesCol(&d.Targets),
	}
}

const personColumns = `name, roles, disabled, at`

func personRow(p *Person) []column {
	return []column{textCol(&p.Name), jsonCol(&p.Roles, len(p.Roles) == 0), boolCol(&p.Disabled), timeCol(&p.At)}
}

const settingColumns = `name, value`

func settingRow(s *PutSetting) []column { return []column{textCol(&s.Name), bytesCol(&s.Value)} }

const approvalColumns = `subject, person, at`

func approvalRow(a *fleet.Approval) []column {
	return []column{textCol(&a.Subject), textCol(&a.Person), timeCol(&a.At)}
}

const beaconColumns = `digest, number, issued_at, doc`

func beaconRow(b *Beacon) []column {
	return []column{digestCol(&b.Digest), intCol(&b.Version), timeCol(&b.IssuedAt), bytesCol(&b.Doc)}
}

const appraisalColumns = `id, device, product, at, outcome, release, input, verdict, verifier, policy, baseline, repeats, reference_values`

func appraisalRow(a *Appraisal) []column {
	return []column{
		digestCol(&a.ID), textCol(&a.Device), textCol(&a.Product), timeCol(&a.At), textCol(&a.Outcome), textCol(&a.Release),
		bytesCol(&a.Input), bytesCol(&a.Verdict), textCol(&a.Verifier), digestCol(&a.Policy), digestCol(&a.Baseline),
		digestCol(&a.Repeats), jsonCol(&a.References, len(a.References) == 0),
	}
}

const updateColumns = `device, product, from_release, to_release, offered_at, ended_at, result, evidence`

func updateRow(u *Update) []column {
	return []column{
		textCol(&u.Device), textCol(&u.Product), textCol(&u.From), textCol(&u.To), timeCol(&u.OfferedAt), timeCol(&u.EndedAt),
		textCol(&u.Result), digestCol(&u.Evidence),
	}
}

const inventoryColumns = `device, product, hardware_id, profile, entered_by, at`

func inventoryRow(e *Inventory) []column {
	return []column{
		textCol(&e.Device), textCol(&e.Product), textCol(&e.HardwareID), textCol(&e.Profile), textCol(&e.By), timeCol(&e.At),
	}
}

const addressColumns = `device, source, kind, address, at`

func addressRow(a *Address) []column {
	return []column{textCol(&a.Device), textCol(&a.Source), textCol(&a.Kind), textCol(&a.Address), timeCol(&a.At)}
}

const enrollTokenColumns = `hash, product, hardware_id, profile, issued_by, expires_at`

func enrollTokenRow(t *EnrollToken) []column {
	return []column{
		digestCol(&t.Hash), textCol(&t.Product), textCol(&t.HardwareID), textCol(&t.Profile), textCol(&t.By), timeCol(&t.Expires),
	}
}

const tokenColumns = `hash, person, at, expires_at, revoked_at`

func tokenRow(t *Token) []column {
	return []column{digestCol(&t.Hash), textCol(&t.Person), timeCol(&t.At), timeCol(&t.Expires), timeCol(&t.Revoked)}
}

const orderColumns = `id, device, segment, epoch, point, at, acked_at, verified_at, detail, tightens, waiting, observed, observed_at`

func orderRow(o *Order) []column {
	return []column{
		intCol(&o.ID), textCol(&o.Device), textCol(&o.Segment), intCol(&o.Epoch), textCol(&o.Point), timeCol(&o.At),
		timeCol(&o.Acked), timeCol(&o.Verified), textCol(&o.Detail), boolCol(&o.Tightens), textCol(&o.Waiting),
		textCol(&o.Observed), timeCol(&o.ObservedAt),
	}
}

const checkpointColumns = `name, size, root, note, at`

func checkpointRow(c *Checkpoint) []column {
	return []column{textCol(&c.Name), intCol(&c.Size), digestCol(&c.Root), bytesCol(&c.Note), timeCol(&c.At)}
}

const eventColumns = `number, at, type, actor, subject, leaf`

func eventRow(e *StoredEvent) []column {
	return []column{
		intCol(&e.Number), timeCol(&e.At), textCol(&e.Type), textCol(&e.Actor), textCol(&e.Subject), bytesCol(&e.Leaf),
	}
}

// versioned holds the texts of one versioned table. insert and update touch no row when the expectation does not hold,
// so a lost race is seen in the count and not as an aborted transaction.
type versioned struct {
	insert string // Expect version 0
	update string // Expect version n: the arguments, then n
	upsert string // no Expect
	holds  string // Expect version n without a Put: one row when it holds
	absent string // Expect version 0 without a Put: no row when it holds
}

func tableTexts(table Table) (versioned, bool) {
	t, ok := versionedTables[table]
	return t, ok
}

var versionedTables = map[Table]versioned{
	Devices:     newVersioned(Devices, deviceColumns),
	Quarantines: newVersioned(Quarantines, quarantineColumns),
	Releases:    newVersioned(Releases, releaseColumns),
	Repos:       newVersioned(Repos, repoColumns),
	Directors:   newVersioned(Directors, directorColumns),
	People:      newVersioned(People, personColumns),
	Settings:    newVersioned(Settings, settingColumns),
	Checkpoints: newVersioned(Checkpoints, checkpointColumns),
	Denials:     newVersioned(Denials, denialColumns),
	Locks: {
		holds:  `SELECT 1 FROM locks WHERE name = $1 AND fence = $2`,
		absent: `SELECT 1 FROM locks WHERE name = $1`,
	},
}

// newVersioned writes the texts of a table whose key is the first of its columns.
func newVersioned(table Table, columns string) versioned {
	names := columnNames(columns)
	key := names[0]
	var excluded, numbered []string
	for i, name := range names[1:] {
		excluded = append(excluded, fmt.Sprintf("%s = excluded.%s", name, name))
		numbered = append(numbered, fmt.Sprintf("%s = $%d", name, i+2))
	}
	insert := fmt.Sprintf("INSERT INTO %s (%s, version) VALUES (%s, 1)", table, columns, placeholders(len(names)))
	return versioned{
		insert: insert + " ON CONFLICT DO NOTHING",
		update: fmt.Sprintf("UPDATE %s SET %s, version = version + 1 WHERE %s = $1 AND version = $%d",
			table, strings.Join(numbered, ", "), key, len(names)+1),
		upsert: fmt.Sprintf("%s ON CONFLICT (%s) DO UPDATE SET %s, version = %s.version + 1",
			insert, key, strings.Join(excluded, ", "), table),
		holds:  fmt.Sprintf("SELECT 1 FROM %s WHERE %s = $1 AND version = $2", table, key),
		absent: fmt.Sprintf("SELECT 1 FROM %s WHERE %s = $1", table, key),
	}
}

func columnNames(columns string) []string {
	names := strings.Split(columns, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}

// placeholders returns "$1, $2, ... $n".
func placeholders(n int) string { return placeholdersFrom(1, n) }

func placeholdersFrom(first, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", first+i)
	}
	return b.String()
}

// addText inserts a row that must not be there yet: no row is touched when it is.
func addText(table, columns string) string {
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s) ON CONFLICT DO NOTHING",
		table, columns, placeholders(len(columnNames(columns))))
}
