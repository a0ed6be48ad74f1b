package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
)

// print writes v as one JSON document, or lets people read it.
func (a *app) print(v any, people func(w io.Writer) error) error {
	if a.json {
		b, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
		if err != nil {
			return fmt.Errorf("cannot encode: %w", err)
		}
		_, err = os.Stdout.Write(append(b, '\n'))
		return err
	}
	return people(os.Stdout)
}

// note tells people on stderr what happened; stdout is for data.
func note(format string, args ...any) {
	fmt.Fprintln(os.Stderr, plain(fmt.Sprintf(format, args...)))
}

// table lines columns up; its cells are made plain, since some come from devices.
func table(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			cells[i] = plain(cell)
		}
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// facts prints name and value per line and leaves empty ones out.
func facts(w io.Writer, pairs ...string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], plain(pairs[i+1]))
		}
	}
	t.Flush()
}

// plain keeps what devices and servers say from moving the reader's cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

func when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func moment(t time.Time) string { return when(&t) }

func words[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, " ")
}

// explain says what a reason means.
func explain(r reason.Reason) string {
	row, ok := reason.Lookup(r)
	if !ok {
		return string(r)
	}
	return fmt.Sprintf("%s (%s)", row.Title, r)
}

// all reads a list to its end.
func all[T any](ctx context.Context, list func(ctx context.Context, after string) (api.Page[T], error)) ([]T, error) {
	return gather(api.All(ctx, list))
}

func gather[T any](seq iter.Seq2[T, error]) ([]T, error) {
	out := []T{}
	for item, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, item)
	}
	return out, nil
}
