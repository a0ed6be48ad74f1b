package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/server/fleet"
)

// anyRows is the want of a statement that may touch any number of rows.
const anyRows = -1

// statement is one SQL text with its arguments and how many rows it must touch (or return); any other number is
// ErrConflict. Statements need no answer from one another, so a whole batch goes to PostgreSQL in one round trip.
type statement struct {
	sql     string
	args    []any
	returns bool // it is a SELECT: count the rows that it returns
	want    int64
}

// compiled is a Change as statements. Everything that can be done before the transaction is done here, on the caller's
// goroutine.
type compiled struct {
	statements []statement
	events     []compiledEvent
	size       int // bytes, roughly
}

// compiledEvent lacks only its number.
type compiledEvent struct {
	at                   int64
	kind, actor, subject string
	tail                 []byte // the leaf from behind the number on
}

const eventText = `INSERT INTO events (` + eventColumns + `) VALUES ($1, $2, $3, $4, $5, $6)`

func (e compiledEvent) statement(number int64) statement {
	leaf := make([]byte, 0, len(leafHead)+20+len(e.tail))
	leaf = append(leaf, leafHead...)
	leaf = strconv.AppendInt(leaf, number, 10)
	leaf = append(leaf, e.tail...)
	return statement{sql: eventText, args: []any{number, e.at, e.kind, e.actor, e.subject, leaf}, want: 1}
}

// leafHead is how every leaf starts; the number follows.
const leafHead = `{"v":1,"n":`

// leafTime is RFC 3339 with all six digits, so that equal times are equal bytes.
const leafTime = "2006-01-02T15:04:05.000000Z"

func compileEvent(e Event) (compiledEvent, error) {
	if e.Type == "" || e.At.IsZero() {
		return compiledEvent{}, errors.New("cannot commit an event without type or time")
	}
	data := []byte("{}")
	if e.Data != nil {
		b, err := json.Marshal(e.Data, json.Deterministic(true))
		if err != nil {
			return compiledEvent{}, fmt.Errorf("cannot encode data of event %s: %w", e.Type, err)
		}
		if jsontext.Value(b).Kind() != '{' {
			return compiledEvent{}, fmt.Errorf("cannot commit event %s: its data is not a JSON object", e.Type)
		}
		data = b
	}
	tail, err := leafTail(e, data)
	if err == nil && len(leafHead)+20+len(tail) > tlog.MaxLeafBytes {
		tail, err = leafTail(e, fmt.Appendf(nil, `{"too_large":{"bytes":%d,"sha256":"%s"}}`, len(data), digest.Of(data)))
	}
	if err != nil {
		return compiledEvent{}, fmt.Errorf("cannot encode event %s: %w", e.Type, err)
	}
	return compiledEvent{at: e.At.UnixMicro(), kind: e.Type, actor: e.Actor, subject: e.Subject, tail: tail}, nil
}

// leafTail is the leaf from behind the number on. A leaf that is too long for the audit log names its data by digest, so
// that the decision that it records is neither lost nor refused.
func leafTail(e Event, data jsontext.Value) ([]byte, error) {
	at := time.UnixMicro(e.At.UnixMicro()).UTC()
	tail := struct {
		At      string         `json:"at"`
		Type    string         `json:"type"`
		Actor   string         `json:"actor"`
		Subject string         `json:"subject"`
		Data    jsontext.Value `json:"data"`
	}{at.Format(leafTime), e.Type, e.Actor, e.Subject, data}
	b, err := json.Marshal(tail)
	if err != nil {
		return nil, err
	}
	b[0] = ',' // in place of the brace that leafHead opened
	return b, nil
}

// versions are the expectations of a Change that no Put has taken over yet.
type versions map[versionKey]int64

type versionKey struct {
	table Table
	key   string
}

// compile turns a Change into statements. An error here is a defect of the caller: nothing was tried.
func compile(c Change) (compiled, error) {
	var out compiled
	expected, err := expectations(c.Expect)
	if err != nil {
		return compiled{}, err
	}
	for _, w := range c.Writes {
		if err := out.write(w, expected); err != nil {
			return compiled{}, err
		}
	}
	checks := make([]statement, 0, len(expected))
	for k, v := range expected {
		checks = append(checks, check(k, v))
	}
	out.statements = append(checks, out.statements...)
	for _, o := range c.Orders {
		if err := out.order(o); err != nil {
			return compiled{}, err
		}
	}
	for _, e := range c.Events {
		ce, err := compileEvent(e)
		if err != nil {
			return compiled{}, err
		}
		out.events = append(out.events, ce)
		out.size += len(ce.tail)
	}
	return out, out.validate()
}

func expectations(list []Expect) (versions, error) {
	out := versions{}
	for _, e := range list {
		if _, ok := tableTexts(e.Table); !ok {
			return nil, fmt.Errorf("cannot expect a version in table %q: it is not versioned", e.Table)
		}
		if e.Key == "" || e.Version < 0 {
			return nil, fmt.Errorf("cannot expect version %d of key %q in %s", e.Version, e.Key, e.Table)
		}
		k := versionKey{e.Table, e.Key}
		if v, ok := out[k]; ok && v != e.Version {
			return nil, fmt.Errorf("cannot expect versions %d and %d of the same row: %w", v, e.Version, ErrConflict)
		}
		out[k] = e.Version
	}
	return out, nil
}

// check is an expectation about a row that the Change does not write.
func check(k versionKey, version int64) statement {
	texts, _ := tableTexts(k.table)
	if version == 0 {
		return statement{sql: texts.absent, args: []any{k.key}, returns: true, want: 0}
	}
	return statement{sql: texts.holds, args: []any{k.key, version}, returns: true, want: 1}
}

func (c *compiled) add(want int64, sql string, args ...any) {
	c.statements = append(c.statements, statement{sql: sql, args: args, want: want})
}

// put writes a row of a versioned table; the first Put of a row takes over what the Change expects of it.
func (c *compiled) put(table Table, columns []column, expected versions) error {
	values, err := args(columns)
	if err != nil {
		return err
	}
	key, _ := values[0].(string)
	if key == "" {
		return fmt.Errorf("cannot put a row without key into %s", table)
	}
	texts, _ := tableTexts(table)
	k := versionKey{table, key}
	version, ok := expected[k]
	delete(expected, k)
	switch {
	case !ok:
		c.add(1, texts.upsert, values...)
	case version == 0:
		c.add(1, texts.insert, values...)
	default:
		c.add(1, texts.update, append(values, version)...)
	}
	return nil
}

// insert adds a row that must not exist.
func (c *compiled) insert(text string, columns []column) error {
	values, err := args(columns)
	if err != nil {
		return err
	}
	if values[0] == nil || values[0] == "" {
		return fmt.Errorf("cannot add a row without key: %s", strings.SplitN(text, " (", 2)[0])
	}
	c.add(1, text, values...)
	return nil
}

var (
	addApproval    = addText("approvals", approvalColumns)
	addBeacon      = addText("beacons", beaconColumns)
	addAppraisal   = addText("appraisals", appraisalColumns)
	addUpdate      = addText("updates", updateColumns)
	addEnrollToken = addText("enroll_tokens", enrollTokenColumns+", used_at, used_by")
	addToken       = addText("tokens", tokenColumns)
	addAddress     = addText("addresses", addressColumns)
)

const (
	addMetadata = `INSERT INTO metadata (name, bytes) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET name = excluded.name WHERE metadata.bytes = excluded.bytes`
	addLog           = `INSERT INTO logs (digest, bytes) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	consumeChallenge = `INSERT INTO challenges (digest, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	closeUpdate      = `UPDATE updates SET result = $2, ended_at = $3, evidence = $4 WHERE device = $1 AND result = 'open'`
	putInventory     = `INSERT INTO inventory (` + inventoryColumns + `) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (device) DO UPDATE SET product = excluded.product, hardware_id = excluded.hardware_id,
		profile = excluded.profile, entered_by = excluded.entered_by, at = excluded.at`
	removeInventory = `DELETE FROM inventory WHERE device = $1`
	useEnrollToken  = `UPDATE enroll_tokens SET used_at = $2, used_by = $3 WHERE hash = $1 AND used_at = 0 AND expires_at > $2`
	revokeTokens    = `UPDATE tokens SET revoked_at = $2 WHERE person = $1 AND revoked_at = 0 AND expires_at > $2`
	supersedeOrders = `UPDATE orders SET superseded = TRUE WHERE device = $1 AND point = $2 AND epoch <= $3 AND NOT superseded`
	addOrder        = `INSERT INTO orders (device, segment, epoch, point, at, acked_at, verified_at, detail, tightens, superseded)
		VALUES ($1, $2, $3, $4, $5, 0, 0, $6, $7 OR COALESCE((SELECT tightens AND verified_at = 0 FROM orders
			WHERE device = $1 AND point = $4 AND epoch = $3 ORDER BY id DESC LIMIT 1), FALSE), EXISTS (SELECT 1 FROM orders WHERE device = $1 AND point = $4 AND epoch > $3))`
	touchBlob = `INSERT INTO blobs (sha256, touched_at, condemned_at) VALUES ($1, $2, 0) ON CONFLICT (sha256) DO UPDATE
		SET touched_at = CASE WHEN blobs.touched_at > excluded.touched_at THEN blobs.touched_at ELSE excluded.touched_at END
		WHERE blobs.condemned_at = 0`
	keepBlob = `UPDATE blobs SET touched_at = CASE WHEN touched_at > CAST($3 AS bigint) THEN touched_at ELSE CAST($3 AS bigint) END
		WHERE sha256 = $1 AND condemned_at = 0 AND touched_at >= $2`
	condemnBlob = `INSERT INTO blobs (sha256, touched_at, condemned_at) VALUES ($1, 0, $3) ON CONFLICT (sha256) DO UPDATE
		SET condemned_at = excluded.condemned_at WHERE blobs.condemned_at > 0 OR blobs.touched_at <= $2`
	forgetBlob  = `DELETE FROM blobs WHERE sha256 = $1 AND condemned_at > 0`
	settleOrder = `UPDATE orders SET acked_at = CASE WHEN CAST($2 AS bigint) > 0 THEN CAST($2 AS bigint) ELSE acked_at END,
		verified_at = CASE WHEN CAST($3 AS bigint) > 0 THEN CAST($3 AS bigint) ELSE verified_at END, detail = $4, waiting = $5,
		observed = CASE WHEN CAST($6 AS text) <> '' THEN CAST($6 AS text) ELSE observed END,
		observed_at = CASE WHEN CAST($7 AS bigint) > 0 THEN CAST($7 AS bigint) ELSE observed_at END
		WHERE id = $1 AND verified_at = 0 AND NOT superseded`
	reopenOrder = `UPDATE orders SET verified_at = 0, detail = $3, waiting = $4, observed = $5, observed_at = $6
		WHERE id = $1 AND verified_at = $2 AND NOT superseded`
	forgetAddresses = `DELETE FROM addresses WHERE device = $1 AND source = $2`
)

// write adds the statements of one write. The cases are the closed set of Write.
func (c *compiled) write(w Write, expected versions) error {
	switch w := w.(type) {
	case PutDevice:
		return c.put(Devices, deviceRow(&w.Device), expected)
	case PutQuarantine:
		return c.put(Quarantines, quarantineRow(&w.Quarantine), expected)
	case PutRelease:
		return c.put(Releases, releaseRow(&w.Release), expected)
	case PutRepo:
		return c.put(Repos, repoRow(&w.Repo), expected)
	case PutDirector:
		return c.put(Directors, directorRow(&w.Director), expected)
	case PutPerson:
		return c.put(People, personRow(&w.Person), expected)
	case PutSetting:
		return c.put(Settings, settingRow(&w), expected)
	case PutDenial:
		return c.put(Denials, denialRow(&w.Denial), expected)
	case PutCheckpoint:
		return c.put(Checkpoints, checkpointRow(&w.Checkpoint), expected)
	case AddApproval:
		return c.insert(addApproval, approvalRow(&w.Approval))
	case AddBeacon:
		return c.insert(addBeacon, beaconRow(&w.Beacon))
	case AddAppraisal:
		return c.insert(addAppraisal, appraisalRow(&w.Appraisal))
	case AddToken:
		return c.insert(addToken, tokenRow(&w.Token))
	default:
		return c.writeMore(w)
	}
}

func (c *compiled) writeMore(w Write) error {
	switch w := w.(type) {
	case AddMetadata:
		c.add(1, addMetadata, w.Metadata.Name, nonNil(w.Metadata.Bytes))
	case AddLog:
		c.add(anyRows, addLog, w.Digest[:], nonNil(w.Bytes))
	case AddUpdate:
		if w.Update.Result == "" {
			w.Update.Result = "open"
		}
		return c.insert(addUpdate, updateRow(&w.Update))
	case CloseUpdate:
		if w.Result == "" || w.Result == "open" {
			return fmt.Errorf("cannot close update of %s with result %q", w.Device, w.Result)
		}
		c.add(anyRows, closeUpdate, w.Device, w.Result, micros(w.At), digestArg(w.Evidence))
	case AddBaseline:
		return c.insert(addBaseline, baselineRow(&w.Baseline))
	case PutObservation:
		values, err := args(observationRow(&w.Observation))
		if err != nil {
			return err
		}
		c.add(1, putObservation, values...)
	case ConsumeChallenge:
		c.add(1, consumeChallenge, w.Digest[:], micros(w.Expires))
	case PutInventory:
		values, err := args(inventoryRow(&w.Entry))
		if err != nil {
			return err
		}
		c.add(1, putInventory, values...)
		return c.addresses(PutAddresses{
			Device: w.Entry.Device, Source: SourceInventory, Addresses: w.Entry.Addresses, MACs: w.Entry.MACs, At: w.Entry.At,
		})
	case RemoveInventory:
		c.add(anyRows, removeInventory, w.Device)
		c.add(anyRows, forgetAddresses, w.Device, SourceInventory)
	case PutAddresses:
		return c.addresses(w)
	case AddEnrollToken:
		unused, nobody := int64(0), ""
		return c.insert(addEnrollToken, append(enrollTokenRow(&w.Token), intCol(&unused), textCol(&nobody)))
	case UseEnrollToken:
		c.add(1, useEnrollToken, w.Hash[:], micros(w.At), w.Device)
	case RevokeTokens:
		c.add(anyRows, revokeTokens, w.Person, micros(w.At))
	case TouchBlob:
		c.add(1, touchBlob, w.SHA256[:], micros(w.At))
	case KeepBlob:
		c.add(1, keepBlob, w.SHA256[:], micros(w.Since), micros(w.At))
	case CondemnBlob:
		c.add(1, condemnBlob, w.SHA256[:], micros(w.Before), micros(w.At))
	case ForgetBlob:
		c.add(anyRows, forgetBlob, w.SHA256[:])
	case SettleOrder:
		c.add(1, settleOrder, w.ID, micros(w.Acked), micros(w.Verified), w.Detail, string(w.Waiting), string(w.Observed), micros(w.ObservedAt))
	case ReopenOrder:
		c.add(1, reopenOrder, w.ID, micros(w.Verified), w.Detail, string(w.Waiting), string(w.Observed), micros(w.ObservedAt))
	default:
		return fmt.Errorf("cannot commit a write of type %T", w)
	}
	return nil
}

// order adds an enforcement order and takes the device's older ones for the point out of the pending list.
func (c *compiled) order(o Order) error {
	if o.Device == "" || o.Point == "" || (o.Segment != fleet.Production && o.Segment != fleet.Restricted) {
		return fmt.Errorf("cannot order device %q into segment %q at point %q", o.Device, o.Segment, o.Point)
	}
	c.add(anyRows, supersedeOrders, o.Device, o.Point, o.Epoch)
	c.add(1, addOrder, o.Device, string(o.Segment), o.Epoch, o.Point, micros(o.At), o.Detail, o.Tightens)
	return nil
}

// addresses replaces what one source says about a device.
func (c *compiled) addresses(w PutAddresses) error {
	if w.Device == "" || w.Source != SourceInventory && w.Source != SourcePoll {
		return fmt.Errorf("cannot write addresses of device %q from source %q", w.Device, w.Source)
	}
	c.add(anyRows, forgetAddresses, w.Device, w.Source)
	for kind, list := range map[string][]string{KindIP: w.Addresses, KindMAC: w.MACs} {
		for _, address := range list {
			if address == "" {
				return fmt.Errorf("cannot write an empty address of device %s", w.Device)
			}
			if err := c.insert(addAddress, addressRow(&Address{Device: w.Device, Source: w.Source, Kind: kind, Address: address, At: w.At})); err != nil {
				return err
			}
		}
	}
	return nil
}

// validate refuses text that only one of the engines would take, and adds up the size.
func (c *compiled) validate() error {
	for _, s := range c.statements {
		for _, a := range s.args {
			switch a := a.(type) {
			case string:
				if !validText(a) {
					return errors.New("cannot commit text that is not UTF-8 or holds a zero byte")
				}
				c.size += len(a)
			case []byte:
				c.size += len(a)
			}
		}
	}
	for _, e := range c.events {
		if !validText(e.kind) || !validText(e.actor) || !validText(e.subject) {
			return fmt.Errorf("cannot commit event %q: its text is not UTF-8 or holds a zero byte", e.kind)
		}
	}
	return nil
}

func validText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// nonNil keeps an empty file apart from NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
