package backup

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/cordon-ota/cordon/server/store"
)

// A table is one or more entries of rows, each row a JSON array with one value per column: null, a number, true or false,
// text, or the base64 of bytes.

// tables writes every table of the snapshot.
func (w *writer) tables(ctx context.Context, s *store.Snapshot, progress Progress) error {
	for _, shape := range s.Tables {
		t := Table{TableShape: shape}
		chunk, part := &bytes.Buffer{}, 0
		flush := func() error {
			part++
			err := w.add(fmt.Sprintf("%s%s/%08d", tablePrefix, t.Name, part), chunk.Bytes())
			chunk.Reset()
			return err
		}
		err := s.Rows(ctx, shape, func(row []any) error {
			if err := encodeRow(chunk, row); err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
			t.Rows++
			if chunk.Len() < chunkBytes {
				return nil
			}
			progress("rows of "+t.Name, t.Rows, 0)
			return flush()
		})
		if err == nil && chunk.Len() > 0 {
			err = flush()
		}
		if err != nil {
			return err
		}
		progress("rows of "+t.Name, t.Rows, t.Rows)
		w.manifest.Tables = append(w.manifest.Tables, t)
	}
	return nil
}

func encodeRow(b *bytes.Buffer, row []any) error {
	e := jsontext.NewEncoder(b)
	if err := e.WriteToken(jsontext.BeginArray); err != nil {
		return err
	}
	for _, v := range row {
		token := jsontext.Null
		switch v := v.(type) {
		case nil:
		case int64:
			token = jsontext.Int(v)
		case bool:
			token = jsontext.Bool(v)
		case string:
			token = jsontext.String(v)
		case []byte:
			token = jsontext.String(base64.StdEncoding.EncodeToString(v))
		default:
			return fmt.Errorf("a row holds a %T", v)
		}
		if err := e.WriteToken(token); err != nil {
			return err
		}
	}
	return e.WriteToken(jsontext.EndArray)
}

// decodeRows reads an entry of a table.
func decodeRows(data []byte, t store.TableShape, each func([]any) error) (rows int64, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(data))
	row := make([]any, len(t.Columns))
	for {
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		if token.Kind() != '[' {
			return rows, errors.New("a row is no array")
		}
		for i, c := range t.Columns {
			if row[i], err = decodeValue(d, c.Kind); err != nil {
				return rows, fmt.Errorf("column %s: %w", c.Name, err)
			}
		}
		if token, err = d.ReadToken(); err != nil || token.Kind() != ']' {
			return rows, errors.Join(errors.New("a row has more values than the table has columns"), err)
		}
		if err := each(row); err != nil {
			return rows, err
		}
		rows++
	}
}

func decodeValue(d *jsontext.Decoder, kind store.Kind) (any, error) {
	token, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch k := token.Kind(); {
	case k == 'n':
		return nil, nil
	case k == '0' && kind == store.KindInt:
		return parseInt(token)
	case (k == 't' || k == 'f') && kind == store.KindBool:
		return token.Bool(), nil
	case k == '"' && kind == store.KindText:
		return token.String(), nil
	case k == '"' && kind == store.KindBytes:
		return base64.StdEncoding.Strict().DecodeString(token.String())
	}
	return nil, fmt.Errorf("%s is no value of kind %s", token.Kind(), kind)
}

func parseInt(token jsontext.Token) (n int64, err error) {
	if n, err = strconv.ParseInt(token.String(), 10, 64); err != nil {
		return 0, fmt.Errorf("%.40q is no integer", token.String())
	}
	return n, nil
}

// tableOf takes tables/<name>/<part> apart.
func tableOf(entry string) (string, bool) {
	rest, ok := strings.CutPrefix(entry, tablePrefix)
	if !ok {
		return "", false
	}
	name, _, ok := strings.Cut(rest, "/")
	return name, ok
}
