package appraise

import (
	"github.com/cordon-ota/cordon/artifacts"
)

// After a restore the server has forgotten what happened since the backup: releases that it published, and what it offered.
// That is a fault of ours, and no device is quarantined for it.

// unknownSinceRestore says that the device has proven nothing since the server was restored.
func (t *turn) unknownSinceRestore() bool {
	return !t.s.set.RestoredAt.IsZero() && t.d.ProvenAt.Before(t.s.set.RestoredAt)
}

// lost says that the device may run a release that the restored server does not know: it names one, or its counter is
// above every release that is known. Its Evidence is not judged then: a good device would look like a compromised one. It
// proves nothing either, so it gets nothing, and it is restricted when its grace ends.
func (t *turn) lost() bool {
	if !t.unknownSinceRestore() {
		return false
	}
	var newest uint64
	for _, r := range t.product.Releases {
		newest = max(newest, r.Statement.Predicate.Counter)
	}
	if c := t.claims.Counter; c != nil && c.Value > newest {
		return true
	}
	for _, installed := range t.claims.Components {
		if installed.Product != t.product.Name || installed.Version == "" {
			continue
		}
		if _, known := t.product.Release(artifacts.ReleaseName(installed.Product, installed.Version)); !known {
			return true
		}
	}
	if b := t.claims.Boot; b != nil && b.Version != "" {
		if _, known := t.product.Release(b.Version); !known {
			return true
		}
	}
	return false
}
