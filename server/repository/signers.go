package repository

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/audit"
	"github.com/cordon-ota/cordon/server/store"
)

// chunk is how many baselines, and how many events, one query is about.
const chunk = 500

// tellSigners names the signers of superseded baselines. They are not verified any more, and the policy of today may not know
// them: the audit log has their names from when they were taken in.
func (s *Service) tellSigners(ctx context.Context, all []api.Baseline) error {
	var subjects []string
	for _, b := range all {
		if b.State == api.BaselineSuperseded {
			subjects = append(subjects, b.Product+"/"+b.Profile)
		}
	}
	slices.Sort(subjects)
	signers := map[string][]string{}
	for some := range slices.Chunk(slices.Compact(subjects), chunk) {
		if err := s.addedBy(ctx, some, signers); err != nil {
			return err
		}
	}
	for i, b := range all {
		if b.State == api.BaselineSuperseded {
			all[i].Signers = signers[b.Product+"/"+b.Profile+" "+fmt.Sprint(b.Generation)]
		}
	}
	return nil
}

func (s *Service) addedBy(ctx context.Context, subjects []string, signers map[string][]string) error {
	f := store.EventFilter{Subjects: subjects, Types: []string{audit.BaselineAdded}}
	for after := int64(0); ; {
		events, err := s.store.Events(ctx, f, after, chunk)
		if err != nil {
			return fmt.Errorf("cannot read who signed baselines: %w", err)
		}
		for _, e := range events {
			after = e.Number
			data, err := audit.DataOf(e.Leaf)
			if err != nil {
				return fmt.Errorf("event %d: %w", e.Number, err)
			}
			var added struct {
				Generation uint64   `json:"generation"`
				Signers    []string `json:"signers"`
			}
			if json.Unmarshal(data, &added) == nil { // one whose data was too large for the log says nothing
				signers[e.Subject+" "+fmt.Sprint(added.Generation)] = added.Signers
			}
		}
		if len(events) < chunk {
			return nil
		}
	}
}
