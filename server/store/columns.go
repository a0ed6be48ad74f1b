package store

import (
	"fmt"
	"math"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// column ties one struct field to its column: arg is what a write binds, dest is where a read scans to. Both engines
// get the same Go types: string, int64, bool, []byte, nil.
type column struct {
	arg  any
	dest any
	err  error
}

func args(columns []column) ([]any, error) {
	out := make([]any, len(columns), len(columns)+2)
	for i, c := range columns {
		if c.err != nil {
			return nil, c.err
		}
		out[i] = c.arg
	}
	return out, nil
}

func dests(columns []column) []any {
	out := make([]any, len(columns))
	for i, c := range columns {
		out[i] = c.dest
	}
	return out
}

func textCol[T ~string](p *T) column { return column{arg: string(*p), dest: p} }

func boolCol(p *bool) column { return column{arg: *p, dest: p} }

func intCol[T int | int64](p *T) column { return column{arg: int64(*p), dest: p} }

func bytesCol(p *[]byte) column { return column{arg: blob(*p), dest: p} }

func uintCol(p *uint64) column { return column{arg: int64(*p), dest: uintDest{p}} }

func timeCol(p *time.Time) column { return column{arg: micros(*p), dest: timeDest{p}} }

func digestCol(p *digest.SHA256) column { return column{arg: digestArg(*p), dest: digestDest{p}} }

// optionalUintCol is NULL when there is no number.
func optionalUintCol(p **uint64) column {
	c := column{dest: optionalUintDest{p}}
	if *p != nil {
		c.arg = int64(**p)
	}
	return c
}

// jsonCol is NULL when the value is empty. Members that a newer build added are ignored when read.
func jsonCol[T any](p *T, empty bool) column {
	c := column{dest: jsonDest[T]{p}}
	if empty {
		return c
	}
	b, err := json.Marshal(*p, json.Deterministic(true))
	if err != nil {
		c.err = fmt.Errorf("cannot encode %T: %w", *p, err)
		return c
	}
	c.arg = b
	return c
}

// blob makes an empty slice NULL, so that both engines read back nil.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

func digestArg(d digest.SHA256) any {
	if d.IsZero() {
		return nil
	}
	return d[:]
}

// micros is 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// microsEnd is micros for the end of a period: the zero time leaves it open.
func microsEnd(t time.Time) int64 {
	if t.IsZero() {
		return math.MaxInt64
	}
	return t.UnixMicro()
}

type timeDest struct{ p *time.Time }

func (d timeDest) Scan(src any) error {
	v, ok := src.(int64)
	if !ok {
		return fmt.Errorf("cannot read time from %T", src)
	}
	*d.p = time.Time{}
	if v != 0 {
		*d.p = time.UnixMicro(v).UTC()
	}
	return nil
}

type uintDest struct{ p *uint64 }

func (d uintDest) Scan(src any) error {
	v, ok := src.(int64)
	if !ok {
		return fmt.Errorf("cannot read number from %T", src)
	}
	*d.p = uint64(v)
	return nil
}

type optionalUintDest struct{ p **uint64 }

func (d optionalUintDest) Scan(src any) error {
	if src == nil {
		*d.p = nil
		return nil
	}
	*d.p = new(uint64)
	return uintDest{*d.p}.Scan(src)
}

type digestDest struct{ p *digest.SHA256 }

func (d digestDest) Scan(src any) error {
	if src == nil {
		*d.p = digest.SHA256{}
		return nil
	}
	b, ok := src.([]byte)
	if !ok {
		return fmt.Errorf("cannot read digest from %T", src)
	}
	v, err := digest.FromBytes(b)
	if err != nil {
		return fmt.Errorf("cannot read digest: %w", err)
	}
	*d.p = v
	return nil
}

type jsonDest[T any] struct{ p *T }

func (d jsonDest[T]) Scan(src any) error {
	var v T
	switch b := src.(type) {
	case nil:
	case []byte:
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("cannot decode %T: %w", v, err)
		}
	default:
		return fmt.Errorf("cannot decode %T from %T", v, src)
	}
	*d.p = v
	return nil
}
