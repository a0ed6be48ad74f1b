// Package restore destroys real servers and makes new ones out of their backups, with devices in every state that go on by
// themselves.
//
// It promises to look at a device from outside: at the metadata that the agent has verified and kept. It refuses to stand
// in for the server or the agent. Nobody trusts it.
package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
)

// Versions reads the versions of all metadata that an agent keeps in its state directory, by the name of the file below
// it without its number.
func Versions(state string) (map[string]int64, error) {
	out := map[string]int64{}
	err := filepath.WalkDir(state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the agent has replaced it
		}
		if err != nil {
			return err
		}
		var doc struct {
			Signed struct {
				Type    string `json:"_type"`
				Version int64  `json:"version"`
			} `json:"signed"`
		}
		if err := json.Unmarshal(b, &doc); err != nil || doc.Signed.Type == "" {
			return nil // not metadata
		}
		name, err := filepath.Rel(state, path)
		if err != nil {
			return err
		}
		dir, base := filepath.Split(name)
		name = dir + strings.TrimLeft(base, "0123456789.")
		out[name] = max(out[name], doc.Signed.Version)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the agent's metadata: %w", err)
	}
	return out, nil
}
